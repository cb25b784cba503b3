"""mine: how many standard deviations each cell is from the mean of the normal ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from adkit.plugin import (
    Component,
    Context,
    Features,
    Level,
    NotFittedError,
    Params,
    Scorer,
    Scores,
    Stream,
    UserError,
    hookimpl,
)
from adkit.toolkit.scoring import Aggregation, checked_state, fitted_levels, foreign_state, scores_of
from pydantic import Field
from torch import Tensor


class MineParams(Params):
    aggregation: Aggregation = Field("max", description="how the map of a level becomes the score of the image")
    least: float = Field(1e-6, gt=0, description="smallest variance of a channel, below which it is taken for this")


class MineScorer(Scorer[MineParams]):
    """Scores a cell by the root mean square, over channels, of its deviations in units of the normal ones."""

    def __init__(self, params: MineParams, context: Context) -> None:
        super().__init__(params, context)
        self._moments: dict[str, Tensor] = {}  # level → (2, c) float32: the mean and the variance of each channel

    def fit(self, stream: Stream) -> None:
        # Sums, so that no features need be kept; in float64, since they are of very many cells.
        sums = {name: torch.zeros(2, level.channels, dtype=torch.float64) for name, level in stream.levels.items()}
        counts = dict.fromkeys(sums, 0)
        for features in stream:
            for name, level in features.items():
                cells = level.flatten(0, 2).cpu().double()  # (n, h, w, c) → (n·h·w, c)
                counts[name] += len(cells)
                sums[name] += torch.stack([cells.sum(0), cells.square().sum(0)])
        if not all(counts.values()):
            raise UserError("data: expected normal images to fit mine on, found none: add some")
        self._moments = {}
        for name, total in sums.items():
            mean, square = total / counts[name]
            variance = (square - mean.square()).clamp_min(self.params.least)
            self._moments[name] = torch.stack([mean, variance]).float().to(self.context.device)

    def score(self, features: Features) -> Scores:
        if not self._moments:
            raise NotFittedError("mine")
        maps = {}
        for name in fitted_levels(self._moments, features):
            mean, variance = self._moments[name]
            maps[name] = ((features[name] - mean).square() / variance).mean(3).sqrt()  # (n, h, w)
        return scores_of(maps, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"moments.{name}": moments for name, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        found = checked_state("mine", state, {"moments.*": 2})
        for name, moments in found.items():
            if len(moments) != 2:
                raise foreign_state("mine", name, "a mean and a variance", f"{len(moments)} rows")
        self._moments = {name.removeprefix("moments."): moments for name, moments in found.items()}

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        return sum(2 * 4 * level.channels for level in levels.values())


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("mine", MineParams, MineScorer)]
