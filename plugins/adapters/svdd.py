"""svdd: draw the features together around where their center was at first.

Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), equation 1
and section 4.2; the objective is Ruff et al., Deep One-Class Classification (ICML 2018).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from adkit.plugin import (
    Batch,
    Component,
    Context,
    Extractor,
    Features,
    ImageStream,
    Params,
    Schedule,
    Scorer,
    Scores,
    hookimpl,
)
from adkit.toolkit.blocks import BLOCKS, Blocks, BlocksAdapter, mean_terms
from adkit.toolkit.centers import Centers, Distance, distances, fit_centers
from adkit.toolkit.scoring import Aggregation, scores_of


class SvddParams(Params):
    distance: Distance = Field("l1", description="distance to the center")
    centers: Centers = Field("location", description="one center per location, or one for all locations of a level")
    aggregation: Aggregation = Field("mean", description="how the distances at a level's locations become one")
    blocks: Blocks = Field("all", description=BLOCKS)


class Svdd(BlocksAdapter):
    """Minimizes the mean distance to centers, those of ψ₀, over images and levels; decay of the weights beside it.

    Equation 1 speaks of one vector per image. Of a level we take all locations together as that vector, so that its
    center is a mean per location, and divide its L1 distance by the number of locations, so that no level counts for
    more because its grid is larger. The paper gives no λ; 1e-6 is that of Deep SVDD.
    """

    schedule = Schedule(optimizer="adam", learning_rate=1e-6, weight_decay=1e-6, batch_size=8, epochs=250)

    def __init__(self, params: SvddParams, context: Context) -> None:
        self.params: SvddParams = params
        self._centers: dict[str, Tensor]

    def prepare(
        self, extractor: Extractor, normal: ImageStream, auxiliary: ImageStream | None, scorer: Scorer | None
    ) -> None:
        self._centers = fit_centers(normal.levels, normal, self.params.centers)
        self._parameters = self.trained(extractor)

    def loss(self, extractor: Extractor, batch: Batch, features: Features) -> dict[str, Tensor]:
        return mean_terms(self._scores(features).levels)

    def score(self, features: Features) -> Tensor:
        return self._scores(features).image

    def _scores(self, features: Features) -> Scores:
        maps = {name: distances(features[name], center, self.params.distance) for name, center in self._centers.items()}
        return scores_of(maps, features.geometry, self.params.aggregation)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component("svdd", "adapter", SvddParams, Svdd)]
