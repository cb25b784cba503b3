"""Localizer ``idw``: each pixel is the mean of the cells around it, weighted by the inverse of a power of the distance.

Source: Bartier and Keller, Multivariate interpolation to incorporate thematic surface data using inverse distance
weighting (Computers & Geosciences 1996), as Wang et al., Glancing at the Patch (CVPR 2021), supplement C.1, use it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit.plugin import Component, Localizer, Params, Scores, hookimpl
from adkit.toolkit.resample import centers_of, pixel_centers
from adkit.toolkit.scoring import require_maps

WEIGHTS = 1 << 24
"""The largest number of weights (pixels times cells) that are held at a time: 64 MiB."""
NEAREST = 1e-6
"""The least squared distance in pixels² between a pixel and a cell: a pixel in a cell's center takes its value."""


class IdwParams(Params):
    power: float = Field(5.0, gt=0, le=64, description="power p of the distance: a cell weighs 1 / d^p")
    neighbors: int = Field(0, ge=0, le=4096, description="nearest cells that a pixel is the mean of; 0: all of them")
    reduce: Literal["mean", "sum"] = Field("mean", description="how the maps of several levels become one")


class Idw(Localizer[IdwParams]):
    """A localizer by inverse distance weighting, of cells wherever they lie: v = Σ v_k / d_k^p / Σ 1 / d_k^p."""

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) float32: one map per image, of ``size`` (height, width), whatever the input's size.

        Raises:
            UserError: the scores have no map.
        """
        require_maps("idw", scores)
        drawn = [self._drawn(scores, name, size) for name in scores.maps]
        total = torch.stack(drawn).sum(0) if len(drawn) > 1 else drawn[0]
        return total / len(drawn) if self.params.reduce == "mean" else total

    def _drawn(self, scores: Scores, name: str, size: tuple[int, int]) -> Tensor:
        """(n, height, width): the map of one level."""
        cells, geometry = scores.maps[name], scores.geometry[name]
        rows, columns = (
            self._squares(centers_of(geometry, axis, cells.shape[1 + axis], cells.device), axis, size)
            for axis in (0, 1)
        )  # (H, h) and (W, w) squared distances along each axis
        values = cells.flatten(1)  # (n, h·w)
        step = max(1, WEIGHTS // (size[1] * values.shape[1]))
        parts = [values @ self._weights(part, columns).mT for part in torch.split(rows, step)]  # (n, step · W)
        return torch.cat(parts, dim=1).reshape(-1, *size)

    def _squares(self, centers: Tensor, axis: int, size: tuple[int, int]) -> Tensor:
        positions = pixel_centers(size[axis], centers.device) * (self.context.image_size[axis] / size[axis])
        return (positions[:, None] - centers).square()

    def _weights(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(pixels, cells): the weights of all cells for the pixels of some rows, which sum to 1 for each pixel.

        They are taken relative to the nearest cell's, so that no power of a distance is beyond what float32 holds.
        """
        squares = rows[:, None, :, None] + columns[:, None]  # (some of H, W, h, w)
        squares = squares.flatten(2).flatten(0, 1).clamp(min=NEAREST)
        nearest = squares.amin(1, keepdim=True)
        weights = (nearest / squares) ** (self.params.power / 2)
        count = squares.shape[1]
        if 0 < self.params.neighbors < count:
            # Of cells that are equally far, those that come first: sorted, as other runtimes break ties elsewhere.
            order = squares.sort(dim=1, stable=True).indices[:, self.params.neighbors :]
            weights = weights.scatter(1, order, 0.0)
        return weights / weights.sum(1, keepdim=True)


@hookimpl
def adkit_localizers() -> list[Component[Any]]:
    return [Component.localizer("idw", IdwParams, Idw)]
