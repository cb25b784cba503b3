"""svdd: draw the normal features together around the centers that they had before training (Deep SVDD).

Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), equation 1
and section 4.2; the objective is Ruff et al., Deep One-Class Classification (ICML 2018).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from adkit.plugin import Component, Features, Schedule, Scores, See, Step, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, BlocksAdapter, TunesBlocks, mean_terms
from adkit.toolkit.centers import Centers, Distance, distances, fit_centers
from adkit.toolkit.scoring import Aggregation, scores_of


class SvddParams(TunesBlocks):
    distance: Distance = Field("l1", description="distance between a feature and its center")
    centers: Centers = Field(
        "location", description="location: one center per location of a level; level: one for all of its locations"
    )
    aggregation: Aggregation = Field("mean", description="how the distances at a level's locations become one")
    blocks: Blocks = Field("all", description=BLOCKS)


class Svdd(BlocksAdapter[SvddParams]):
    """The adapter of Deep SVDD, which minimizes the mean distance to the centers of ψ₀, with weight decay.

    Equation 1 is for one vector per image. Here all locations of a level together are that vector, so that its center
    is a mean per location, and its L1 distance is divided by the number of locations, so that no level counts for more
    because its grid is larger. The paper gives no λ; 1e-6 is that of Deep SVDD.
    """

    schedule = Schedule(optimizer="adam", learning_rate=1e-6, weight_decay=1e-6, batch_size=8, epochs=250)

    _centers: dict[str, Tensor]

    def prepare(self, see: See) -> None:
        self._centers = fit_centers(see.normal.levels, see.normal, self.params.centers)

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        return mean_terms(self._scores(features).levels)

    def score(self, features: Features) -> Tensor:
        return self._scores(features).image

    def _scores(self, features: Features) -> Scores:
        maps = {name: distances(features[name], center, self.params.distance) for name, center in self._centers.items()}
        return scores_of(maps, features.geometry, self.params.aggregation)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("svdd", SvddParams, Svdd)]
