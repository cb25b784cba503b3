"""center: the distance to the mean of the normal features.

Source: Reiss et al., PANDA (CVPR 2021), section 4.3.3: ‖ψ(x) − c‖².
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit import Component, Context, Features, Level, NotFittedError, Params, Scores, Stream, UserError, hookimpl
from adkit.scoring import Aggregation, checked_state, fitted_levels, reduce_maps, spatial


class CenterParams(Params):
    metric: Literal["squared_l2", "l2"] = Field("squared_l2", description="distance to the centre")
    aggregation: Aggregation = Field("max", description="how a level's map becomes the picture's score")


class Center:
    """One centre a level: the mean over all pictures and locations, so where a part lies does not matter."""

    def __init__(self, params: CenterParams, context: Context) -> None:
        self.params = params
        self.context = context
        self._centers: dict[str, Tensor] = {}

    def fit(self, stream: Stream) -> None:
        self._centers = {}
        # On the CPU, because MPS has no float64.
        levels = stream.levels
        sums = {name: torch.zeros(levels[name].channels, dtype=torch.float64) for name in levels}
        pictures = 0
        for features in stream:
            pictures += features.pictures
            for name, values in features.items():
                sums[name] += values.cpu().double().sum((0, 1, 2))
        if not pictures:
            raise UserError("scorer: expected at least 1 normal picture, found none: check the training data")
        for name, level in levels.items():
            mean = sums[name] / (pictures * level.grid[0] * level.grid[1])
            self._centers[name] = mean.float().to(self.context.device)

    def score(self, features: Features) -> Scores:
        if not self._centers:
            raise NotFittedError("center")
        levels = fitted_levels(self._centers, features)
        maps = {name: self._distances(features[name], self._centers[name]) for name in levels}
        return Scores(reduce_maps(maps, self.params.aggregation), *spatial(maps, features.geometry))

    def state_dict(self) -> dict[str, Tensor]:
        return {f"center.{name}": center for name, center in self._centers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        centers = checked_state("center", state, {"center.*": 1})
        device = self.context.device
        self._centers = {name.removeprefix("center."): center.to(device) for name, center in centers.items()}

    def memory(self, levels: Mapping[str, Level], pictures: int) -> int:
        return sum(4 * level.channels for level in levels.values())

    def _distances(self, values: Tensor, center: Tensor) -> Tensor:
        squared = (values - center).square_().sum(3)  # (n, h, w, c) → (n, h, w)
        return squared.sqrt() if self.params.metric == "l2" else squared


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component("center", "scorer", CenterParams, Center)]
