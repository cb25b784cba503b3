"""mine: every pixel takes the score of the cell whose center is nearest; the mean over levels."""

from __future__ import annotations

from typing import Any

import torch
from adkit.plugin import Component, Localizer, Params, Scores, hookimpl
from adkit.toolkit.resample import centers_of, gaussian_smooth, pixel_centers
from pydantic import Field
from torch import Tensor


class MineParams(Params):
    smoothing: float = Field(4.0, ge=0, description="standard deviation of the Gaussian, in pixels; 0: none")


class MineLocalizer(Localizer[MineParams]):
    """Enlarges the map of each level without interpolation, takes their mean, and smooths it."""

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        drawn = []
        for name, cells in scores.maps.items():  # (n, h, w), in the scorer's raw unit
            rows, columns = (
                nearest(centers_of(scores.geometry[name], axis, cells.shape[1 + axis], cells.device), size[axis])
                for axis in (0, 1)
            )
            drawn.append(cells[:, rows][:, :, columns])
        mean = torch.stack(drawn).mean(0)
        return gaussian_smooth(mean, self.params.smoothing) if self.params.smoothing else mean


def nearest(centers: Tensor, size: int) -> Tensor:
    """(size,) int64: the cell whose center is nearest to each pixel along one axis."""
    return (pixel_centers(size, centers.device)[:, None] - centers).abs().argmin(1)


@hookimpl
def adkit_localizers() -> list[Component[Any]]:
    return [Component.localizer("mine", MineParams, MineLocalizer)]
