"""How well a detector tells held-out normal images from the same with drawn defects: no test image takes part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final

import numpy as np

from adkit.data.samples import Sample
from adkit.inference.assemble import Assembled
from adkit.inference.engines import Embedded
from adkit.inference.pipeline import Pipeline, extract
from adkit.inference.sources import ImageSource
from adkit.inference.synthetic import KINDS, drawn
from adkit.metrics import image_metrics
from adkit.runner.evaluate import Evaluation
from adkit.utils.progress import Advance

_DRAWN: Final = " with a drawn "
"""Stands in the name of a drawn image between that of the image that it was made of and the kind."""


def synthetic_aurocs(
    pipeline: Pipeline,
    normal: Evaluation,
    parts: Assembled,
    images: ImageSource,
    advance: Advance,
) -> dict[str, float]:
    """Compute the image AUROC of each kind of drawn defect against all held-out normal images.

    Args:
        normal: the held-out normal images with their scores by ``pipeline``.
        images: their source.

    Returns:
        Kind → AUROC; empty without held-out images.

    Raises:
        UserError: a feature or a score of a drawn image is not finite; the sentence names the image and the kind.
    """
    if not len(normal.scores):
        return {}
    scores: dict[str, list[float]] = defaultdict(list)
    asked, seed = parts.recipe.run.synthetic, parts.context.seed
    count = min(asked, len(normal.samples) * len(KINDS))

    def made(samples: Sequence[Sample]) -> Iterator[Embedded]:
        for batch in drawn(samples, asked, parts, images.bad):
            names = tuple(f"{id}{_DRAWN}{kind}" for id, kind in zip(batch.ids, batch.kinds, strict=True))
            yield Embedded(extract(pipeline.embeddings, batch.images), names)
            advance(len(names))

    what = f"{count} drawn by seed {seed}"
    for item in images.drawn(what, normal.samples, pipeline.embeddings, count, made, advance):
        found = pipeline.score(item.features, item.ids).image
        for name, score in zip(item.ids, found.tolist(), strict=True):
            scores[name.rpartition(_DRAWN)[2]].append(score)
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
