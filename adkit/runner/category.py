"""One category from its normal images to its metrics: fit, calibrate, evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
from PIL import Image

from adkit.bootstrap import Tested, intervals
from adkit.data.masks import read_mask
from adkit.data.samples import Category, Sample
from adkit.data.splits import hold_out
from adkit.detector.fitted import FittedDetector
from adkit.detector.manifest import ThresholdEntry
from adkit.inference.assemble import Assembled
from adkit.metrics import METRICS, PIXEL_METRICS, image_metrics, mean_and_sem
from adkit.recipe.reader import Recipe
from adkit.report.page.record import PageRecord
from adkit.report.report import CategoryReport, GroupCounts, ImageCounts, KindReport, TrainingReport
from adkit.runner.evaluate import Evaluation, anomalous_kinds, evaluate
from adkit.runner.fit import (
    Calibrated,
    Workspace,
    calibrate,
    fit,
    fit_and_calibrate,
    folds_of,
    together,
    without,
)
from adkit.runner.page import page_record
from adkit.runner.shown import Keeper
from adkit.runner.synthetic import mean_aurocs
from adkit.runner.thresholds import HeldOut, Trial, threshold_report, too_few
from adkit.threshold import Threshold
from adkit.training.plan import split_of
from adkit.training.trace import ANOMALOUS, NORMAL, TRAIN, collapse
from adkit.utils.freed import FreeMemory
from adkit.utils.text import counted, some

COLUMNS = ("category", "split", "id", "group", "kind", "label", "score", "p_value", "anomalous", "fold")
"""The columns of ``scores.csv``."""


@dataclass(frozen=True)
class CategoryResult:
    """What a run found in one category: its report, its rows of ``scores.csv``, and warnings."""

    report: CategoryReport
    rows: list[tuple[object, ...]]
    """One row per image, with the columns of COLUMNS."""
    warnings: list[str]
    sheet: Image.Image | None = None
    """Pairs of held-out images and their near copies among the training images, if there are any."""
    page: PageRecord | None = None
    """What the page shows of it; None where nothing was to be kept for one."""


def run_category(category: Category, place: Workspace) -> tuple[CategoryResult, FittedDetector]:
    """Fit on the training images, set the thresholds by the calibration images, and measure on the test images."""
    if place.parts.recipe.run.folds > 1:
        return _run_folds(category, place)
    trial = _trial(category, fit_and_calibrate(category, place), place, kept=True)
    return _concluded(category, [trial], trial, place, place)


def _run_folds(category: Category, place: Workspace) -> tuple[CategoryResult, FittedDetector]:
    """Run one detector per fold, fitted without the images of that fold.

    Those images serve the stopper if there is one or, with ``fold_test``, are the normal test images of that detector.
    """
    run = place.parts.recipe.run
    folds = folds_of(category, place.parts.recipe)
    trials: list[Trial] = []
    watched = place
    for number, fold in enumerate(folds, 1):
        one = _without(category, fold, place) if run.fold_test else category
        subject, folder = f"{category.name}, fold {number} of {len(folds)}", place.of_fold(number)
        train, stopping = (one.train, None) if run.fold_test else (without(category.train, fold), fold)
        split = split_of(subject, train, one.calibration, one.groups, place.parts, stopping)
        kept_one = number == 1 and not run.fold_members
        trial = _trial(one, fit(split, place, folder), place, number, kept=kept_one)
        # Only what is saved stays in memory.
        trials.append(trial if run.fold_members or not trials else replace(trial, fitted=trial.fitted.forgotten()))
        place = place.unwatched()
    kept = _trial(category, _of_folds(category, trials, place), place, kept=True) if run.fold_members else trials[0]
    return _concluded(category, trials, kept, place, watched)


def _without(category: Category, fold: Sequence[Sample], place: Workspace) -> Category:
    """The category as the detector has it that is tested on ``fold``: all other normal images fit and calibrate it."""
    recipe = place.parts.recipe
    rest = without(category.normal, fold)
    train, calibration = hold_out(rest, recipe.data.calibration, recipe.run.seed, "calibration", category.groups)
    anomalous = [sample for sample in category.test if sample.label]
    return replace(category, train=tuple(train), calibration=tuple(calibration), test=(*fold, *anomalous))


def _of_folds(category: Category, trials: Sequence[Trial], place: Workspace) -> Calibrated:
    """One detector with the members of all folds, calibrated by the category's calibration images."""
    pipeline = together([trial.fitted for trial in trials])
    calibration = calibrate(category.name, pipeline, category.calibration, place)
    seen = tuple(samples for trial in trials for samples in trial.fitted.seen)
    return replace(trials[0].fitted, pipeline=pipeline, trained=category.train, seen=seen, calibration=calibration)


