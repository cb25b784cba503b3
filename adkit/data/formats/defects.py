"""Defects drawn into an image of a texture, each with the exact mask of the pixels it was drawn on.

They keep to the image's own range of brightness, so that they show in structure and color and not in the
image's brightness statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.floating[Any]]

FAINTEST = 0.15
"""Opacity below which a soft edge is cut off, since it would be in the mask but could not be seen."""


def draw(kind: str, image: Pixels, donor: Pixels, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Draw one defect into an image.

    Args:
        kind: one of ``KINDS``.
        image: (h, w, 3) uint8, an image without defects; it is not changed.
        donor: (h, w, 3) uint8, another image, from which ``cut_paste`` takes its piece.
        rng: the generator that makes every choice.

    Returns:
        The image with the defect, equal to ``image`` outside the mask, and the mask (h, w).
    """
    opacity, paint = KINDS[kind](image.astype(np.float64), donor.astype(np.float64), rng)
    opacity = np.where(opacity < FAINTEST, 0.0, opacity)[..., None]  # (h, w, 1)
    low, high = image.min(), image.max()
    mixed = image + opacity * (np.clip(paint, low, high) - image)
    return np.rint(mixed).astype(np.uint8), opacity[..., 0] > 0


def _stain(image: Plane, donor: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw a stain of something spilled: darker, browner or paler, uneven, the texture still showing through."""
    opacity = _blob(image.shape[:2], rng, share=(0.02, 0.045), softness=0.25)
    if rng.random() < 0.6:
        spilled = image * rng.uniform(0.45, 0.6) * np.array([1.05, 0.97, 0.85])  # oil, coffee
    else:
        spilled = image * 0.3 + rng.uniform(0.6, 0.75) * np.percentile(image, 98)  # lime, paint
    return opacity * rng.uniform(0.85, 1.0), spilled


def _scratch(image: Plane, donor: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw two or three thin grooves side by side, one flank of each in the light and the other in the shade."""
    size = image.shape[:2]
    length = rng.uniform(0.55, 0.8) * min(size)
    along, across = _coordinates(size, rng, reach=0.5 * length)
    t = 2 * along / length  # -1 at one end, 1 at the other
    bend, wave = rng.uniform(-0.12, 0.12) * length, rng.uniform(0, 0.02) * length
    curve = bend * (t**2 - 0.5) + wave * np.sin(3 * t)
    slope = 2 / length * (2 * bend * t + 3 * wave * np.cos(3 * t))
    off = (across - curve) / np.hypot(1, slope)  # pixels from the middle of the scratch, signed
    grooves, apart = rng.integers(2, 4), rng.uniform(5.5, 8)
    nearest = np.clip(np.rint(off / apart + (grooves - 1) / 2), 0, grooves - 1) - (grooves - 1) / 2
    side = off - nearest * apart  # pixels from the middle of the nearest groove
    half = rng.uniform(1.3, 1.9) * np.clip(1 - np.abs(t) ** 3, 0, 1)  # thinner toward its ends

    dark, light = np.percentile(image, (1, 99), axis=(0, 1)).mean(axis=1)  # bare material, without color
    lit = np.clip(side + rng.uniform(0, 0.6), -1, 1)[..., None] / 2 + 0.5  # (h, w, 1)
    opacity = np.where(np.abs(t) < 1, np.clip(half + 0.5 - np.abs(side), 0, 1), 0)
    return opacity, dark + lit * (light - dark)


def _cut_paste(image: Plane, donor: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw a piece of another material that is stuck on, with the brightness of what it covers."""
    height, width = image.shape[:2]
    area = rng.uniform(0.02, 0.05) * height * width
    aspect = np.exp(rng.uniform(-0.6, 0.6))
    half = np.sqrt(area * np.array([aspect, 1 / aspect])) / 2
    half = np.maximum(half, np.sqrt(0.5))  # however small the image, the middle of a pixel is inside
    y, x = _coordinates((height, width), rng, reach=float(np.hypot(*half)))
    inside = (np.abs(y) <= half[0]) & (np.abs(x) <= half[1])
    piece = donor - donor[inside].mean(axis=0) + image[inside].mean(axis=0)
    return inside.astype(np.float64), piece


def _hole(image: Plane, donor: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw a pit: as dark as the darkest gaps of the texture, with a lit edge on the side away from the light."""
    size = image.shape[:2]
    opacity = _blob(size, rng, share=(0.008, 0.03), softness=0.12)
    dark, light = np.percentile(image, 1, axis=(0, 1)), np.percentile(image, 97, axis=(0, 1))
    rim = np.clip(1 - np.abs(opacity - 0.5) * 2, 0, 1)
    y, x = np.mgrid[: size[0], : size[1]]
    middle = np.argwhere(opacity >= 0.5 * opacity.max()).mean(axis=0)  # a tiny pit may be faint everywhere
    below = (y - middle[0] + 0.5 * (x - middle[1])) > 0
    return opacity, dark + (rim * below)[..., None] * (light - dark) * 0.8


def _color_shift(image: Plane, donor: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Draw a discolored patch: another hue, the same luminance and the same texture."""
    opacity = _blob(image.shape[:2], rng, share=(0.015, 0.045), softness=0.3)
    hues = np.array([[1.2, -0.5, -0.1], [0.7, -0.5, 0.8], [-0.5, -0.1, 1.4], [0.9, -0.1, -1.5]])
    shift = hues[rng.integers(len(hues))] * rng.uniform(36, 50)
    return opacity, image + shift - shift @ np.array([0.299, 0.587, 0.114])


KINDS: dict[str, Callable[[Plane, Plane, np.random.Generator], tuple[Plane, Plane]]] = {
    "stain": _stain,
    "scratch": _scratch,
    "cut_paste": _cut_paste,
    "hole": _hole,
    "colour_shift": _color_shift,
}
"""Name of a defect → function that makes its opacity (h, w) in [0, 1] and its paint (h, w, 3)."""


def _coordinates(size: tuple[int, int], rng: np.random.Generator, reach: float) -> tuple[Plane, Plane]:
    """Coordinates (y, x) of every pixel, turned about a random center that is at least ``reach`` from every border."""
    margin = np.minimum(reach, np.array(size) / 2)
    center = rng.uniform(margin, np.array(size) - margin)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5 - center[:, None, None]
    angle = rng.uniform(0, 2 * np.pi)
    return y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)


def _blob(size: tuple[int, int], rng: np.random.Generator, share: tuple[float, float], softness: float) -> Plane:
    """Opacity (h, w) of an irregular round shape that covers about ``share`` of the image."""
    waves = np.arange(2, 7)
    height, phase = rng.uniform(0, 0.35 / waves), rng.uniform(0, 2 * np.pi, len(waves))
    aspect = np.exp(rng.uniform(0, 0.35))
    radius = np.sqrt(rng.uniform(*share) * size[0] * size[1] / np.pi / (1 + (height**2).sum() / 2))
    y, x = _coordinates(size, rng, reach=1.3 * radius * aspect)
    y, x = y * aspect, x / aspect
    turn = np.arctan2(y, x)[..., None]  # (h, w, 1)
    outline = radius * (1 + (height * np.cos(waves * turn + phase)).sum(axis=-1))
    opacity: Plane = np.clip((1 - np.hypot(y, x) / outline) / softness + 0.5, 0, 1)
    return opacity
