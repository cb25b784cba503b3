"""mine: every pixel takes the score of the cell whose center is nearest; the mean over levels."""

from __future__ import annotations

from typing import Any

import torch
from adkit.plugin import Component, Localizer, Params, Scores, hookimpl
from adkit.toolkit.resample import gaussian_smooth, pixel_centers
from pydantic import Field
from torch import Tensor


class MineParams(Params):
    smoothing: float = Field(4.0, ge=0, description="standard deviation of the Gaussian, in pixels; 0: none")


class MineLocalizer(Localizer[MineParams]):
    """Enlarges the map of each level without interpolation, takes their mean, and smooths it."""

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        drawn = []
        for name, cells in scores.maps.items():  # (n, h, w), in the scorer's raw unit
            geometry = scores.geometry[name]
            rows, columns = (
                nearest(geometry.start[axis], geometry.step[axis], cells.shape[1 + axis], size[axis], cells.device)
                for axis in (0, 1)
            )
            drawn.append(cells[:, rows][:, :, columns])
        mean = torch.stack(drawn).mean(0)
        return gaussian_smooth(mean, self.params.smoothing) if self.params.smoothing else mean


def nearest(start: float, step: float, cells: int, size: int, device: torch.device) -> Tensor:
    """(size,) int64: the cell whose center is nearest to each pixel along one axis."""
    places = (pixel_centers(size, device) - start) / step
    return places.round().long().clamp(0, cells - 1)


@hookimpl
def adkit_localizers() -> list[Component[Any]]:
    return [Component.localizer("mine", MineParams, MineLocalizer)]
