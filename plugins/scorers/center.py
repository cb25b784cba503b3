"""center: the distance to the mean of the normal features.

Source: Reiss et al., PANDA (CVPR 2021), section 4.3.3: ‖ψ(x) − c‖². With ``l1`` it is what Deep SVDD minimizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

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
    hookimpl,
)
from adkit.toolkit.centers import Centers, Distance, distances, fit_centers
from adkit.toolkit.scoring import Aggregation, checked_state, fitted_levels, require_some, scores_of


class CenterParams(Params):
    metric: Distance = Field("squared_l2", description="distance between a feature and its center")
    centers: Centers = Field(
        "level",
        description="level: one center per level, so that it does not matter where a part lies; location: one center "
        "per location",
    )
    aggregation: Aggregation = Field("max", description="how a level's map becomes the image's score")


class Center(Scorer[CenterParams]):
    """A scorer by the distance to the mean over all images and, with ``centers = "level"``, over all locations."""

    def __init__(self, params: CenterParams, context: Context) -> None:
        super().__init__(params, context)
        self._centers: dict[str, Tensor] = {}

    def fit(self, stream: Stream) -> None:
        self._centers = fit_centers(stream.levels, stream, self.params.centers)
        require_some(self._centers)

    def score(self, features: Features) -> Scores:
        if not self._centers:
            raise NotFittedError("center")
        levels = fitted_levels(self._centers, features)
        maps = {name: distances(features[name], self._centers[name], self.params.metric) for name in levels}
        return scores_of(maps, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"center.{name}": center for name, center in self._centers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        centers = checked_state("center", state, {"center.*": 1 if self.params.centers == "level" else 3})
        device = self.context.device
        self._centers = {name.removeprefix("center."): center.to(device) for name, center in centers.items()}

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The float64 sums and the float32 centers of all levels, and the float64 means of one of them."""
        cells = [prod(level.grid) if self.params.centers == "location" else 1 for level in levels.values()]
        values = [count * level.channels for count, level in zip(cells, levels.values(), strict=True)]
        return 12 * sum(values) + 8 * max(values)


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("center", CenterParams, Center)]
