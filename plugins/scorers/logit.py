"""logit: levels that are scores already, such as those of an adapter's own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

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
    counted,
    hookimpl,
)
from adkit.toolkit.scoring import Aggregation, checked_state, fitted_levels, foreign_state, scores_of


class LogitParams(Params):
    aggregation: Aggregation = Field("max", description="how a level's map becomes the image's score")


class Logit(Scorer[LogitParams]):
    """A scorer whose scores are the levels of one channel; nothing is learned, the state says which levels they are."""

    def __init__(self, params: LogitParams, context: Context) -> None:
        super().__init__(params, context)
        self._grids: dict[str, Tensor] = {}  # level name → its (height, width)

    def fit(self, stream: Stream) -> None:
        levels = stream.levels
        self._grids = {name: torch.tensor(levels[name].grid).float() for name in _single(levels)}

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        _single(levels)

    def score(self, features: Features) -> Scores:
        if not self._grids:
            raise NotFittedError("logit")
        maps = {name: features[name][..., 0] for name in fitted_levels(self._grids, features)}
        return scores_of(maps, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"grid.{name}": grid for name, grid in self._grids.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        grids = checked_state("logit", state, {"grid.*": 1})
        for name, grid in grids.items():
            if grid.shape != (2,):
                raise foreign_state("logit", name, "a height and a width", counted(len(grid), "value"))
        self._grids = {name.removeprefix("grid."): grid for name, grid in grids.items()}

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        return 0


def _single(levels: Mapping[str, Level]) -> list[str]:
    """The levels of one channel; raises UserError where there is none."""
    single = [name for name, level in levels.items() if level.channels == 1]
    if not single:
        raise UserError(
            f"scorer.use: logit reads levels of one channel, and there are none among {', '.join(levels)}: use it "
            "with an adapter that adds one, such as fcdd, or use another scorer"
        )
    return single


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("logit", LogitParams, Logit)]
