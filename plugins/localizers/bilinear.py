"""Localizer ``bilinear``: enlarge each level's map bilinearly, average the maps, and smooth the result."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit.plugin import Component, Localizer, Params, Scores, hookimpl
from adkit.toolkit.resample import apply_separably, enlarging_matrix, gaussian_matrix, pixel_centers
from adkit.toolkit.scoring import require_maps


class BilinearParams(Params):
    smoothing: float = Field(
        default=4.0, ge=0, le=64, description="sigma in pixels of the Gaussian that smooths the map; 0: no smoothing"
    )
    reduce: Literal["mean", "sum"] = Field(default="mean", description="how the maps of several levels become one")


class Bilinear(Localizer[BilinearParams]):
    """A localizer that enlarges maps bilinearly, averages or sums them, and smooths the result.

    Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), section
    3, who average and do not smooth; Reiss et al., PANDA (CVPR 2021), supplement 2.3, who add and smooth.
    """

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) float32: one map per image, of ``size`` (height, width), whatever the input's size.

        Raises:
            UserError: the scores have no map.
        """
        require_maps("bilinear", scores)
        total: Tensor | None = None
        for name, cells in scores.maps.items():
            along = [self._matrix(scores, name, axis, size[axis], cells.device) for axis in (0, 1)]
            enlarged = apply_separably(cells, along[0], along[1])  # (n, H, W)
            total = enlarged if total is None else total.add_(enlarged)
        assert total is not None
        return total / len(scores.maps) if self.params.reduce == "mean" else total

    def _matrix(self, scores: Scores, name: str, axis: int, size: int, device: torch.device) -> Tensor:
        """(size, cells): the matrix that enlarges and smooths along one axis, both of which are linear."""
        geometry, cells = scores.geometry[name], scores.maps[name].shape[1 + axis]
        positions = pixel_centers(size, device) * (self.context.image_size[axis] / size)
        enlarge = enlarging_matrix(geometry, axis, cells, positions)
        return gaussian_matrix(size, self.params.smoothing, device) @ enlarge  # (size, cells)


@hookimpl
def adkit_localizers() -> list[Component[BilinearParams]]:
    return [Component.localizer("bilinear", BilinearParams, Bilinear)]
