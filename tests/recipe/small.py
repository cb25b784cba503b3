"""The smallest recipe that runs, with images for it beside the folder of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.categories import write_category


def write_small(folder: Path, **tables: dict[str, Any]) -> dict[str, Any]:
    """A recipe of timm's miniature ResNet with random weights: the whole path in half a second.

    Args:
        folder: takes ``data`` with the one category, ``stripes``, and the ``runs``.
        tables: of the recipe, to add or to put instead.
    """
    write_category(folder / "data" / "stripes")
    return {
        "run": {"name": "small", "output": str(folder / "runs"), "device": "cpu", "precision": "float32"},
        "data": {
            "format": "mvtec",
            "root": str(folder / "data"),
            "image_size": 64,
            "batch_size": 4,
            "calibration": 0.25,
        },
        "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]},
        "scorer": {"use": "knn", "k": 1},
        "localizer": {"use": "bilinear", "smoothing": 2.0},
        **tables,
    }
