"""What a scoring path makes of a list of pictures: raw scores, and the pixel figures as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adkit.assemble import Assembled
from adkit.data.samples import Sample
from adkit.engines import Judged, create_evaluator, outputs, without_padding
from adkit.inference import ScoringPath
from adkit.metrics import PixelMetrics
from adkit.sources import Source
from adkit.utils.progress import Advance

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Evaluation:
    """Raw scores of the pictures that could be read, in the order of the data."""

    samples: list[Sample]
    scores: FloatArray
    members: FloatArray
    """(n, members) each member's own."""
    peaks: FloatArray | None = None
    """(n,) highest values of the maps."""
    pixel: dict[str, float | None] | None = None
    unseen: tuple[str, ...] = ()
    """Anomalous pictures whose mask is empty where the extractor looks."""

    @property
    def labels(self) -> Labels:
        return np.array([sample.label for sample in self.samples], np.int64)


def evaluate(
    path: ScoringPath,
    samples: Sequence[Sample],
    source: Source,
    parts: Assembled,
    advance: Advance,
    *,
    targets: bool,
    peaks: bool,
) -> Evaluation:
    """Score ``samples``; with ``targets``, take the pixel figures where there are masks and maps.

    ``peaks`` asks for the highest value of each map.
    """
    by_id = {sample.id: sample for sample in samples}
    seen: list[Sample] = []
    found: list[Judged] = []
    pixel = PixelMetrics()
    unseen: list[str] = []
    located = False
    evaluator = create_evaluator(path, parts.metric_size, parts.view.size, peaks=peaks)
    for judged in outputs(evaluator, source.stream(samples, advance, targets=targets).embedded()):
        seen += (by_id[picture] for picture in judged.ids)
        if judged.masks is not None:
            empty = ~judged.masks.flatten(1).any(1)
            unseen += (p for p, none in zip(judged.ids, empty.tolist(), strict=True) if none and by_id[p].label)
        if judged.maps is not None:
            for maps, masks in without_padding(judged, parts.view.size):
                pixel.add(maps.numpy(), masks.numpy())
            located = True
        found.append(replace(judged, maps=None, masks=None, regions=None))
    highest = [one.peaks.numpy() for one in found if one.peaks is not None]
    return Evaluation(
        seen,
        np.concatenate([np.zeros(0, np.float32), *(one.scores.numpy() for one in found)]),
        np.concatenate([np.zeros((0, len(path.members)), np.float32), *(one.members.numpy() for one in found)]),
        np.concatenate(highest) if highest else None,
        pixel.compute() if located else None,
        tuple(unseen),
    )


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of folds, one after the other."""
    peaks = [part.peaks for part in parts if part.peaks is not None]
    return Evaluation(
        [sample for part in parts for sample in part.samples],
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.members for part in parts]),
        np.concatenate(peaks) if peaks else None,
    )
