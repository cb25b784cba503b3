"""glance: how far what a patch shows is from what its surroundings lead one to expect.

Source: Wang et al., Glancing at the Patch: Anomaly Localization with Global and Local Feature Comparison (CVPR 2021),
supplement C.1 and D.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
    hookimpl,
)
from adkit.toolkit.scoring import Aggregation, checked_state, foreign_state, require_some, scores_of

LEVELS = ("local", "global", "mismatch")


class GlanceParams(Params):
    lambda_s: float = Field(
        0.8,
        ge=0,
        le=1,
        description="weight λ_s of ‖local − global‖²; that of the probability of mismatch is 1 − λ_s",
    )
    unit: Literal["raw", "normal"] = Field(
        "raw",
        description="unit of ‖local − global‖². raw: that of the features; normal: its mean over normal images, so "
        "that the weight does not depend on how large features are",
    )
    aggregation: Aggregation = Field("max", description="how the map becomes the image's score")


class Glance(Scorer[GlanceParams]):
    """A scorer by s = λ_s · ‖local − global‖² + (1 − λ_s) · P(mismatch) for each patch.

    It reads the levels of extractor ``glance``. Where only one of the two terms counts, the other's levels are not
    needed.
    """

    def __init__(self, params: GlanceParams, context: Context) -> None:
        super().__init__(params, context)
        self._unit: Tensor | None = None  # (1,) what ‖local − global‖² is divided by

    def fit(self, stream: Stream) -> None:
        self.require(stream.levels, stream.count)
        total, count = torch.zeros((), dtype=torch.float64), 0
        if self.params.unit == "normal" and self.params.lambda_s > 0:
            for features in stream:
                squares = _squares(features)
                total += squares.sum(dtype=torch.float64).cpu()
                count += squares.numel()
            require_some(count)
        unit = total / count if count and total > 0 else torch.ones(())
        self._unit = unit.float().reshape(1).to(self.context.device)

    def score(self, features: Features) -> Scores:
        if self._unit is None:
            raise NotFittedError("glance")
        weight, terms = self.params.lambda_s, []
        if weight > 0:
            terms.append(weight * (_squares(features) / self._unit))
        if weight < 1:
            terms.append((1 - weight) * features["mismatch"][..., 0])
        total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        read = "mismatch" if "mismatch" in features else "local"
        return scores_of({read: total}, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._unit is None else {"unit": self._unit}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        unit = checked_state("glance", state, {"unit": 1})["unit"]
        if unit.shape != (1,) or not unit > 0:
            raise foreign_state("glance", "unit", "one number above 0", unit.tolist())
        self._unit = unit.to(self.context.device)

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        return 8 + 4  # a float64 sum and a float32 unit

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        weight = self.params.lambda_s
        needed = LEVELS[:2] * (weight > 0) + LEVELS[2:] * (weight < 1)
        missing = [name for name in needed if name not in levels]
        if missing:
            raise UserError(
                f"scorer.use: glance reads the levels {', '.join(needed)}, and {', '.join(missing)} is not among "
                f'{", ".join(levels)}: use it with extractor glance, [features] combine = "none", and all of its levels'
            )


def _squares(features: Features) -> Tensor:
    """(n, h, w): ‖local − global‖² of each cell."""
    return (features["local"] - features["global"]).square().sum(3)


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("glance", GlanceParams, Glance)]
