"""Small real data and the smallest recipe that runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.categories import write_category


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """A data root with one category, ``stripes``."""
    root = tmp_path / "data"
    write_category(root / "stripes")
    return root


@pytest.fixture
def small_recipe(stripes: Path, tmp_path: Path) -> dict[str, Any]:
    """timm's miniature ResNet with random weights, and small images: the whole path in half a second."""
    return {
        "run": {"name": "small", "output": str(tmp_path / "runs"), "device": "cpu", "precision": "float32"},
        "data": {"format": "mvtec", "root": str(stripes), "image_size": 64, "batch_size": 4, "calibration": 0.25},
        "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]},
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
