"""Small data sets on disk, with something to find in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_category(folder: Path, *, train: int = 8, good: int = 3, bad: int = 3, side: int = 48, seed: int = 0) -> None:
    """A category in MVTec layout: soft stripes as normal images, a dark square as the defect."""
    random = np.random.default_rng(seed)

    def image() -> np.ndarray:
        wave = np.sin(np.arange(side) / 3 + random.uniform(0, 6))
        return np.clip(128 + 60 * wave[None, :, None] + random.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8)

    def save(array: np.ndarray, *parts: str) -> None:
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for index in range(train):
        save(image(), "train", "good", f"{index:03}.png")
    for index in range(good):
        save(image(), "test", "good", f"{index:03}.png")
    for index in range(bad):
        array, mask = image(), np.zeros((side, side), np.uint8)
        top, left = random.integers(4, side - 20, 2)
        array[top : top + 14, left : left + 14] = 10
        mask[top : top + 14, left : left + 14] = 255
        save(array, "test", "square", f"{index:03}.png")
        save(mask, "ground_truth", "square", f"{index:03}_mask.png")


def write_classes(folder: Path) -> None:
    """Three classes, told apart by color: 21 images, each with a place in ``train`` or ``test``."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for channel, name in enumerate(("red", "green", "blue")):
            for index in range(count):
                image = random.integers(0, 60, (24, 24, 3), dtype=np.uint8)
                image[..., channel] += 150
                path = folder / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
