"""The smallest recipe that runs, with images for it beside the folder of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.categories import write_category, write_classes


def write_small(folder: Path, **tables: dict[str, Any]) -> dict[str, Any]:
    """A recipe of timm's miniature ResNet with random weights: the whole path in half a second.

    Args:
        folder: takes ``data`` with the one category, ``stripes``, and the ``runs``.
        tables: of the recipe, to add or to put instead.
    """
    write_category(folder / "data" / "stripes")
    data = {"format": "mvtec", "root": str(folder / "data"), "image_size": 64, "batch_size": 4, "calibration": 0.25}
    return small_tables(folder, data) | tables


def write_small_classes(folder: Path, **tables: dict[str, Any]) -> dict[str, Any]:
    """The same for the classes blue, green and red of 21 images together, each against the rest, by pooled features.

    Args:
        folder: takes ``classes`` with the images, and the ``runs``.
        tables: of the recipe, to add or to put instead.
    """
    write_classes(folder / "classes")
    data = {"format": "classes", "root": str(folder / "classes"), "normal": "*", "image_size": 32}
    recipe = small_tables(folder, data)
    recipe["extractor"]["levels"] = ["pool"]
    return recipe | tables


def small_tables(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The tables of the smallest recipe around that of its data; drawing defects would take as long as all the rest."""
    run = {"name": "small", "output": str(folder / "runs"), "device": "cpu", "precision": "float32", "synthetic": 0}
    return {
        "run": run,
        "data": data,
        "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1", "layer2"]},
        "scorer": {"use": "knn", "k": 1},
        "localizer": {"use": "bilinear", "smoothing": 2.0},
    }
