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
from adkit.inference.pipeline import Embedding, Member, ScoringPath
from adkit.inference.sources import Source
from adkit.inference.synthetic import KINDS
from adkit.plugin.guard import check_state
from adkit.plugin.types import Fuse
from adkit.recipe.reader import Recipe
from adkit.report.report import TrainingReport
from adkit.runner.evaluate import Evaluation, evaluate, joined
from adkit.runner.near import NearCopyWatch, WatchedStream
from adkit.runner.synthetic import mean_aurocs, synthetic_aurocs
from adkit.training.adapt import AdaptationJob, Adapted, adapt
from adkit.training.plan import snapshot_rule, split_for_scale, split_for_stopping
from adkit.training.trace import Snapshots
from adkit.utils.progress import Display

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Workspace:
    """What the work on one category needs: where its features come from, the components, and where to write."""

    source: Source
    """The source of the features of ψ₀, the pretrained extractor."""
    parts: Assembled
    display: Display
    folder: Path
    """The folder for checkpoints, which is kept until the category is finished."""
    watch: NearCopyWatch | None = None
    """Sees the features of the category's normal images pass; None where the parts are named, or it saw enough."""

    def unwatched(self) -> Workspace:
        """The same for the folds after the first: one split is looked at."""
        return replace(self, watch=None)

    def of_fold(self, number: int) -> Path:
        """The folder for the checkpoints of one fold, of which 1 is the first."""
        return self.folder / f"fold-{number}"


@dataclass(frozen=True)
class Calibrated:
    """Fitted members, and their scores of normal images that they were not fitted on."""

    embeddings: tuple[Embedding, ...]
    path: ScoringPath
    calibration: Evaluation
    trained: Sequence[Sample]
    """The images that the members were fitted on."""
    stopping: Sequence[Sample]
    """The images that were held out for the stopper."""
    trainings: list[TrainingReport]
    snapshots: tuple[Snapshots, ...] = ()
    """The snapshots along each of ``trainings``."""
    synthetic: Mapping[str, float] = field(default_factory=dict)
    """Kind of drawn defect → its image AUROC against the calibration images."""

    def forgotten(self) -> Calibrated:
        """A copy without what takes memory: no member is left to score with."""
        return replace(self, embeddings=(), path=self.path.with_members(()), snapshots=())

    def source(self, place: Workspace) -> Source:
        """The source of the features that the members read."""
        own = self.embeddings is place.parts.embeddings
        return place.source if own else place.source.fresh(self.embeddings)


def folds_of(category: Category, recipe: Recipe) -> tuple[tuple[Sample, ...], ...]:
    """The folds of ``[run] folds``: of the training images or, with ``fold_test``, of all normal images.

    Raises:
        UserError: there are fewer groups than folds.
    """
    normal = category.normal if recipe.run.fold_test else category.train
    return folded(normal, recipe.run.folds, recipe.run.seed, category.groups, "run.folds", category.name)


def fit_and_calibrate(category: Category, place: Workspace) -> Calibrated:
    """Fit and calibrate the members of a category: on all of its training images, or for each of its folds."""
    if not category.folds:
        return split(category.name, category.train, None, category.calibration, category.groups, place, place.folder)
    fitted = []
    for number, fold in enumerate(category.folds, 1):
        subject = f"{category.name}, fold {number} of {len(category.folds)}"
        train = without(category.train, fold)
        fitted.append(split(subject, train, None, fold, category.groups, place, place.of_fold(number)))
        place = place.unwatched()
    embeddings, path = together(fitted, place.parts)
    calibration = joined([one.calibration for one in fitted])
    trainings = [training for one in fitted for training in one.trainings]
    snapshots = tuple(snapshots for one in fitted for snapshots in one.snapshots)
    return Calibrated(
        embeddings,
        path,
        calibration,
        calibration.samples,
        fitted[0].stopping,
        trainings,
        snapshots,
        mean_aurocs([one.synthetic for one in fitted]),
    )


def split(
    subject: str,
    train: Sequence[Sample],
    held_out: Sequence[Sample] | None,
    calibration: Sequence[Sample],
    groups: Mapping[str, str],
    place: Workspace,
    folder: Path,
) -> Calibrated:
    """Fit one member per extractor on ``train``, and calibrate them by images that serve nothing else.

    Args:
        subject: the name of what is fitted, for the display.
        train: normal images to fit on.
        held_out: normal images for the stopper; None: a share of ``train``.
        calibration: normal images that thresholds are taken from.
        groups: id → the key of the group that no split separates, as ``Category.groups`` has it.
        folder: the folder for checkpoints.
    """
    parts = place.parts
    fuse: Fuse = snapshot_rule(parts) or "mean"
    adapted: list[Adapted] = []
    if parts.recipe.adapter is not None:
        if held_out is None:
            train, held_out = split_for_stopping(train, groups, parts)
        adapted = _adapted(subject, train, held_out, place, folder)
    embeddings = tuple(embedding for one in adapted for embedding in one.embeddings) or parts.embeddings
    source = place.source.fresh(embeddings) if adapted else place.source
    scales: Sequence[float | None] = [None] * len(embeddings)
    if fuse == "max_ratio":
        scales = _normalizers(subject, train, groups, len(embeddings), source, place)
    members = _fitted(subject, train, adapted, len(embeddings), source, place)
    path = parts.scoring_path(members, fuse).scaled(scales)
    found = calibrate(subject, path, calibration, source, place)
    drawings = min(parts.recipe.run.synthetic, len(KINDS) * len(found.samples))
    with place.display.stage("synthetic", subject, drawings) as advance:
        synthetic = synthetic_aurocs(path, embeddings, found, parts, source.bad, advance)
    return Calibrated(
        embeddings,
        path if fuse == "max_ratio" else path.scaled(_scales(found)),
        found,
        trained=[sample for sample in train if sample.id not in source.bad],
        stopping=[sample for sample in held_out or () if sample.id not in source.bad],
        trainings=[one.report for one in adapted],
        # Images that are new to the training: those of the threshold, else of the stopper.
        snapshots=tuple(replace(one.snapshots, held_out=calibration or held_out or ()) for one in adapted),
        synthetic=synthetic,
    )


