"""A fitted detector in memory: what a run makes, saving takes and loading gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from adkit.data.view import View
from adkit.detector.manifest import ThresholdEntry
from adkit.inference.pipeline import Pipeline
from adkit.plugin.context import Precision
from adkit.threshold import Groups

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True, eq=False)
class FittedDetector:
    """A detector that was fitted on the images of one category."""

    category: str
    view: View
    """The geometry by which an image becomes the input."""
    pipeline: Pipeline
    precision: Precision
    """The precision that it was fitted in; a CPU takes float32 for float16."""
    calibration: FloatArray
    """(m,) raw scores of held-out normal images that thresholds and p-values come from: one per group, or all."""
    groups: Groups | None
    """(m,) equal numbers for images of one group; None: each is of a group of its own."""
    threshold: ThresholdEntry | None
    pixel_threshold: ThresholdEntry | None
    localizes: bool
    """Whether the scores come with maps."""
    probe: float | None
    """The score of a probe image, the first of ``adkit.inference.runtimes.probe_images``, where the detector was made;
    None where it is not finite, or an earlier adkit did not say."""
