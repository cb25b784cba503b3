"""oe: train a logistic regression to tell normal images from those of [auxiliary], for scorer logit (PANDA-OE).

Use it only with images in ``[auxiliary]`` that resemble the anomalies, or at least come from their domain. With
others the network may learn what tells the data sets apart, such as color, and not what tells normal from anomalous:
on Fashion-MNIST, small photographs of everything took the paper's 95.6 down to 91.8.

Source: equation 5 of Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation
(CVPR 2021), after Hendrycks et al., Deep Anomaly Detection with Outlier Exposure (ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from adkit.plugin import (
    Adapter,
    Batch,
    Component,
    Extractor,
    Features,
    Geometry,
    Group,
    Level,
    Schedule,
    See,
    Stage,
    Step,
    UserError,
    hookimpl,
)
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks, tuned
from adkit.toolkit.heads import ExtendedExtractor

LOGIT = "logit"
"""The name of the added level: w·ψ(x) + b, above 0 where an image looks more like those of ``[auxiliary]``."""


class OeParams(TunesBlocks):
    blocks: Blocks = Field(1, description=BLOCKS)


class Oe(Adapter[OeParams]):
    """An adapter that adds a level ``logit`` of one value per image, and minimizes its logistic loss.

    ψ(x) are the levels' means over their locations, one after the other; the paper reads ``pool`` alone. The paper
    has no b: with it, w need not express how many images there are of each kind. Equation 5 is a sum over all images;
    the loss is the mean over a step's, half of which are normal and half auxiliary, however many there are of each. An
    epoch sees every normal image once; the paper does not say what its 75 epochs are epochs of.
    """

    schedule = Schedule(
        optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0, clip_norm=1e-3, batch_size=32, epochs=75
    )

    def extend(self, extractor: Extractor) -> ExtendedExtractor:
        head = Head(sum(level.channels for level in extractor.levels.values())).to(self.context.device)
        level = Level(1, (1, 1), Geometry.covering((1, 1), self.context.image_size))
        return ExtendedExtractor(extractor, head, {LOGIT: level}, "oe")

    def prepare(self, see: See) -> None:
        if see.auxiliary is None:
            raise _no_auxiliary()

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        if not isinstance(extractor, ExtendedExtractor):
            raise TypeError(f"expected the extractor that extend made, found a {type(extractor).__name__}")
        return [Stage([Group([*tuned(extractor.inner, self.params.blocks), *extractor.head.parameters()])])]

    def batch(self, step: Step) -> Batch:
        normal, auxiliary = step.batch, step.auxiliary
        if auxiliary is None:
            raise _no_auxiliary()
        return Batch(
            images=torch.cat([normal.images, auxiliary.images]),
            ids=(*normal.ids, *auxiliary.ids),
            labels=torch.tensor([0] * len(normal) + [1] * len(auxiliary), device=normal.images.device),
        )

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        """The mean of −log p(label), in two terms: what normal images and what the others add to it."""
        logits = self.score(features)
        labels = torch.zeros_like(logits) if step.batch.labels is None else step.batch.labels.to(logits)
        return {
            "normal": ((1 - labels) * softplus(logits)).mean(),  # −log(1 − σ(z))
            "auxiliary": (labels * softplus(-logits)).mean(),  # −log σ(z)
        }

    def score(self, features: Features) -> Tensor:
        return features[LOGIT][:, 0, 0, 0]


class Head(nn.Module):
    """A logistic regression that starts at 0, where every image is as likely normal as not, without a random draw.

    A regression has no symmetry to break: for fixed features its loss is convex, with one minimum from any start. The
    blocks begin to move with the second step, when w is no longer 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(()))

    def forward(self, features: Features) -> dict[str, Tensor]:
        embedding = torch.cat([level.mean((1, 2)) for level in features.values()], 1)  # (n, channels)
        return {LOGIT: (embedding @ self.weight + self.bias)[:, None, None, None]}


def _no_auxiliary() -> UserError:
    return UserError(
        "auxiliary: expected images that resemble the anomalies, which oe learns to tell from the normal ones, found "
        "none: add a table [auxiliary] with their format and root, or use an adapter that needs none, such as panda"
    )


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("oe", OeParams, Oe)]
