"""Writing small real image files for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, value: int | np.ndarray = 100, size: tuple[int, int] = (8, 8)) -> Path:
    """Write a gray image of one value, (height, width), or of the pixels given; make its folders."""
    pixels = np.full(size, value, np.uint8) if isinstance(value, int) else value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def square(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    """A mask of ``size`` with one square of 255 in it."""
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def mvtec(root: Path, name: str = "tile", kind: str = "crack", suffix: str = "_mask") -> Path:
    """A category of three normal training, one good and two anomalous test images with masks."""
    category = root / name
    for number in range(3):
        save(category / "train" / "good" / f"{number}.png", 10 + 33 * number)
    save(category / "test" / "good" / "0.png", 25)
    for number in range(2):
        save(category / "test" / kind / f"{number}.png", 30 + number)
        save(category / "ground_truth" / kind / f"{number}{suffix}.png", square((8, 8), number, 0, 2))
    return category
