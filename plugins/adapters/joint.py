"""joint: draw the normal features together, while the pretrained classifier must still recognize other images.

Source: equation 2 of Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation
(CVPR 2021), after Perera and Patel, Learning Deep Features for One-Class Classification (IEEE TIP 2019).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adkit.plugin import (
    Batch,
    Component,
    Extractor,
    Features,
    ImageStream,
    See,
    Step,
    UserError,
    counted,
    hookimpl,
)
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks, classified
from adkit.toolkit.memory import check_memory

from ._compactness import CompactnessAdapter
from ._pretraining import class_numbers, classes_of


class JointParams(TunesBlocks):
    alpha: float = Field(0.1, gt=0, description="weight α of compactness relative to the classification loss")
    labels: Literal["predicted", "classes"] = Field(
        "predicted",
        description="what the images of [auxiliary] must be recognized as. predicted: what the classifier predicted "
        "before adapting; classes: their classes, which must be those of the classifier",
    )
    blocks: Blocks = Field(2, description=BLOCKS)


class Joint(CompactnessAdapter[JointParams]):
    """An adapter that minimizes the classification loss on images of ``[auxiliary]`` + α · compactness of normal ones.

    The classifier itself is not trained, so that the features have to keep their meaning. Where its own
    predictions p₀ are the labels, the loss is the cross-entropy −Σ p₀ log p; they are computed once, all of them before
    the first step, so that nothing depends on which images come when, and kept in memory. Both terms are means over a
    step's images, where equation 2 has sums over all of them: α is relative to that. The paper says neither α nor how
    long it trains: the length is that of PANDA-Early.
    """

    reads_images = True
    _numbers: dict[str, int]
    _rows: dict[str, int]
    _predictions: Tensor

    def prepare(self, see: See) -> None:
        extractor, auxiliary = see.extractor, see.auxiliary
        if auxiliary is None:
            raise UserError(
                "adapter.use: expected an [auxiliary] table for joint, with images that the classifier must still "
                "recognize, found none: add it, or use ewc, which needs no other images"
            )
        super().prepare(see)
        with torch.no_grad():
            if self.params.labels == "predicted":
                self._predict(extractor, auxiliary)
            else:
                classes = self._logits(extractor, next(iter(auxiliary.batches()))).shape[1]
                self._numbers = class_numbers(auxiliary.kinds, classes, "labels")

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        if step.auxiliary is None:
            raise UserError("adapter.use: expected an [auxiliary] table for joint, found none: add it")
        logits = self._logits(step.extractor, step.auxiliary)
        classification = nn.functional.cross_entropy(logits, self._targets(step.auxiliary).to(logits.device))
        compactness = super().loss(step, features)
        return {"classification": classification, **{name: self.params.alpha * t for name, t in compactness.items()}}

    def _logits(self, extractor: Extractor, batch: Batch) -> Tensor:
        """(b, classes) float32 logits of the classifier."""
        return classified(extractor, batch.images.to(self.context.device, non_blocking=True)).float()

    def _targets(self, batch: Batch) -> Tensor:
        """The targets of the classification: (b,) int64 class numbers, or (b, classes) probabilities."""
        if self.params.labels == "classes":
            return classes_of(batch, self._numbers, "labels")
        return self._predictions[[self._rows[image] for image in batch.ids]]

    def _predict(self, extractor: Extractor, auxiliary: ImageStream) -> None:
        ids: list[str] = []
        found: list[Tensor] = []
        for batch in auxiliary.batches():
            found.append(self._logits(extractor, batch).softmax(1).cpu())
            if not ids:
                check_memory(
                    2 * 4 * auxiliary.count * found[0].shape[1],  # each batch by itself, and all as one tensor
                    "cpu",
                    f"joint: what the classifier predicts for {counted(auxiliary.count, 'image')} of [auxiliary]",
                    "name fewer images there",
                )
            ids += batch.ids
        self._rows = {image: row for row, image in enumerate(ids)}
        self._predictions = torch.cat(found)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("joint", JointParams, Joint)]
