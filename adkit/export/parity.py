"""Measures on real images how far an exported file deviates from its detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adkit.detector.detector import Detector
from adkit.detector.fitted import FittedDetector
from adkit.detector.inputs import input_items

Floats = NDArray[np.floating[Any]]
Run = Callable[[NDArray[np.float32]], Sequence[Floats]]
"""A function from images (n, 3, H, W) to scores (n,) and, where there are any, maps (n, H, W)."""

BATCH = 4
"""The number of images in a batch; each image is also given by itself."""


@dataclass(frozen=True)
class Parity:
    """Largest deviations over all images, relative to the size of the values.

    A score's size is its absolute value, but at least the median one of the images and of the detector's
    calibration: images that were learned from may score next to 0, where all is rounding. A map's size is its
    largest absolute value, but at least the median one of the images and the pixel threshold; its deviation
    is the largest of its pixels'.
    """

    images: int
    batch_sizes: tuple[int, ...]
    score: float
    """The largest deviation of a score."""
    map: float | None
    """The largest deviation of a map; None where the detector does not localize."""

    @property
    def largest(self) -> float:
        """The larger of the two deviations."""
        return float(np.max([self.score, self.map or 0.0]))  # nan where one is


def parity(run: Run, fitted: FittedDetector, images: Sequence[Path]) -> Parity:
    """Compare what ``run`` makes of images, alone and in batches, with what a detector makes of them.

    Args:
        run: the function to check.
        fitted: the detector to compare it with.
        images: the files of at least one image.

    Raises:
        UserError: an image cannot be read.
    """
    detector = Detector(fitted)
    scores, maps = _Values(), _Values()
    sizes = set()
    for first in range(0, len(images), BATCH):
        paths = images[first : first + BATCH]
        inputs = np.stack([read().planes for read in input_items(paths, fitted.view)])
        own = detector.predict(torch.from_numpy(inputs))
        together = np.concatenate([inputs, inputs]) if len(inputs) == 1 else inputs
        sizes |= {1, len(together)}
        batched = [found[: len(inputs)] for found in run(together)]
        alone = [np.concatenate(found) for found in zip(*(run(image[None]) for image in inputs), strict=True)]
        for found in (batched, alone):
            scores.add(found[0], own.scores)
            if own.maps is not None:
                maps.add(found[1], own.maps)
    typical = float(np.median(np.abs(fitted.calibration.astype(np.float64)))) if len(fitted.calibration) else 0.0
    pixel = abs(fitted.pixel_threshold.value) if fitted.pixel_threshold else 0.0
    return Parity(
        images=len(images),
        batch_sizes=tuple(sorted(sizes)),
        score=scores.deviation(typical),
        map=maps.deviation(pixel) if maps else None,
    )


class _Values:
    """Differences between values that were found and expected, one number or one map per image."""

    def __init__(self) -> None:
        self._sizes: list[float] = []
        self._differences: list[float] = []

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, found: Floats, expected: Floats) -> None:
        rows = len(expected)
        self._sizes += np.abs(expected).reshape(rows, -1).max(1).tolist()
        if found.shape == expected.shape:
            self._differences += np.abs(found.astype(np.float64) - expected).reshape(rows, -1).max(1).tolist()
        else:  # what was recorded for one number of images gives as many scores for any other
            self._differences += rows * [np.inf]

    def deviation(self, least: float) -> float:
        """The largest difference relative to its size, ``least`` at least; nan or infinity where one is not finite."""
        sizes = np.maximum(np.array(self._sizes), max(float(np.median(self._sizes)), least))
        differences = np.array(self._differences)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(differences == 0, 0.0, differences / sizes).max())
