"""One category from its normal pictures to its figures: fit, calibrate, evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adkit.assemble import Assembled, who
from adkit.blame import blaming
from adkit.data.samples import Category, Sample
from adkit.engines import create_evaluator, outputs, without_padding
from adkit.inference import ScoringPath
from adkit.metrics import PixelMetrics, image_metrics
from adkit.progress import Advance, Display
from adkit.report import PIXEL_METRICS, CategoryReport, Pictures, ThresholdReport
from adkit.saving import Fitted, FloatArray
from adkit.sources import Source
from adkit.threshold import Threshold, p_values, split_conformal, wilson_interval

COLUMNS = ("category", "split", "id", "kind", "label", "score", "p_value", "anomalous")
"""Of ``scores.csv``."""


@dataclass(frozen=True)
class Judgement:
    report: CategoryReport
    rows: list[tuple[object, ...]]
    """A row a picture, under COLUMNS."""
    warnings: list[str]


@dataclass(frozen=True)
class Evaluation:
    """Raw scores of the pictures that could be read, in the order of the data."""

    samples: list[Sample]
    scores: FloatArray
    pixel: dict[str, float | None] | None = None
    unseen: tuple[str, ...] = ()
    """Anomalous pictures whose mask is empty where the extractor looks."""

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([sample.label for sample in self.samples], np.int64)


def judge(category: Category, source: Source, parts: Assembled, display: Display) -> tuple[Judgement, Fitted]:
    """Fit on the training pictures, set the threshold by the calibration pictures, measure on the test pictures."""
    scorer = parts.new_scorer()
    with display.stage("fit", category.name, len(category.train)) as advance:
        stream = source.stream(category.train, advance, targets=False)
        with blaming(who(parts.recipe.scorer)):
            scorer.fit(stream)
    path = parts.scoring_path(scorer)
    with display.stage("calibrate", category.name, len(category.calibration)) as advance:
        calibration = evaluate(path, category.calibration, source, parts, advance, targets=False)
    with display.stage("evaluate", category.name, len(category.test)) as advance:
        test = evaluate(path, category.test, source, parts, advance, targets=True)
    with display.stage("metrics", category.name):
        rate = parts.recipe.threshold.false_positive_rate
        threshold = split_conformal(calibration.scores, rate) if len(calibration.scores) else None
        judgement = conclude(category, stream.pictures, calibration, test, source, threshold)
    return judgement, Fitted(category.name, scorer, calibration.scores, threshold)


def evaluate(
    path: ScoringPath,
    samples: Sequence[Sample],
    source: Source,
    parts: Assembled,
    advance: Advance,
    *,
    targets: bool,
) -> Evaluation:
    """Score ``samples``; with ``targets``, take the pixel figures where there are masks and maps."""
    by_id = {sample.id: sample for sample in samples}
    seen: list[Sample] = []
    scores: list[FloatArray] = []
    pixel = PixelMetrics()
    unseen: list[str] = []
    located = False
    evaluator = create_evaluator(path, parts.metric_size, parts.view.size)
    for judged in outputs(evaluator, source.stream(samples, advance, targets=targets).embedded()):
        seen += (by_id[picture] for picture in judged.ids)
        scores.append(judged.scores.numpy())
        if judged.masks is not None:
            empty = ~judged.masks.flatten(1).any(1)
            unseen += (p for p, none in zip(judged.ids, empty.tolist(), strict=True) if none and by_id[p].label)
        if judged.maps is not None:
            for maps, masks in without_padding(judged, parts.view.size):
                pixel.add(maps.numpy(), masks.numpy())
            located = True
    raw = np.concatenate(scores) if scores else np.zeros(0, np.float32)
    return Evaluation(seen, raw, pixel.compute() if located else None, tuple(unseen))


def conclude(
    category: Category,
    trained: int,
    calibration: Evaluation,
    test: Evaluation,
    source: Source,
    threshold: Threshold | None,
) -> Judgement:
    """Figures and rows from the raw scores."""
    metrics = image_metrics(test.scores, test.labels) | (test.pixel or dict.fromkeys(PIXEL_METRICS))
    report = CategoryReport(
        metrics=metrics,
        pictures=Pictures(
            train=trained,
            calibration=len(calibration.samples),
            test_normal=int((test.labels == 0).sum()),
            test_anomalous=int((test.labels == 1).sum()),
            unreadable=sum(s.id in source.bad for s in category.samples),
        ),
        threshold=_threshold_report(threshold, test),
    )
    rows = [
        *_rows(category.name, "calibration", calibration, calibration, threshold),
        *_rows(category.name, "test", test, calibration, threshold),
    ]
    return Judgement(
        report, rows, [f"{category.name}: {text}" for text in _doubts(category, calibration, test, threshold)]
    )


def _doubts(
    category: Category, calibration: Evaluation, test: Evaluation, threshold: Threshold | None
) -> Iterator[str]:
    """What a reader of the figures should know and would not see."""
    if threshold is not None and not threshold.kept:
        needed = math.ceil(1 / threshold.asked) - 1
        yield (
            f"{threshold.calibration} calibration pictures cannot promise a false-positive rate of "
            f"{threshold.asked:g}; the threshold keeps {threshold.supported:.3g}, the smallest that they support. "
            f"It takes {needed} of them: add normal pictures or raise data.calibration"
        )
    if not len(test.labels):
        yield "no test pictures, so there are no metrics and the mean leaves it out"
    elif len(set(test.labels.tolist())) < 2:
        kind = "normal" if test.labels[0] else "anomalous"
        yield f"no {kind} test pictures, so there are no image metrics and the mean leaves it out"
    if test.pixel is None and any(sample.mask is not None for sample in category.test):
        yield "there are masks but no map, so there are no pixel metrics: name a spatial level in extractor.levels"
    if test.unseen:
        named = ", ".join(test.unseen[:3]) + ", …" * (len(test.unseen) > 3)
        yield (
            f"{len(test.unseen)} anomalous pictures have no anomalous pixel where the extractor looks (see data.crop, "
            f"data.resize, data.metric_size) and count as anomalous all the same: {named}"
        )


def _threshold_report(threshold: Threshold | None, test: Evaluation) -> ThresholdReport | None:
    if threshold is None:
        return None
    above = test.scores > threshold.value
    normal = test.labels == 0
    interval = wilson_interval(int(above[normal].sum()), int(normal.sum()))

    def share(label: int) -> float | None:
        return float(above[test.labels == label].mean()) if (test.labels == label).any() else None

    return ThresholdReport(
        value=threshold.value,
        calibration_pictures=threshold.calibration,
        false_positive_rate_asked=threshold.asked,
        false_positive_rate_supported=threshold.supported,
        test_false_positive_rate=share(0),
        test_false_positive_interval=interval if normal.any() else None,
        test_recall=share(1),
    )


def _rows(
    category: str, split: str, evaluation: Evaluation, calibration: Evaluation, threshold: Threshold | None
) -> Iterator[tuple[object, ...]]:
    ps: Sequence[object] = [""] * len(evaluation.samples)
    above: Sequence[object] = ps
    if threshold is not None:
        if split == "test":  # a calibration picture has no p-value: it would be compared with itself
            ps = [f"{p:.6g}" for p in p_values(evaluation.scores, calibration.scores)]
        above = [int(score > threshold.value) for score in evaluation.scores]
    for sample, score, p, anomalous in zip(evaluation.samples, evaluation.scores, ps, above, strict=True):
        # str of a float32 is the shortest text that reads back as the same float32
        yield category, split, sample.id, sample.kind, sample.label, str(score), p, anomalous
