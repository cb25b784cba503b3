"""How well a detector tells held-out normal images from the same with drawn defects: no test image takes part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

import numpy as np

from adkit.data.loader import BadImages
from adkit.inference.assemble import Assembled
from adkit.inference.pipeline import Pipeline
from adkit.inference.synthetic import KINDS, drawn
from adkit.metrics import image_metrics
from adkit.runner.evaluate import Evaluation
from adkit.utils.progress import Advance


def synthetic_aurocs(
    pipeline: Pipeline,
    normal: Evaluation,
    parts: Assembled,
    bad: BadImages,
    advance: Advance,
) -> dict[str, float]:
    """Compute the image AUROC of each kind of drawn defect against all held-out normal images.

    Args:
        normal: the held-out normal images with their scores by ``pipeline``.

    Returns:
        Kind → AUROC; empty without held-out images.

    Raises:
        UserError: a feature or a score of a drawn image is not finite; the sentence names the image and the kind.
    """
    if not len(normal.scores):
        return {}
    scores: dict[str, list[float]] = defaultdict(list)
    for batch in drawn(normal.samples, parts.recipe.run.synthetic, parts, bad):
        names = [f"{id} with a drawn {kind}" for id, kind in zip(batch.ids, batch.kinds, strict=True)]
        found = pipeline(batch.images, names).image
        for kind, score in zip(batch.kinds, found.tolist(), strict=True):
            scores[kind].append(score)
        advance(len(batch.ids))
    aurocs = {}
    for kind in (kind for kind in KINDS if kind in scores):
        values = np.concatenate([normal.scores, np.array(scores[kind], np.float32)])
        labels = np.repeat([0, 1], [len(normal.scores), len(scores[kind])])
        value = image_metrics(values, labels)["image_auroc"]
        assert value is not None  # both labels are there
        aurocs[kind] = value
    return aurocs


def mean_aurocs(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Compute the mean of each kind over several detectors, such as those of folds, over those that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for kind, value in one.items():
            values[kind].append(value)
    return {kind: fmean(values[kind]) for kind in KINDS if kind in values}
