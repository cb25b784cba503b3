"""Augmentations that make images near the normal ones: AugMix, CutOut and Confetti, and which pixels they change."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, floor, pi, sin, sqrt
from typing import Any, Final, Literal

import torch
from torch import Tensor

Augmentation = Literal["augmix", "cutout", "confetti"]
"""Name of an augmentation for ``vary``; each also has a function of its own."""

SEVERITY: Final = 3
"""How far AugMix goes by default, from 1 to 10."""

DRAWS: Final = 10
"""How often AugMix draws at most until an image changes; 3.7% of its draws at severity 3 change nothing."""
VISIBLE: Final = 0.5 / 255
"""Change of a value from which an image counts as changed: what would round to another gray value."""

HOLE: Final = (0.10, 0.25)
"""Smallest and largest side of the rectangle of CutOut, as shares of the image's height and width.

The paper of CutOut removes a quarter to a half of the side to regularize a classifier; a defect is smaller.
"""
HOLE_COLOR: Final = (0.485, 0.456, 0.406)
"""Color of the rectangle of CutOut: ImageNet's mean, which is 0 once normalized; black would not show on black."""

SQUARES: Final = (4, 12)
"""Smallest and largest number of squares that Confetti drops on an image."""
SQUARE: Final = (0.02, 0.08)
"""Smallest and largest side of a square of Confetti, as shares of the image's shorter side."""


@dataclass(frozen=True)
class Varied:
    """Augmented images, and where they differ from the images that they were made of."""

    images: Tensor
    """(n, 3, H, W) or (3, H, W) float32 RGB in [0, 1], the augmented images in the shape of those given."""
    masks: Tensor
    """(n, H, W) or (H, W) bool, true where a pixel changed; after AugMix, which changes the whole image, everywhere."""


