"""One category from its normal images to its metrics: fit, calibrate, evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from adkit.data.samples import Category
from adkit.data.splits import folded
from adkit.detector.save import Fitted
from adkit.errors import UserError
from adkit.inference.assemble import Assembled
from adkit.metrics import METRICS, PIXEL_METRICS, image_metrics, mean_and_sem
from adkit.report.report import CategoryReport, ImageCounts, ThresholdReport, TrainingReport
from adkit.runner.evaluate import Evaluation, FloatArray, Labels, evaluate
from adkit.runner.fit import Calibrated, Workspace, calibrate, fit_and_calibrate, split, together, without
from adkit.threshold import Threshold, conformal, p_values, wilson_interval
from adkit.training.trace import ANOMALOUS, NORMAL, TRAIN, collapse
from adkit.utils.text import counted

COLUMNS = ("category", "split", "id", "kind", "label", "score", "p_value", "anomalous", "fold")
"""The columns of ``scores.csv``."""


@dataclass(frozen=True)
class CategoryResult:
    """What a run found in one category: its report, its rows of ``scores.csv``, and warnings."""

    report: CategoryReport
    rows: list[tuple[object, ...]]
    """One row per image, with the columns of COLUMNS."""
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Trial:
    """A fitted detector, its thresholds, and its scores of the test images."""

    fitted: Calibrated
    threshold: Threshold | None
    pixel: Threshold | None
    test: Evaluation
    fold: int | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        return image_metrics(self.test.scores, self.test.labels) | (self.test.pixel or dict.fromkeys(PIXEL_METRICS))


def run_category(category: Category, place: Workspace) -> tuple[CategoryResult, Fitted]:
    """Fit on the training images, set the thresholds by the calibration images, and measure on the test images."""
    if place.parts.recipe.run.folds > 1:
        return _run_folds(category, place)
    trial = _trial(category, fit_and_calibrate(category, place), place)
    with place.display.stage("metrics", category.name):
        concluded = conclude(category, [trial], trial, place)
    return concluded, _kept(category, trial)


def _run_folds(category: Category, place: Workspace) -> tuple[CategoryResult, Fitted]:
    """Run one detector per fold, fitted without the images of that fold, which serve the stopper if there is one."""
    run = place.parts.recipe.run
    folds = folded(category.train, run.folds, run.seed, category.equal)
    if not folds:
        raise UserError(
            f"run.folds: expected at least 2 different normal training images in {category.name}, found "
            f"{len(category.train)}: add some, or remove run.folds"
        )
    trials: list[Trial] = []
    for number, fold in enumerate(folds, 1):
        subject, train = f"{category.name}, fold {number} of {len(folds)}", without(category.train, fold)
        fitted = split(subject, train, fold, category.calibration, category.equal, place, place.of_fold(number))
        trial = _trial(category, fitted, place, number)
        # Only what is saved stays in memory.
        trials.append(trial if run.fold_members or not trials else replace(trial, fitted=fitted.forgotten()))
    kept = _trial(category, _of_folds(category, trials, place), place) if run.fold_members else trials[0]
    with place.display.stage("metrics", category.name):
        concluded = conclude(category, trials, kept, place)
    return concluded, _kept(category, kept)


def _of_folds(category: Category, trials: Sequence[Trial], place: Workspace) -> Calibrated:
    """One detector with the members of all folds, calibrated by the category's calibration images."""
    embeddings, path = together([trial.fitted for trial in trials], place.parts)
    members = replace(trials[0].fitted, embeddings=embeddings, path=path, trained=len(category.train))
    calibration = calibrate(category.name, path, category.calibration, members.source(place), place)
    return replace(members, calibration=calibration)


def _trial(category: Category, fitted: Calibrated, place: Workspace, fold: int | None = None) -> Trial:
    rate, calibration = place.parts.recipe.threshold.false_positive_rate, fitted.calibration
    threshold = conformal(calibration.scores, rate) if len(calibration.scores) else None
    pixel = None if calibration.peaks is None else conformal(calibration.peaks, rate)
    subject = category.name if fold is None else f"{category.name}, fold {fold}"
    with place.display.stage("evaluate", subject, len(category.test)) as advance:
        source, peaks = fitted.source(place), pixel is not None
        test = evaluate(fitted.path, category.test, source, place.parts, advance, targets=True, peaks=peaks)
    return Trial(replace(fitted, trainings=_traced(subject, category, fitted, place)), threshold, pixel, test, fold)


def _traced(subject: str, category: Category, fitted: Calibrated, place: Workspace) -> list[TrainingReport]:
    """The reports of the trainings with the distances at their snapshots, measured when nothing is left to decide."""
    found = []
    tested = {label: [sample for sample in category.test if sample.label == label] for label in (0, 1)}
    for training, snapshots in zip(fitted.trainings, fitted.snapshots, strict=True):
        if snapshots.state.snapshots:
            groups = {TRAIN: snapshots.samples, "held_out": snapshots.held_out, NORMAL: tested[0], ANOMALOUS: tested[1]}
            with place.display.stage("trace", subject) as advance:
                traced = snapshots.trace(groups, advance)
            training = training.model_copy(update={"snapshots": traced})
        found.append(training)
    return found


def _kept(category: Category, trial: Trial) -> Fitted:
    fitted = trial.fitted
    scores = fitted.calibration.scores
    return Fitted(category.name, fitted.embeddings, fitted.path, scores, trial.threshold, trial.pixel)


