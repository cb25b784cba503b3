"""fcdd: train a head per level to give 0 on normal images and more on changed ones, for scorer logit (FCDD).

Source: Liznerski et al., Explainable Deep One-Class Classification (ICLR 2021); over several levels of a pretrained
network, Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from adkit.plugin import (
    Adapter,
    Batch,
    Component,
    Context,
    Extractor,
    Features,
    Group,
    Level,
    Schedule,
    See,
    Stage,
    Step,
    UserError,
    hookimpl,
)
from adkit.toolkit.augment import Augmentation, vary
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks, mean_terms, tuned
from adkit.toolkit.centers import fit_centers
from adkit.toolkit.heads import ExtendedExtractor
from adkit.toolkit.resample import apply_separably, area_matrix, centers_of

NEAR_ZERO = 1e-6
"""Added to h before its logarithm is taken, so that an anomaly at h = 0 costs 13.8 and not infinity."""


class FcddParams(TunesBlocks):
    share: float = Field(0.5, gt=0, lt=1, description="chance that an image of a step is replaced by an anomalous one")
    augmentations: tuple[Augmentation, ...] = Field(
        ("augmix", "cutout", "confetti"),
        min_length=1,
        description="changes that make normal images anomalous, each with equal chance; not used with [auxiliary]",
    )
    masks: bool = Field(
        True, description="true: the loss is given which pixels were changed; false: only which images were changed"
    )
    channels: int = Field(128, ge=1, le=4096, description="channels that each level is projected to; 1 in FCDD's paper")
    blocks: Blocks = Field("all", description=BLOCKS)
    head_learning_rate: float = Field(
        1e-3,
        gt=0,
        le=10,
        description="learning rate of the heads, which start at random; that of [training] is for the blocks",
    )


class Fcdd(Adapter[FcddParams]):
    """The adapter of FCDD: for each level it adds a level ``fcdd.<level>`` of one channel, h = sqrt(‖z‖² + 1) − 1.

    The projection starts at random, with the mean normal feature at 0: as in FCDD's paper, biases replace a center.
    Images of ``[auxiliary]`` take the place of changed ones, and count as anomalous all over.
    """

    schedule = Schedule(optimizer="adam", learning_rate=1e-6, batch_size=8, epochs=250)

    _levels: tuple[str, ...]

    def extend(self, extractor: Extractor) -> ExtendedExtractor:
        head = Head(extractor.levels, self.params.channels, self.context).to(self.context.device)
        added = {head.added(name): Level(1, level.grid, level.geometry) for name, level in extractor.levels.items()}
        return ExtendedExtractor(extractor, head, added, "fcdd")

    def prepare(self, see: See) -> None:
        extractor, normal = _extended(see.extractor), see.normal
        self._levels = tuple(Head.added(name) for name in extractor.inner.levels)
        missing = [name for name in self._levels if name not in normal.levels]
        if missing:
            raise UserError(
                f"features.combine: expected the levels that adapter fcdd adds ({', '.join(self._levels)}) to stay "
                f'themselves, found {", ".join(normal.levels)}: set combine = "none"'
            )
        with torch.no_grad():
            inner = (extractor.inner(batch.images.to(self.context.device)) for batch in normal.batches())
            cast(Head, extractor.head).center(fit_centers(extractor.inner.levels, inner, "level"))

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        extended = _extended(extractor)
        heads = Group(list(extended.head.parameters()), self.params.head_learning_rate)
        return [Stage([Group(tuned(extended.inner, self.params.blocks)), heads])]

    def batch(self, step: Step) -> Batch:
        normal, auxiliary, generator = step.batch, step.auxiliary, step.generator
        chosen = (torch.rand(len(normal), generator=generator) < self.params.share).nonzero()[:, 0].tolist()
        names = torch.randint(len(self.params.augmentations), (len(chosen),), generator=generator).tolist()
        images, ids = normal.images.clone(), list(normal.ids)
        labels = torch.zeros(len(normal), dtype=torch.int64, device=images.device)
        masks = torch.zeros(len(normal), *images.shape[2:], dtype=torch.bool, device=images.device)
        for i, name in zip(chosen, names, strict=True):
            if auxiliary is None:
                region = None if normal.regions is None else normal.regions[i : i + 1]
                varied = vary(self.params.augmentations[name], images[i : i + 1], generator, regions=region)
                images[i], masks[i] = varied.images[0], varied.masks[0]
            elif i < len(auxiliary):  # the last batch of a round may be smaller than the normal one
                images[i], masks[i], ids[i] = auxiliary.images[i], True, auxiliary.ids[i]
            else:
                continue
            labels[i] = 1
        regions = normal.regions if auxiliary is None else None
        return replace(normal, images=images, ids=tuple(ids), labels=labels, masks=masks, regions=regions)

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        return mean_terms({name: self._losses(features, name, step.batch) for name in self._levels})

    def score(self, features: Features) -> Tensor:
        return torch.stack([features[name].mean((1, 2, 3)) for name in self._levels]).mean(0)

    def _losses(self, features: Features, name: str, batch: Batch) -> Tensor:
        """(n,) float32: the loss of each image at one level, by its mask, its label, or as a normal one."""
        h, geometry = features[name][..., 0], features.geometry[name]  # (n, h, w)
        grid = (h.shape[1], h.shape[2])
        if self.params.masks and batch.masks is not None and grid != (1, 1):
            # A cell that is changed in part is anomalous in part: the mean over its pixels, which have its h in common.
            masks = batch.masks.to(h.device, h.dtype)
            along = [
                area_matrix(centers_of(geometry, axis, cells, h.device), geometry.step[axis], masks.shape[1 + axis])
                for axis, cells in enumerate(grid)
            ]
            changed = apply_separably(masks, along[0], along[1])
            return torch.lerp(h, repelled(h), changed).mean((1, 2))
        mean = h.mean((1, 2))
        if batch.labels is None:
            return mean
        return torch.where(batch.labels.to(h.device) > 0, repelled(mean), mean)


def _extended(extractor: Extractor) -> ExtendedExtractor:
    if not isinstance(extractor, ExtendedExtractor) or not isinstance(extractor.head, Head):
        raise TypeError(f"expected the extractor that extend made, found a {type(extractor).__name__}")
    return extractor


class Head(nn.Module):
    """One 1×1 convolution per level, and the pseudo-Huber norm of what it gives."""

    def __init__(self, levels: Mapping[str, Level], channels: int, context: Context) -> None:
        super().__init__()
        self._names = tuple(levels)
        # With this scale, ‖z‖² is the mean square of a level's channels, however many there are on either side.
        self.weights = nn.ParameterList(
            torch.randn(channels, level.channels, generator=context.generator("fcdd", name))
            / sqrt(channels * level.channels)
            for name, level in levels.items()
        )
        self.biases = nn.ParameterList(torch.zeros(channels) for _ in levels)

    @staticmethod
    def added(level: str) -> str:
        """The name of the level that is made of ``level``."""
        return f"fcdd.{level}"

    def forward(self, features: Features) -> dict[str, Tensor]:
        found = {}
        for name, weight, bias in zip(self._names, self.weights, self.biases, strict=True):
            projected = nn.functional.linear(features[name], weight, bias)  # (n, h, w, channels)
            found[self.added(name)] = pseudo_huber(projected.square().sum(3, keepdim=True))
        return found

    def center(self, means: Mapping[str, Tensor]) -> None:
        """Set the biases so that each level's mean (c,) is projected to 0."""
        for name, weight, bias in zip(self._names, self.weights, self.biases, strict=True):
            bias.copy_(-weight @ means[name])


def pseudo_huber(squares: Tensor) -> Tensor:
    """The norm h = sqrt(‖z‖² + 1) − 1 of ``squares`` ‖z‖², without the cancellation that makes it 0 below 1e-7."""
    return squares / ((squares + 1).sqrt() + 1)


def repelled(h: Tensor) -> Tensor:
    """The loss of an anomaly, −log(1 − exp(−h)) for h ≥ 0, finite everywhere and exact for large h."""
    h = h + NEAR_ZERO
    return -torch.where(h < 0.7, torch.log(-torch.expm1(-h)), torch.log1p(-torch.exp(-h)))


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("fcdd", FcddParams, Fcdd)]