def augmix(images: Tensor, generator: torch.Generator, severity: int = SEVERITY) -> Varied:
    """Blend each image with three chains of one to three mild operations on it, such as a shear or a posterization.

    A draw that leaves an image as it is, is drawn again, since it would count as an anomaly that nobody can see.

    Args:
        images: (n, 3, H, W) or (3, H, W) float32 RGB in [0, 1].
        generator: on the CPU; images are drawn for one after the other.
        severity: how far each operation may go, from 1 to 10.

    Source: Hendrycks et al., AugMix (ICLR 2020), by torchvision.
    """
    from torchvision.transforms import v2

    # uint8, which torchvision asks for, is blended with truncation: every image would be darker by half a gray value,
    # a trace that a network may learn. Its operations take float32, too.
    transform = v2.AugMix(severity=severity, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=True)

    def draw(image: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(DRAWS):
            with torch.random.fork_rng(devices=()):  # torchvision draws from the global generator alone
                torch.default_generator.manual_seed(_seed(generator))  # torch.manual_seed would seed the GPUs' as well
                mixed: Tensor = transform(image).clamp_(0, 1)
            if (mixed - image).abs().max() >= VISIBLE:
                break
        return mixed, torch.ones(image.shape[1:], dtype=torch.bool)

    return _each(images, draw)


def cutout(images: Tensor, generator: torch.Generator) -> Varied:
    """Fill a rectangle in each image with gray (``HOLE``, ``HOLE_COLOR``).

    Args:
        images: (n, 3, H, W) or (3, H, W) float32 RGB in [0, 1].
        generator: on the CPU; images are drawn for one after the other.

    Source: DeVries and Taylor, Cutout (2017), by albumentations' CoarseDropout.
    """
    coarse_dropout = _albumentations().CoarseDropout

    def draw(image: Tensor) -> tuple[Tensor, Tensor]:
        # In pixels, because shares are rounded down: a small image's hole could be empty.
        rows, columns = ((max(1, round(HOLE[0] * side)), max(1, round(HOLE[1] * side))) for side in image.shape[1:])
        transform = coarse_dropout(
            num_holes_range=(1, 1), hole_height_range=rows, hole_width_range=columns, fill=HOLE_COLOR, p=1.0
        )
        transform.set_random_seed(_seed(generator))
        pixels = transform(image=image.permute(1, 2, 0).contiguous().numpy())["image"]  # (H, W, 3)
        return _compared(image, torch.from_numpy(pixels).permute(2, 0, 1))

    return _each(images, draw)


def confetti(images: Tensor, generator: torch.Generator) -> Varied:
    """Drop squares of any color and rotation on each image (``SQUARES``, ``SQUARE``).

    Args:
        images: (n, 3, H, W) or (3, H, W) float32 RGB in [0, 1].
        generator: on the CPU; images are drawn for one after the other.

    Source: the idea is Liznerski et al., FCDD (ICLR 2021); sizes and numbers are our own.
    """

    def draw(image: Tensor) -> tuple[Tensor, Tensor]:
        drawn = image.clone()
        count = int(torch.randint(SQUARES[0], SQUARES[1] + 1, (), generator=generator))
        for y, x, side, turn, *color in torch.rand(count, 7, generator=generator).tolist():
            _drop(drawn, (y, x), SQUARE[0] + (SQUARE[1] - SQUARE[0]) * side, turn * pi / 2, color)
        return _compared(image, drawn)

    return _each(images, draw)


def vary(
    name: Augmentation,
    images: Tensor,
    generator: torch.Generator,
    severity: int = SEVERITY,
    regions: Tensor | None = None,
) -> Varied:
    """Augment images by the augmentation called ``name``.

    Args:
        images: (n, 3, H, W) float32 RGB in [0, 1].
        generator: on the CPU; images are drawn for one after the other.
        severity: how far AugMix goes, from 1 to 10.
        regions: (n, 4) int64 as in ``Batch.regions``; padding stays as it is.
    """
    if regions is None:
        return _named(name, images, generator, severity)
    varied, masks = images.clone(), images.new_zeros(images.shape[0], *images.shape[2:], dtype=torch.bool)
    for number, (top, left, bottom, right) in enumerate(regions.tolist()):
        part = _named(name, images[number, :, top:bottom, left:right], generator, severity)
        varied[number, :, top:bottom, left:right] = part.images
        masks[number, top:bottom, left:right] = part.masks
    return Varied(varied, masks)


def _named(name: Augmentation, images: Tensor, generator: torch.Generator, severity: int) -> Varied:
    if name == "augmix":
        return augmix(images, generator, severity)
    return cutout(images, generator) if name == "cutout" else confetti(images, generator)


def _each(images: Tensor, draw: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Varied:
    """Augment each image by ``draw``, which takes and gives images (3, H, W) on the CPU, where the generator is."""
    if images.dtype != torch.float32 or images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(
            "augment: expected images (n, 3, H, W) or (3, H, W) of torch.float32, found "
            f"{tuple(images.shape)} {images.dtype}: pass a batch's images as they are"
        )
    if images.ndim == 4 and not len(images):
        return Varied(images.clone(), images.new_zeros(0, *images.shape[2:], dtype=torch.bool))
    found = [draw(image) for image in images.detach().cpu().reshape(-1, *images.shape[-3:])]
    drawn, masks = (torch.stack(tensors).to(images.device) for tensors in zip(*found, strict=True))
    return Varied(drawn, masks) if images.ndim == 4 else Varied(drawn[0], masks[0])


def _compared(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    return after, (before != after).any(0)


def _drop(image: Tensor, place: tuple[float, float], share: float, angle: float, color: list[float]) -> None:
    """Draw a square on an image in place.

    Args:
        image: (3, H, W).
        place: its center (y, x), as shares of height and width.
        share: its side, as a share of the image's shorter side.
        angle: its rotation in radians.
        color: RGB in [0, 1].
    """
    height, width = image.shape[1:]
    row, column = floor(place[0] * height), floor(place[1] * width)  # a pixel's own center, so that one is inside
    half = share * min(height, width) / 2
    reach = floor(half * sqrt(2))
    top, left = max(row - reach, 0), max(column - reach, 0)
    y = torch.arange(top, min(row + reach + 1, height))[:, None] - row
    x = torch.arange(left, min(column + reach + 1, width)) - column
    inside = torch.maximum((x * cos(angle) + y * sin(angle)).abs(), (y * cos(angle) - x * sin(angle)).abs()) <= half
    part = image[:, top : top + inside.shape[0], left : left + inside.shape[1]]
    part[:, inside] = torch.tensor(color)[:, None]


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**32, (), generator=generator))


def _albumentations() -> Any:
    """Import albumentations without letting it look for updates on the network, as it does by default."""
    switch = "NO_ALBUMENTATIONS_UPDATE"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        import albumentations
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before
    return albumentations
