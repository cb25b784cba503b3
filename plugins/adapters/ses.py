"""ses: draw the features together as panda does, and let each picture choose among the states along the way.

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1, section 3.2 (PANDA-SES) and supplement 2.1.
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
from adkit.contracts import Fuse
from adkit.tuning import BLOCKS, Blocks, tuned


class SesParams(Params):
    blocks: Blocks = Field(2, description=BLOCKS)


class Ses:
    """Sample-wise early stopping: every ``snapshot_epochs`` a state is kept, and all of them become the detector.

    Each state scores a picture; the picture's score is the largest of these over what that state typically gives a
    normal picture. So a state that has collapsed does not matter to a picture that an earlier one tells apart.
    """

    schedule = replace(SCHEDULE, minibatches=4688)  # 150,000 pictures, some of them again and again
    fuse: Fuse = "max_ratio"

    def __init__(self, params: SesParams, context: Context) -> None:
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
    return [Component("ses", "adapter", SesParams, Ses)]