def _trial(
    category: Category, fitted: Calibrated, place: Workspace, fold: int | None = None, *, kept: bool = False
) -> Trial:
    """Test a fitted detector; the one that is ``kept`` is shown on the page."""
    recipe = place.parts.recipe
    held_out = HeldOut.of(fitted.calibration, category.groups, recipe.threshold, recipe.run.seed)
    subject = category.name if fold is None else f"{category.name}, fold {fold}"
    with place.display.stage("evaluate", subject, len(category.test)) as advance:
        watch = None if place.watch is None else partial(place.watch.watched, "test")
        keeper = None
        if kept and place.share is not None and place.share.pictures:
            keeper = Keeper(place.share.pictures, {sample.id: sample.label for sample in category.test})
        test = evaluate(
            fitted.pipeline,
            category.test,
            place.source,
            place.parts,
            advance,
            targets=True,
            peaks=held_out.peaks is not None,
            watch=watch,
            keeper=keeper,
        )
    fitted = replace(fitted, trainings=_traced(subject, category, fitted, place))
    return Trial(fitted, held_out, held_out.threshold, held_out.pixel_threshold, test, fold)


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


def _concluded(
    category: Category, trials: Sequence[Trial], kept: Trial, place: Workspace, watched: Workspace
) -> tuple[CategoryResult, FittedDetector]:
    """What the trials found, with its page, and the kept detector; ``watched`` is the workspace of the first trial."""
    with place.display.stage("metrics", category.name):
        result = conclude(category, trials, kept, watched)
    FreeMemory().give_back()  # of intervals, whose resamples are as many as the images
    return _with_page(result, category, trials, kept, place), _kept(category, kept, place.parts)


def _kept(category: Category, trial: Trial, parts: Assembled) -> FittedDetector:
    """The detector of a trial, as it is saved."""
    table = parts.recipe.threshold

    def stated(threshold: Threshold | None) -> ThresholdEntry | None:
        if threshold is None:
            return None
        return ThresholdEntry.of(threshold, table.method, table.per, grouped=category.grouped)

    probed = trial.fitted.pipeline.probed(parts.view.size)
    return FittedDetector(
        category=category.name,
        view=parts.view,
        pipeline=trial.fitted.pipeline,
        precision=parts.context.precision,
        calibration=trial.held_out.scores,
        groups=trial.held_out.groups,
        threshold=stated(trial.threshold),
        pixel_threshold=stated(trial.pixel),
        localizes=probed.localizes,
        probe=probed.first,
    )


def conclude(category: Category, trials: Sequence[Trial], kept: Trial, place: Workspace) -> CategoryResult:
    """Metrics and rows of a category from the raw scores of every fold, and the threshold of the kept detector."""
    metrics = [trial.metrics for trial in trials]
    summed = {name: mean_and_sem([one[name] for one in metrics]) for name in METRICS}
    # With fold_test every fold has normal test images of its own; otherwise all have those of the kept detector.
    tested = trials if place.parts.recipe.run.fold_test else [kept]
    synthetic = mean_aurocs(trial.fitted.synthetic for trial in trials)
    exact = {name: mean for name, (mean, _) in summed.items()}
    tests = [Tested(t.test.scores, t.test.labels, t.test.keys(category.groups), t.test.counts) for t in trials]
    found = intervals(tests, exact, place.parts.context.seed_for("intervals"))
    report = CategoryReport(
        metrics=exact,
        intervals=found.values,
        intervals_missing=found.missing,
        kinds=_kinds(kept.test),
        sem={name: sem for name, (_, sem) in summed.items()} if len(trials) > 1 else None,
        folds=metrics if len(trials) > 1 else [],
        fold_members=kept.metrics if kept not in trials else None,
        images=_counts(category, kept, tested, place),
        range=category.range,
        synthetic_auroc=fmean(synthetic.values()) if synthetic else None,
        synthetic=synthetic,
        runtimes=[str(embedding.runtime) for embedding in kept.fitted.pipeline.embeddings],
        threshold=threshold_report(category, kept, tested, place, pixel=False),
        pixel_threshold=threshold_report(category, kept, tested, place, pixel=True),
        trainings=[training for trial in trials for training in trial.fitted.trainings],
    )
    result = trials if kept in trials else [*trials, kept]
    rows = [row for trial in result for row in _rows(category, trial, len(trials) > 1)]
    doubts = [f"{category.name}: {text}" for text in _doubts(category, place.parts, kept)]
    doubts += [f"{one.subject}: {text}" for one in report.trainings if (text := collapse(one))]
    near = None if place.watch is None else place.watch.report()
    if near is None:
        return CategoryResult(report, rows, doubts)
    return CategoryResult(report, rows, [*doubts, *near.warnings], near.sheet)


def _with_page(
    result: CategoryResult, category: Category, trials: Sequence[Trial], kept: Trial, place: Workspace
) -> CategoryResult:
    """``result`` with what the page shows of the kept detector, unless nothing was to be kept for one."""
    if place.share is None:
        return result
    with place.display.stage("page", category.name):
        page = page_record(category, kept, place.share, _notes(trials, kept, place.parts.recipe))
    return replace(result, page=page)