def _adapted(
    subject: str, train: Sequence[Sample], held_out: Sequence[Sample], place: Workspace, folder: Path
) -> list[Adapted]:
    """Adapt every extractor of the recipe to ``train``."""
    parts, found = place.parts, []
    count = len(parts.embeddings)
    for index in range(count):
        title = f"{subject}, extractor {index + 1} of {count}" if count > 1 else subject
        work = folder / f"extractor-{index}"
        found.append(adapt(AdaptationJob(index, train, held_out, place.source, parts, place.display, title, work)))
    return found


def _fitted(
    subject: str, train: Sequence[Sample], adapted: Sequence[Adapted], count: int, source: Source, place: Workspace
) -> list[Member]:
    """One member for each of ``count`` embeddings of ``source``; a scorer that is to stay fitted on ψ₀ is kept."""
    initial = [one.initial for one in adapted for _ in one.embeddings] or [None] * count
    members = []
    for index, scorer in enumerate(initial):
        if scorer is None:
            scorer = place.parts.new_scorer()
            fitting = place.display.stage("fit", subject, len(train))
            with fitting as advance:
                stream = source.stream(train, advance, targets=False, embedding=index)
                if place.watch is not None and index == 0:
                    scorer.fit(WatchedStream(stream, partial(place.watch.see, "training")))
                else:
                    scorer.fit(stream)
                check_state(scorer, place.parts.new_scorer(), stream.levels)
        members.append(Member(index, scorer))
    return members


def _normalizers(
    subject: str, train: Sequence[Sample], groups: Mapping[str, str], count: int, source: Source, place: Workspace
) -> list[float]:
    """The mean score that each of ``count`` members gives normal images: a tenth of them, by a scorer of the others.

    The tenth serves this alone: it was trained on, and the scorer that a member ends with is fitted on all images.

    Raises:
        UserError: a mean that nothing can be divided by.

    Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and the supplement's "SES distance normalization".
    """
    parts = place.parts
    rest, tenth = split_for_scale(subject, train, groups, parts)
    path = parts.scoring_path(_fitted(subject, rest, [], count, source, place.unwatched()))
    with place.display.stage("scale", subject, len(tenth)) as advance:
        scores = evaluate(path, tenth, source, parts, advance, targets=False, peaks=False).members
    scales = [float(scale) for scale in scores.mean(0, dtype=np.float64)]
    if not all(0 < scale < math.inf for scale in scales):
        raise UserError(
            f"scorer: expected normal images of {subject} to have scores above 0, by whose mean members are scaled, "
            f"found means {', '.join(f'{scale:g}' for scale in scales)}: images that are all the same tell nothing"
        )
    return scales


def calibrate(
    subject: str, path: ScoringPath, samples: Sequence[Sample], source: Source, place: Workspace
) -> Evaluation:
    """Score the images that thresholds are taken from; ``source`` gives the features that ``path`` reads."""
    parts = place.parts
    with place.display.stage("calibrate", subject, len(samples)) as advance:
        peaks = parts.recipe.threshold.pixel
        watch = None if place.watch is None else partial(place.watch.watched, "calibration")
        return evaluate(path, samples, source, parts, advance, targets=False, peaks=peaks, watch=watch)


def together(fitted: Sequence[Calibrated], parts: Assembled) -> tuple[tuple[Embedding, ...], ScoringPath]:
    """The members of several as one scoring path, and the embeddings that they read."""
    embeddings: tuple[Embedding, ...] = ()
    members: list[Member] = []
    for one in fitted:
        first = 0 if one.embeddings is parts.embeddings else len(embeddings)
        members += [Member(first + member.embedding, member.scorer, member.scale) for member in one.path.members]
        embeddings = parts.embeddings if one.embeddings is parts.embeddings else (*embeddings, *one.embeddings)
    return embeddings, parts.scoring_path(members, fitted[0].path.fuse)


def without(samples: Iterable[Sample], fold: Iterable[Sample]) -> list[Sample]:
    """The ``samples`` that are not in ``fold``."""
    kept_back = {sample.id for sample in fold}
    return [sample for sample in samples if sample.id not in kept_back]


def _scales(calibration: Evaluation) -> list[float | None]:
    """The score that each member gives a typical normal image: the median; None without calibration images."""
    if not len(calibration.scores):
        return [None] * calibration.members.shape[1]
    return [float(scale) for scale in np.median(calibration.members, axis=0)]
