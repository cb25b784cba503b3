"""vicinal: stop when the adapter's score gets no better at telling slightly changed images from normal ones.

Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), sections 3.1
and 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from pydantic import Field, field_validator
from torch import Tensor

from adkit.metrics import image_metrics
from adkit.plugin import Batch, Component, Context, Look, Params, Stopper, Verdict, hookimpl
from adkit.toolkit.augment import SEVERITY, Augmentation, vary
from adkit.toolkit.patience import Patience, none_held_out


class VicinalParams(Params):
    validation: float = Field(
        0.2, gt=0, le=0.9, description="share of the normal training images to hold out and judge by"
    )
    augmentations: tuple[Augmentation, ...] = Field(
        ("augmix", "cutout", "confetti"), min_length=1, description="changes to draw from, each with equal chance"
    )
    share: float = Field(0.7, gt=0, lt=1, description="share of the draws that are changed and count as anomalous")
    multiple: int = Field(10, ge=2, description="draws, with replacement, as a multiple of the held-out images")
    patience: int = Field(20, ge=1, description="checks without improvement, one per epoch, after which to stop")
    severity: int = Field(SEVERITY, ge=1, le=10, description="strength up to which augmix may change an image")
    redraw: bool = Field(False, description="true: draw anew for every check; false: once for all checks")

    @field_validator("augmentations")
    @classmethod
    def _each_once(cls, augmentations: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(augmentations)) < len(augmentations):
            raise ValueError("expected every augmentation once")
        return augmentations


KEPT: Final = 2**30
"""Bytes of changed images that are kept from one check to the next: 7,133 images of 224 × 224 pixels."""


@dataclass(frozen=True)
class Draws:
    """The draws to judge by, as numbers of images, so that the images themselves need not be kept."""

    normal: Tensor
    """(images,) int64: how often each image was drawn to stay unchanged."""
    changed: Mapping[int, list[tuple[Augmentation, int]]]
    """Number of an image → the augmentation and the seed of each time that it was drawn to be changed."""


class Vicinal(Patience, Stopper[VicinalParams]):
    """A stopper that judges by the ROC AUC of the adapter's score between unchanged and changed draws.

    Changed images have the 256 gray values of a file. Where all checks see the same draws, they are made at the first
    one and kept, so that the others cost a forward pass; those beyond ``KEPT`` bytes are made again at every check.
    """

    def __init__(self, params: VicinalParams, context: Context) -> None:
        Stopper.__init__(self, params, context)
        Patience.__init__(self, "validation AUROC", params.patience)
        self.validation = params.validation
        self._images: int | None = None
        self._kept: dict[int, list[Tensor]] = {}
        self._room = 0 if params.redraw else KEPT

    def check(self, look: Look) -> Verdict:
        if self._images is None:  # counted once, so that later checks are spared that pass
            self._images = sum(len(batch) for batch in look.held_out)
        if not self._images:
            raise none_held_out("vicinal")
        draws = self.draw(self._images, look.generator if self.params.redraw else self.context.generator("vicinal"))
        with torch.no_grad():
            normal, changed = self._scores(
                draws, lambda images: look.adapter.score(look.extractor(images)).cpu(), look.held_out
            )
        scores = torch.cat([normal, changed])
        unusable = int((~scores.isfinite()).sum())
        if unusable:
            trouble = f"{unusable} of {len(scores)} validation scores NaN or infinite"
            return self.judge(look.progress, None, trouble)
        labels = torch.cat([torch.zeros(len(normal)), torch.ones(len(changed))])
        return self.judge(look.progress, image_metrics(scores.numpy(), labels.numpy())["image_auroc"])

    def draw(self, images: int, generator: torch.Generator) -> Draws:
        """Draw from ``images`` images, at least one to stay unchanged and one to be changed."""
        params = self.params
        count = params.multiple * images
        changed = min(max(round(params.share * count), 1), count - 1)
        drawn = torch.randint(images, (count,), generator=generator)
        names = torch.randint(len(params.augmentations), (changed,), generator=generator).tolist()
        seeds = torch.randint(2**32, (changed,), generator=generator).tolist()
        changes: dict[int, list[tuple[Augmentation, int]]] = {}
        for image, name, seed in zip(drawn[:changed].tolist(), names, seeds, strict=True):
            changes.setdefault(image, []).append((params.augmentations[name], seed))
        return Draws(drawn[changed:].bincount(minlength=images), changes)

    def _scores(
        self, draws: Draws, score: Callable[[Tensor], Tensor], held_out: Iterable[Batch]
    ) -> tuple[Tensor, Tensor]:
        """The scores of unchanged draws and of changed ones; no more than two batches of images are held at a time."""
        normal: list[Tensor] = []
        changed: list[Tensor] = []
        number = 0
        for batch in held_out:
            times = draws.normal[number : number + len(batch)]
            chosen = times.nonzero()[:, 0]
            if len(chosen):  # an image that was drawn often is scored once
                normal.append(score(batch.images[chosen.to(batch.images.device)]).repeat_interleave(times[chosen]))
            stacks = _stacked(self._changed(draws, number, batch), len(batch))
            changed.extend(score(images.to(batch.images.device).float() / 255) for images in stacks)
            number += len(batch)
        return torch.cat(normal), torch.cat(changed)

    def _changed(self, draws: Draws, number: int, batch: Batch) -> Iterator[Tensor]:
        """The changed draws of a batch's images, (3, H, W) uint8 each; ``number`` is the first image's."""
        for i in range(len(batch)):
            if number + i in self._kept:
                yield from self._kept[number + i]
                continue
            region = None if batch.regions is None else batch.regions[i : i + 1]
            made = []
            for name, seed in draws.changed.get(number + i, ()):
                generator = torch.Generator().manual_seed(seed)
                varied = vary(name, batch.images[i : i + 1], generator, self.params.severity, region).images[0]
                made.append((varied * 255).round().to("cpu", torch.uint8))
                yield made[-1]
            if made and (size := sum(image.nbytes for image in made)) <= self._room:
                self._kept[number + i], self._room = made, self._room - size


def _stacked(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Images (3, H, W) in stacks (size, 3, H, W); the last may be smaller."""
    held: list[Tensor] = []
    for image in images:
        held.append(image)
        if len(held) == size:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


@hookimpl
def adkit_stoppers() -> list[Component[Any]]:
    return [Component.stopper("vicinal", VicinalParams, Vicinal)]
