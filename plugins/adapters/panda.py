"""panda: draw the features together around their first mean, and stop before they collapse.

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1, section 3.2 (PANDA-Early) and supplement 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from adkit import (
    Batch,
    Component,
    Context,
    Extractor,
    Features,
    Group,
    Params,
    PictureStream,
    Scorer,
    Stage,
    hookimpl,
)
from adkit.compactness import SCHEDULE, Compactness
from adkit.tuning import BLOCKS, Blocks, tuned


class PandaParams(Params):
    blocks: Blocks = Field(2, description=BLOCKS)


class Panda:
    """Minimizes the mean squared distance to the mean of ψ₀ for a fixed number of minibatches."""

    schedule = replace(SCHEDULE, minibatches=2300)

    def __init__(self, params: PandaParams, context: Context) -> None:
        self.params = params
        self._compactness: Compactness
        self._parameters: list[nn.Parameter]

    def prepare(
        self, extractor: Extractor, normal: PictureStream, auxiliary: PictureStream | None, scorer: Scorer | None
    ) -> None:
        self._compactness = Compactness(normal)
        self._parameters = self.trained(extractor)

    def trained(self, extractor: Extractor) -> list[nn.Parameter]:
        return tuned(extractor, self.params.blocks)

    def stages(self) -> Sequence[Stage]:
        return [Stage([Group(self._parameters)])]

    def loss(self, extractor: Extractor, batch: Batch, features: Features) -> dict[str, Tensor]:
        return self._compactness.terms(features)

    def score(self, features: Features) -> Tensor:
        return self._compactness.score(features)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component("panda", "adapter", PandaParams, Panda)]
