"""From normal images to fitted and calibrated members: adapt, fit, and score the images that were kept back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from adkit.data.samples import Category, Sample
from adkit.data.splits import folded
from adkit.errors import UserError
from adkit.inference.assemble import Assembled
from adkit.inference.pipeline import Embedding, Member, Pipeline
from adkit.inference.sources import Source
from adkit.inference.synthetic import KINDS
from adkit.logs.logs import NO_LOGS, Logs
from adkit.plugin.guard import check_state
from adkit.plugin.scorer import Scorer
from adkit.recipe.reader import Recipe
from adkit.report.report import TrainingReport
from adkit.runner.evaluate import Evaluation, evaluate, joined
from adkit.runner.near import NearCopyWatch, WatchedStream
from adkit.runner.shown import PageShare
from adkit.runner.synthetic import mean_aurocs, synthetic_aurocs
from adkit.training.adapt import AdaptationJob, Adapted, adapt
from adkit.training.plan import Split, snapshot_rule, split_of
from adkit.training.trace import Snapshots
from adkit.utils.progress import Display

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Workspace:
    """What the work on one category needs: where its features come from, the components, and where to write."""

    source: Source
    parts: Assembled
    display: Display
    folder: Path
    """The folder for checkpoints, which is kept until the category is finished."""
    watch: NearCopyWatch | None = None
    """Sees the features of the category's normal images pass; None where the parts are named, or it saw enough."""
    share: PageShare | None = None
    """What the category may put on the page; None: nothing is kept for it."""
    logs: Logs = NO_LOGS

    def unwatched(self) -> Workspace:
        """The same for the folds after the first: one split is looked at."""
        return replace(self, watch=None)

    def of_fold(self, number: int) -> Path:
        """The folder for the checkpoints of one fold, of which 1 is the first."""
        return self.folder / f"fold-{number}"


@dataclass(frozen=True)
class Calibrated:
    """Fitted members, and their scores of normal images that they were not fitted on."""

    pipeline: Pipeline
    calibration: Evaluation
    trained: Sequence[Sample]
    """The images that the members were fitted on."""
    stopping: Sequence[Sample]
    """The images that were held out for the stopper."""
    trainings: list[TrainingReport]
    snapshots: tuple[Snapshots, ...] = ()
    """The snapshots along each of ``trainings``."""
    seen: tuple[Sequence[Sample], ...] = ()
    """For each member the images that its scorer was fitted on, in the order in which it saw them."""
    synthetic: Mapping[str, float] = field(default_factory=dict)
    """Kind of drawn defect → its image AUROC against the calibration images."""

    def forgotten(self) -> Calibrated:
        """A copy without what takes memory: no member is left to score with."""
        return replace(self, pipeline=self.pipeline.with_members(()), snapshots=())


def folds_of(category: Category, recipe: Recipe) -> tuple[tuple[Sample, ...], ...]:
    """The folds of ``[run] folds``: of the training images or, with ``fold_test``, of all normal images.

    Raises:
        UserError: there are fewer groups than folds.
    """
    normal = category.normal if recipe.run.fold_test else category.train
    return folded(normal, recipe.run.folds, recipe.run.seed, category.groups, "run.folds", category.name)


def fit_and_calibrate(category: Category, place: Workspace) -> Calibrated:
    """Fit and calibrate the members of a category: on all of its training images, or for each of its folds."""
    groups, parts = category.groups, place.parts
    if not category.folds:
        split = split_of(category.name, category.train, category.calibration, groups, parts)
        return fit(split, place, place.folder)
    fitted = []
    for number, fold in enumerate(category.folds, 1):
        subject = f"{category.name}, fold {number} of {len(category.folds)}"
        split = split_of(subject, without(category.train, fold), fold, groups, parts)
        fitted.append(fit(split, place, place.of_fold(number)))
        place = place.unwatched()
    calibration = joined([one.calibration for one in fitted])
    return Calibrated(
        together(fitted),
        calibration,
        calibration.samples,
        fitted[0].stopping,
        [training for one in fitted for training in one.trainings],
        tuple(snapshots for one in fitted for snapshots in one.snapshots),
        seen=tuple(samples for one in fitted for samples in one.seen),
        synthetic=mean_aurocs([one.synthetic for one in fitted]),
    )


