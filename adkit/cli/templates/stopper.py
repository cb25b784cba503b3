"""mine: keep the state in which held-out normal images have the lowest mean score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adkit.plugin import Component, Context, Look, Params, Stopper, UserError, Verdict, hookimpl
from pydantic import Field


class MineParams(Params):
    patience: int = Field(3, ge=1, description="checks without a lower score after which training stops")
    share: float = Field(0.2, gt=0, lt=1, description="share of the normal images that is held out")


class MineStopper(Stopper[MineParams]):
    """Judges by the adapter's own score of normal images that it does not train on."""

    def __init__(self, params: MineParams, context: Context) -> None:
        super().__init__(params, context)
        self.validation = params.share
        self._best, self._waited = math.inf, 0

    def check(self, look: Look) -> Verdict:
        scores = [look.adapter.score(look.extractor(batch.images)) for batch in look.held_out]
        count = sum(len(one) for one in scores)
        if not count:
            raise UserError("stopper.share: expected a share that leaves an image to judge by, found none: raise it")
        value = float(sum(one.sum() for one in scores)) / count
        lower = value < self._best
        self._best, self._waited = (value, 0) if lower else (self._best, self._waited + 1)
        reason = f"mean held-out score {value:.4g}" + ("" if lower else f", not below {self._best:.4g}")
        return Verdict(keep=lower, stop=self._waited >= self.params.patience, reason=reason, value=value)

    def state_dict(self) -> dict[str, float]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._best, self._waited = state["best"], int(state["waited"])


@hookimpl
def adkit_stoppers() -> list[Component[Any]]:
    return [Component.stopper("mine", MineParams, MineStopper)]