def _notes(trials: Sequence[Trial], kept: Trial, recipe: Recipe) -> list[str]:
    """What to say where the page shows one detector of several."""
    if len(trials) == 1:
        return []
    which = "that has the members of all folds" if kept not in trials else f"of fold {kept.fold}"
    rates = ", as is the rate of false alarms of the report" if recipe.run.fold_test else ""
    return [
        f"Images, curves and counts are those of the saved detector, the one {which}. Metrics are means over "
        f"{len(trials)} folds{rates}."
    ]


def _kinds(test: Evaluation) -> dict[str, KindReport]:
    """The metrics of each kind of anomaly against all normal test images."""
    kinds = {}
    for kind in anomalous_kinds(test.samples):
        chosen = np.array([not sample.label or sample.kind == kind for sample in test.samples])
        metrics = image_metrics(test.scores[chosen], test.labels[chosen])
        pixel = test.pixel_kinds.get(kind) or dict.fromkeys(PIXEL_METRICS)
        kinds[kind] = KindReport(images=int(test.labels[chosen].sum()), metrics=metrics | pixel)
    return kinds


def _counts(category: Category, kept: Trial, tested: Sequence[Trial], place: Workspace) -> ImageCounts:
    """How many images the kept detector was made of, and how many were tested, each once."""
    used = {
        "train": list(kept.fitted.trained),
        "stopping": list(kept.fitted.stopping),
        "calibration": kept.fitted.calibration.samples,
        "test_normal": [sample for trial in tested for sample in trial.test.samples if not sample.label],
        "test_anomalous": [sample for sample in kept.test.samples if sample.label],
    }
    groups = {name: len({category.group_of(sample) for sample in samples}) for name, samples in used.items()}
    return ImageCounts(
        **{name: len(samples) for name, samples in used.items()},
        groups=GroupCounts(**groups) if category.grouped else None,
        unreadable=sum(sample.id in place.source.bad for sample in category.samples),
    )


def _doubts(category: Category, parts: Assembled, kept: Trial) -> Iterator[str]:
    """Warnings of what a reader of the metrics should know and would not see in them."""
    test, threshold = kept.test, kept.threshold
    if threshold is None and kept.held_out.alike:
        yield (
            f"the {counted(len(kept.held_out.scores), 'normal image')} kept back for a threshold have all the same "
            f"score, {kept.held_out.scores[0]:g}, so there is none: they look all alike to the extractor; look at the "
            "images, and at extractor.levels and data.image_size"
        )
    elif threshold is None and (parts.recipe.data.calibration or parts.recipe.threshold.parts):
        if category.grouped:
            yield (
                "no group of normal images could be kept back for a threshold, so there is none: it takes one "
                "not trained on"
            )
        else:
            yield "too few normal images to keep any back for a threshold, so there is none"
    if threshold is not None:
        yield from too_few(category, kept, parts.recipe)
    if not len(test.labels):
        yield "no test images, so it has no metrics and is left out of the mean"
    elif len(set(test.labels.tolist())) < 2:
        kind = "normal" if test.labels[0] else "anomalous"
        yield f"no {kind} test images, so it has no image metrics and is left out of their mean"
    if test.pixel is None and any(sample.mask is not None for sample in category.test):
        yield "there are masks but no map, so there are no pixel metrics: name a spatial level in extractor.levels"
    # What is empty as a whole has been said when the masks were checked.
    masks, level = {sample.id: sample.mask for sample in category.test}, parts.recipe.data.mask_threshold or 0
    cut = [id for id in test.unseen if (mask := masks[id]) is not None and read_mask(mask, level).any()]
    if cut:
        yield (
            f"no anomalous pixel where the extractor looks (see data.crop, data.resize, data.metric_size) in "
            f"{counted(len(cut), 'anomalous image')}, counted as anomalous all the same: {some(cut, 3)}"
        )


def _rows(category: Category, trial: Trial, several: bool) -> Iterator[tuple[object, ...]]:
    for part, evaluation in (("calibration", trial.fitted.calibration), ("test", trial.test)):
        ps: Sequence[object] = [""] * len(evaluation.samples)
        above: Sequence[object] = ps
        if trial.threshold is not None:
            # A calibration image has no p-value: it would be compared with itself.
            if part == "test" and len(trial.held_out.scores):
                ps = [f"{p:.6g}" for p in trial.held_out.p_values(evaluation.scores)]
            above = [int(score > trial.threshold.value) for score in evaluation.scores]
        fold = trial.fold or ("all" if several else "")
        for sample, score, p, anomalous in zip(evaluation.samples, evaluation.scores, ps, above, strict=True):
            group = "" if sample.group is None else category.group_of(sample)
            # str of a float32 is the shortest text that reads back as the same float32
            yield category.name, part, sample.id, group, sample.kind, sample.label, str(score), p, anomalous, fold