def conclude(category: Category, trials: Sequence[Trial], kept: Trial, place: Workspace) -> CategoryResult:
    """Metrics and rows of a category from the raw scores of every fold, and the threshold of the kept detector."""
    metrics = [trial.metrics for trial in trials]
    summed = {name: mean_and_sem([one[name] for one in metrics]) for name in METRICS}
    test, calibration = kept.test, kept.fitted.calibration
    folds = len(category.folds)
    report = CategoryReport(
        metrics={name: mean for name, (mean, _) in summed.items()},
        sem={name: sem for name, (_, sem) in summed.items()} if len(trials) > 1 else None,
        folds=metrics if len(trials) > 1 else [],
        fold_members=kept.metrics if kept not in trials else None,
        images=ImageCounts(
            train=kept.fitted.trained,
            stopping=kept.fitted.stopping,
            calibration=len(calibration.samples),
            test_normal=int((test.labels == 0).sum()),
            test_anomalous=int((test.labels == 1).sum()),
            unreadable=sum(s.id in place.source.bad for s in category.samples),
        ),
        threshold=_threshold_report(kept.threshold, folds, test.scores, test.labels),
        pixel_threshold=None if test.peaks is None else _threshold_report(kept.pixel, folds, test.peaks, test.labels),
        trainings=[training for trial in trials for training in trial.fitted.trainings],
    )
    result = trials if kept in trials else [*trials, kept]
    rows = [row for trial in result for row in _rows(category.name, trial, len(trials) > 1)]
    doubts = [f"{category.name}: {text}" for text in _doubts(category, place.parts, test, kept.threshold)]
    doubts += [f"{one.subject}: {text}" for one in report.trainings if (text := collapse(one))]
    return CategoryResult(report, rows, doubts)


def _doubts(category: Category, parts: Assembled, test: Evaluation, threshold: Threshold | None) -> Iterator[str]:
    """Warnings of what a reader of the metrics should know and would not see in them."""
    folds = parts.recipe.run.folds
    if folds > len(category.train):
        yield f"run.folds: {len(category.train)} normal training images make fewer than {folds} folds"
    if threshold is None and (parts.recipe.data.calibration or parts.recipe.threshold.parts):
        yield "too few normal images to keep any back for a threshold, so there is none"
    if threshold is not None and not threshold.kept:
        needed = math.ceil(1 / threshold.asked) - 1
        cross = "" if parts.recipe.run.folds > 1 else ' or set threshold.method = "cross"'
        remedy = "" if category.folds else f", raise data.calibration{cross}"
        yield (
            f"{counted(threshold.calibration, 'calibration image')} cannot promise a false-positive rate of "
            f"{threshold.asked:g}; the threshold keeps {threshold.supported:.3g}, the smallest that so few support. "
            f"It takes {counted(needed, 'image')}: add normal images{remedy}"
        )
    if not len(test.labels):
        yield "no test images, so it has no metrics and is left out of the mean"
    elif len(set(test.labels.tolist())) < 2:
        kind = "normal" if test.labels[0] else "anomalous"
        yield f"no {kind} test images, so it has no image metrics and is left out of their mean"
    if test.pixel is None and any(sample.mask is not None for sample in category.test):
        yield "there are masks but no map, so there are no pixel metrics: name a spatial level in extractor.levels"
    if test.unseen:
        named = ", ".join(test.unseen[:3]) + ", …" * (len(test.unseen) > 3)
        yield (
            f"no anomalous pixel where the extractor looks (see data.crop, data.resize, data.metric_size) in "
            f"{counted(len(test.unseen), 'anomalous image')}, counted as anomalous all the same: {named}"
        )


def _threshold_report(
    threshold: Threshold | None, folds: int, values: FloatArray, labels: Labels
) -> ThresholdReport | None:
    """A threshold with the share of the test images above it, by their scores or the highest values of their maps."""
    if threshold is None:
        return None
    above = values > threshold.value
    normal = labels == 0
    interval = wilson_interval(int(above[normal].sum()), int(normal.sum()))

    def share(label: int) -> float | None:
        return float(above[labels == label].mean()) if (labels == label).any() else None

    return ThresholdReport(
        value=threshold.value,
        method="cross" if folds else "split",
        folds=folds or None,
        calibration_images=threshold.calibration,
        false_positive_rate_asked=threshold.asked,
        false_positive_rate_supported=threshold.supported,
        test_false_positive_rate=share(0),
        test_false_positive_interval=interval if normal.any() else None,
        test_recall=share(1),
    )


def _rows(category: str, trial: Trial, several: bool) -> Iterator[tuple[object, ...]]:
    for part, evaluation in (("calibration", trial.fitted.calibration), ("test", trial.test)):
        ps: Sequence[object] = [""] * len(evaluation.samples)
        above: Sequence[object] = ps
        if trial.threshold is not None:
            if part == "test":  # a calibration image has no p-value: it would be compared with itself
                ps = [f"{p:.6g}" for p in p_values(evaluation.scores, trial.fitted.calibration.scores)]
            above = [int(score > trial.threshold.value) for score in evaluation.scores]
        fold = trial.fold or ("all" if several else "")
        for sample, score, p, anomalous in zip(evaluation.samples, evaluation.scores, ps, above, strict=True):
            # str of a float32 is the shortest text that reads back as the same float32
            yield category, part, sample.id, sample.kind, sample.label, str(score), p, anomalous, fold
