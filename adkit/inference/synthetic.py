"""Drawn defects on held-out normal images, by which runs can be compared where no anomalous image is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import torch
from torch import Tensor

from adkit.data.formats import defects
from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.inference.assemble import Assembled
from adkit.plugin.context import Context
from adkit.toolkit.augment import Augmentation, vary

KINDS: Final = (*get_args(Augmentation), *defects.KINDS)
"""AugMix, CutOut and Confetti, and the defects that are drawn into the textures of the quickstart."""


@dataclass(frozen=True)
class Drawn:
    """A batch of images with a drawn defect each."""

    images: Tensor
    """(b, 3, H, W) float32 RGB in [0, 1], at the size of the input."""
    ids: tuple[str, ...]
    """The normal images that they were made of."""
    kinds: tuple[str, ...]
    """What was drawn on each, one of ``KINDS``."""


def drawings(samples: Sequence[Sample], count: int, seed: int) -> Iterator[list[tuple[Sample, str]]]:
    """Plan ``count`` drawings in rounds, in each of which an image occurs once at most, with another kind every time.

    Images are in the order of a hash of the seed and their ids, and kinds take turns, so that all are drawn about
    equally often. No image has a kind twice: there are at most ``len(KINDS)`` drawings per image.
    """
    order = sorted(samples, key=lambda sample: hashlib.sha256(f"{seed}\0synthetic\0{sample.id}".encode()).digest())
    for turn in range(len(KINDS)):
        chosen = order[: max(count - turn * len(order), 0)]
        if chosen:
            yield [(sample, KINDS[(place + turn) % len(KINDS)]) for place, sample in enumerate(chosen)]


def draw_defect(image: Tensor, kind: str, id: str, context: Context) -> Tensor:
    """Draw a defect of one kind into an image; which one is decided by the run's seed, the kind and the image's id.

    Args:
        image: (3, h, w) float32 RGB in [0, 1], without padding.

    Returns:
        (3, h, w) float32 RGB in [0, 1].
    """
    if kind in get_args(Augmentation):
        return vary(kind, image[None], context.generator("synthetic", kind, id)).images[0]  # type: ignore[arg-type]
    pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    rng = np.random.default_rng(context.seed_for("synthetic", kind, id))
    # What is stuck on comes from the opposite place of the image itself: no other image has to be read.
    drawn, _ = defects.draw(kind, pixels, pixels[::-1, ::-1], rng)
    return torch.from_numpy(drawn).permute(2, 0, 1).float() / 255


def drawn(samples: Sequence[Sample], count: int, parts: Assembled, bad: BadImages) -> Iterator[Drawn]:
    """Draw ``count`` defects, or as many as there can be, into ``samples``, in batches.

    Args:
        bad: collects the images that cannot be read, on which nothing is drawn.
    """
    size = parts.recipe.data.batch_size
    for turn in drawings(samples, count, parts.context.seed):
        kinds = {sample.id: kind for sample, kind in turn}
        for batch in parts.loader([sample for sample, _ in turn], bad, size, targets=False):
            images = batch.images.clone()
            whole = [0, 0, *images.shape[2:]]
            regions = [whole] * len(images) if batch.regions is None else batch.regions.tolist()
            for image, id, (top, left, bottom, right) in zip(images, batch.ids, regions, strict=True):
                shown = image[:, top:bottom, left:right]
                shown.copy_(draw_defect(shown.clone(), kinds[id], id, parts.context))
            yield Drawn(images, batch.ids, tuple(kinds[id] for id in batch.ids))
