"""mahalanobis: move the features towards the distribution that the scorer was fitted on (Gaussian fine-tuning).

Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), equation 5
and section 4.2.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit.plugin import Component, Features, Schedule, Scorer, See, Step, UserError, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, BlocksAdapter, TunesBlocks, mean_terms
from adkit.toolkit.scoring import Aggregation, aggregated


class MahalanobisParams(TunesBlocks):
    blocks: Blocks = Field("all", description=BLOCKS)
    aggregation: Literal["scorer"] | Aggregation = Field(
        "scorer",
        description="how a level's map becomes what is minimized; scorer: as it becomes the score; another value: one "
        "aggregation to train by and another to score by",
    )


class Mahalanobis(BlocksAdapter[MahalanobisParams]):
    """An adapter that minimizes the mean score of the scorer, which was fitted before training and stays unchanged.

    With the scorer ``gaussian``, which aggregates by ``max``, that is equation 5; any scorer with a
    differentiable score can be used. The equation is a sum over images and levels, of which this is the mean.
    """

    schedule = Schedule(optimizer="adam", learning_rate=1e-6, batch_size=8, epochs=250)
    needs_scorer = True

    _scorer: Scorer

    def prepare(self, see: See) -> None:
        if see.scorer is None:
            raise ValueError("scorer: expected one that is fitted on the normal images, found none")
        _check_differentiable(see.scorer, next(iter(see.normal)))
        self._scorer = see.scorer

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        return mean_terms(self._levels(features))

    def score(self, features: Features) -> Tensor:
        return torch.stack(list(self._levels(features).values())).mean(0)

    def _levels(self, features: Features) -> dict[str, Tensor]:
        """Level → (n,) what is minimized of it; the scorer's own score where it tells no levels apart."""
        scores = self._scorer.score(features)
        levels = dict(scores.levels) or {"score": scores.image}
        if self.params.aggregation == "scorer":
            return levels
        # A level of one cell has no map, and one value whatever it is aggregated by.
        return levels | {n: aggregated(scores.maps[n], self.params.aggregation) for n in levels if n in scores.maps}


def _check_differentiable(scorer: Scorer, features: Features) -> None:
    with torch.enable_grad():
        levels = {name: values[:1].clone().requires_grad_() for name, values in features.items()}
        if not scorer.score(Features(levels, features.geometry)).image.requires_grad:
            raise UserError(
                "scorer.use: expected a scorer whose score adapter mahalanobis can minimize, one that is "
                "differentiable, found one that is not: use gaussian, or another adapter"
            )


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("mahalanobis", MahalanobisParams, Mahalanobis)]