def fit(split: Split, place: Workspace, folder: Path) -> Calibrated:
    """Adapt, fit, scale and calibrate: one member per extractor, or per snapshot of it.

    Args:
        folder: the folder for checkpoints.
    """
    parts, bad = place.parts, place.source.bad
    adapted = _adapted(split, place, folder)
    read = [(embedding, one.initial) for one in adapted for embedding in one.embeddings]
    read = read or [(embedding, None) for embedding in parts.embeddings]
    scales = _normalizers(split, [embedding for embedding, _ in read], place) if split.scale else None
    pipeline = parts.pipeline(_fitted(split.subject, split.train, read, place), snapshot_rule(parts) or "mean")
    if scales is not None:
        pipeline = pipeline.scaled(scales)
    found = calibrate(split.subject, pipeline, split.calibration, place)
    if scales is None:
        pipeline = pipeline.scaled(_medians(found))
    drawings = min(parts.recipe.run.synthetic, len(KINDS) * len(found.samples))
    with place.display.stage("synthetic", split.subject, drawings) as advance:
        synthetic = synthetic_aurocs(pipeline, found, parts, place.source.images, advance)
    trained = [sample for sample in split.train if sample.id not in bad]
    return Calibrated(
        pipeline,
        found,
        trained=trained,
        seen=(trained,) * len(pipeline.members),
        stopping=[sample for sample in split.stopping if sample.id not in bad],
        trainings=[one.report for one in adapted],
        # Images that are new to the training: those of the threshold, else of the stopper.
        snapshots=tuple(replace(one.snapshots, held_out=split.calibration or split.stopping) for one in adapted),
        synthetic=synthetic,
    )


def _adapted(split: Split, place: Workspace, folder: Path) -> list[Adapted]:
    """Adapt every extractor of the recipe; none without an adapter."""
    parts, found = place.parts, []
    count = len(parts.trainable)
    for index in range(count):
        title = f"{split.subject}, extractor {index + 1} of {count}" if count > 1 else split.subject
        work = folder / f"extractor-{index}"
        job = AdaptationJob(
            index, split.train, split.stopping, place.source, parts, place.display, title, work, place.logs
        )
        found.append(adapt(job))
    return found


def _fitted(
    subject: str, samples: Sequence[Sample], read: Iterable[tuple[Embedding, Scorer | None]], place: Workspace
) -> list[Member]:
    """One member for each embedding of ``read``, whose scorer is fitted on ``samples`` unless it is there already."""
    members = []
    for number, (embedding, scorer) in enumerate(read):
        if scorer is None:
            scorer = place.parts.new_scorer()
            with place.display.stage("fit", subject, len(samples)) as advance:
                stream = place.source.stream(samples, (embedding,), advance, targets=False)
                if place.watch is not None and number == 0:
                    scorer.fit(WatchedStream(stream, place.watch))
                else:
                    scorer.fit(stream)
                check_state(scorer, place.parts.new_scorer(), stream.levels)
        members.append(Member(embedding, scorer))
    return members


def _normalizers(split: Split, embeddings: Iterable[Embedding], place: Workspace) -> list[float]:
    """The mean score that the member of each embedding gives ``split.scale``, by a scorer of the other images.

    The tenth serves this alone: it was trained on, and the scorer that a member ends with is fitted on all images.

    Raises:
        UserError: a mean that nothing can be divided by.

    Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and the supplement's "SES distance normalization".
    """
    parts, subject = place.parts, split.subject
    rest = without(split.train, split.scale)
    pipeline = parts.pipeline(_fitted(subject, rest, [(one, None) for one in embeddings], place.unwatched()))
    with place.display.stage("scale", subject, len(split.scale)) as advance:
        scores = evaluate(pipeline, split.scale, place.source, parts, advance, targets=False, peaks=False).members
    scales = [float(scale) for scale in scores.mean(0, dtype=np.float64)]
    if not all(0 < scale < math.inf for scale in scales):
        raise UserError(
            f"scorer: expected normal images of {subject} to have scores above 0, by whose mean members are scaled, "
            f"found means {', '.join(f'{scale:g}' for scale in scales)}: images that are all the same tell nothing"
        )
    return scales


def calibrate(subject: str, pipeline: Pipeline, samples: Sequence[Sample], place: Workspace) -> Evaluation:
    """Score the images that thresholds are taken from."""
    parts = place.parts
    with place.display.stage("calibrate", subject, len(samples)) as advance:
        peaks = parts.recipe.threshold.pixel
        watch = None if place.watch is None else partial(place.watch.watched, "calibration")
        return evaluate(pipeline, samples, place.source, parts, advance, targets=False, peaks=peaks, watch=watch)


def together(fitted: Sequence[Calibrated]) -> Pipeline:
    """The members of several in one pipeline."""
    return fitted[0].pipeline.with_members(member for one in fitted for member in one.pipeline.members)


def without(samples: Iterable[Sample], fold: Iterable[Sample]) -> list[Sample]:
    """The ``samples`` that are not in ``fold``."""
    kept_back = {sample.id for sample in fold}
    return [sample for sample in samples if sample.id not in kept_back]


def _medians(calibration: Evaluation) -> list[float | None]:
    """The score that each member gives a typical normal image: the median; None without calibration images."""
    if not len(calibration.scores):
        return [None] * calibration.members.shape[1]
    return [float(scale) for scale in np.median(calibration.members, axis=0)]
