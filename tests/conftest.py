"""Small real data and the smallest recipe that runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def write_category(folder: Path, *, train: int = 8, good: int = 3, bad: int = 3, side: int = 48, seed: int = 0) -> None:
    """A category in MVTec layout: soft stripes as normal pictures, a dark square as the defect."""
    random = np.random.default_rng(seed)

    def picture() -> np.ndarray:
        wave = np.sin(np.arange(side) / 3 + random.uniform(0, 6))
        return np.clip(128 + 60 * wave[None, :, None] + random.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8)

    def save(array: np.ndarray, *parts: str) -> None:
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for index in range(train):
        save(picture(), "train", "good", f"{index:03}.png")
    for index in range(good):
        save(picture(), "test", "good", f"{index:03}.png")
    for index in range(bad):
        array, mask = picture(), np.zeros((side, side), np.uint8)
        top, left = random.integers(4, side - 20, 2)
        array[top : top + 14, left : left + 14] = 10
        mask[top : top + 14, left : left + 14] = 255
        save(array, "test", "square", f"{index:03}.png")
        save(mask, "ground_truth", "square", f"{index:03}_mask.png")


def write_classes(folder: Path) -> None:
    """Three classes, told apart by colour: 21 pictures, each with a place in ``train`` or ``test``."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for channel, name in enumerate(("red", "green", "blue")):
            for index in range(count):
                picture = random.integers(0, 60, (24, 24, 3), dtype=np.uint8)
                picture[..., channel] += 150
                path = folder / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """A data root with one category, ``stripes``."""
    root = tmp_path / "data"
    write_category(root / "stripes")
    return root


@pytest.fixture
def small_recipe(stripes: Path, tmp_path: Path) -> dict[str, Any]:
    """Random weights and small pictures: what runs in a second and still is the whole path."""
    return {
        "run": {"name": "small", "output": str(tmp_path / "runs"), "device": "cpu", "precision": "float32"},
        "data": {"format": "mvtec", "root": str(stripes), "image_size": 64, "batch_size": 4, "calibration": 0.25},
        "extractor": {"use": "timm", "backbone": "resnet18", "weights": "none", "levels": ["layer1", "layer2"]},
        "scorer": {"use": "knn", "k": 1},
        "localizer": {"use": "bilinear", "smoothing": 2.0},
    }


@pytest.fixture
def tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], Path]:
    """Writes ``recipes/tile.toml`` below the working directory; its path."""
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()

    def write(text: str | bytes) -> Path:
        path = Path("recipes/tile.toml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
