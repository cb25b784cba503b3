"""What a recipe asks of a training: which adapter and stopper, how long, and which images are kept out of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from adkit.data.samples import Category, Sample
from adkit.data.splits import hold_out
from adkit.errors import UserError
from adkit.inference.assemble import Assembled, build, embedding_of
from adkit.inference.levels import require_levels
from adkit.plugin.adapter import Adapter, Schedule, Stage
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import GuardedAdapter, named
from adkit.plugin.stopper import Stopper
from adkit.plugin.types import Fuse, Level
from adkit.recipe.tables import TrainingTable
from adkit.toolkit.patience import none_held_out
from adkit.utils.text import counted

SCALE_SHARE: Final = 0.1
"""Share of the normal training images whose scores are the scales of members that are fused by their largest ratio."""


def new_adapter(parts: Assembled) -> GuardedAdapter | None:
    """Build an adapter that is not prepared; None where the recipe names none.

    Raises:
        UserError: what the adapter refuses, or a scorer that would be fitted on levels that nothing was trained for.
    """
    choice = parts.recipe.adapter
    if choice is None:
        return None
    adapter = cast(GuardedAdapter, build(choice, parts.context))
    if adapter.extends and parts.recipe.scorer_table.fit == "initial":
        raise UserError(
            f'scorer.fit: expected "adapted" with {choice.name}, which trains a head that means nothing before '
            'training, found "initial": remove this key'
        )
    return adapter


def read_levels(parts: Assembled) -> list[Mapping[str, Level]]:
    """Find the levels that a scorer is offered of each extractor: those of the head of an adapter, too."""
    adapter = new_adapter(parts)
    if adapter is None:
        return [embedding.levels for embedding in parts.embeddings]
    extended = (adapter.extend(copy.deepcopy(one)) for one in parts.trainable)
    recipe, context = parts.recipe, parts.context
    return [
        embedding_of(one, recipe.extractors[index], recipe.features, context, index).levels
        for index, one in enumerate(extended)
    ]


def snapshot_rule(parts: Assembled) -> Fuse | None:
    """Find the rule by which the snapshots of a training become one detector; None where they do not."""
    adapter = new_adapter(parts)
    return None if adapter is None else adapter.fuse


@dataclass(frozen=True)
class Split:
    """The normal images of one fitted detector; none serves twice, but that those for the scale are trained on."""

    subject: str
    """What is fitted, for the display and for errors."""
    train: Sequence[Sample]
    """Images to train and to fit on."""
    stopping: Sequence[Sample]
    """Images for the stopper alone."""
    scale: Sequence[Sample]
    """The tenth of ``train`` that members' scales are taken from, by scorers of the others; none where there are no
    scales to take.

    Source: Reiss et al., PANDA (CVPR 2021), the supplement's "SES distance normalization": 90% and 10%.
    """
    calibration: Sequence[Sample]
    """Images for thresholds alone."""


def unlocalized(parts: Assembled) -> str | None:
    """Say which keys of the recipe are about maps where no level that the scorer reads has any; None where one has."""
    recipe, values = parts.recipe, parts.recipe.document.values
    asked = ["[localizer]"] if "localizer" in values else []
    if values.get("threshold", {}).get("pixel"):
        asked.append("threshold.pixel")
    if not asked:
        return None
    offered = {name: level for one in read_levels(parts) for name, level in one.items()}
    read = {name: offered[name] for name in recipe.scorer_table.levels or offered}
    if any(level.spatial for level in read.values()):
        return None
    return (
        f"{' and '.join(asked)}: expected a level with cells, found {', '.join(read)} alone, so there are no maps: "
        "name a module of the backbone in extractor.levels, or remove this"
    )


def split_of(
    subject: str,
    train: Sequence[Sample],
    calibration: Sequence[Sample],
    groups: Mapping[str, str],
    parts: Assembled,
    stopping: Sequence[Sample] | None = None,
) -> Split:
    """Split the normal images of one detector by what they serve; no group is separated.

    Args:
        train: normal images to fit on.
        groups: id → the key of the group, as ``Category.groups`` has it.
        stopping: normal images for the stopper; None: its share of ``train``.

    Raises:
        UserError: there are too few images to keep any back for the stopper or the scales.
    """
    seed, stopper = parts.recipe.run.seed, new_stopper(parts)
    if stopping is None:
        share = 0.0 if stopper is None else stopper.validation
        train, stopping = hold_out(train, share, seed, "stopper", groups)
        if share > 0 and not stopping:
            assert parts.recipe.stopper is not None
            raise none_held_out(f"{parts.recipe.stopper.name} in {subject}")
    scale: Sequence[Sample] = ()
    if snapshot_rule(parts) == "max_ratio":
        scale = hold_out(train, SCALE_SHARE, seed, "scale", groups)[1]
        if not scale:
            raise UserError(
                f"adapter: expected normal training images of {subject} of which a tenth can be told from the others "
                f"for the scales of its snapshots, found {len(train)}: add some, or use an adapter of one state"
            )
    return Split(subject, train, stopping, scale, calibration)


def require_trainable(parts: Assembled, categories: Sequence[Category]) -> None:
    """Refuse before the first training what would otherwise be refused only when its turn comes.

    Raises:
        UserError: keys do not go together, or a category has too few images for what they ask.
    """
    _require_adaptable(parts, categories)
    scorer, fewest = parts.new_scorer(), min(_most_fitted_on(category, parts) for category in categories)
    for levels in read_levels(parts):
        scorer.require(levels, fewest)


def _most_fitted_on(category: Category, parts: Assembled) -> int:
    """The most images that each scorer of a category is fitted on: with folds, all but the largest fold."""
    run, folds = parts.recipe.run, parts.recipe.threshold.parts or parts.recipe.run.folds
    images = len(category.normal if run.fold_test else category.train)
    return images - math.ceil(images / folds) if folds > 1 else images


def _require_adaptable(parts: Assembled, categories: Sequence[Category]) -> None:
    adapter = new_adapter(parts)
    if adapter is None:
        return
    recipe, rule = parts.recipe, snapshot_rule(parts)
    schedule = scheduled(adapter, recipe.training)
    assert recipe.adapter is not None
    if rule is not None and schedule.snapshot_epochs is None:
        raise UserError(
            f"training.snapshot_epochs: expected a number above 0 with adapter {recipe.adapter.name}, whose detector "
            "is made of snapshots, found none: set it, or use panda"
        )
    if rule == "max_ratio" and recipe.threshold.parts:
        # A calibration image would be scored by one fold's members, a new one by the most extreme of all folds'.
        raise UserError(
            f'threshold.method: expected "split" with adapter {recipe.adapter.name}, whose score is the largest of its '
            'members\', found "cross", whose promise on false alarms would not hold: remove this key'
        )
    if rule == "max_ratio" and recipe.scorer_table.fit == "initial":
        raise UserError(
            f'scorer.fit: expected "adapted" with adapter {recipe.adapter.name}, each of whose snapshots has a scorer '
            'of its own, found "initial": remove this key'
        )
    if rule is not None:
        parts.require_torch(f"with adapter {recipe.adapter.name}, whose snapshots torch computes")
    extended = [adapter.extend(copy.deepcopy(trainable)) for trainable in parts.trainable]
    for extractor in extended:
        _require_stages(adapter, extractor, parts)
    if recipe.scorer_table.levels is not None:
        for levels in read_levels(parts):
            require_levels(recipe.scorer_table.levels, levels)
    # The fold that was left out serves the stopper, unless it is the fold's test.
    given: Sequence[Sample] | None = None if recipe.run.folds == 1 or recipe.run.fold_test else ()
    for category in categories:
        split = split_of(category.name, category.train, category.calibration, category.groups, parts, given)
        if rule is not None:
            for extractor in extended:
                lengths = [_length(stage, schedule, len(split.train), parts) for stage in adapter.stages(extractor)]
                members_of(schedule, sum(lengths), math.ceil(len(split.train) / schedule.batch_size))


@dataclass(frozen=True)
class Course:
    """How much a training will take, if it is not stopped."""

    images: int
    """The images of all minibatches."""
    whole: bool
    """Whether every step runs the network from its first block on."""
    members: int
    """The snapshots that become members; 1 where it is the last state."""


def courses_of(parts: Assembled) -> Callable[[int], list[Course]]:
    """Return what tells how much the training of each extractor takes on so many normal images; none without adapter.

    Extractors are copied here alone, so that it may be asked for every category and fold.
    """
    adapter = new_adapter(parts)
    if adapter is None:
        return lambda images: []
    schedule, fused = scheduled(adapter, parts.recipe.training), adapter.fuse is not None
    known: list[tuple[list[Stage], bool]] = []
    for one in parts.trainable:
        extractor = adapter.extend(copy.deepcopy(one))
        stages, first = adapter.stages(extractor), next(extractor.parameters())
        whole = adapter.reads_images or any(first is parameter for stage in stages for parameter in stage.parameters)
        known.append(([replace(stage, groups=()) for stage in stages], whole))

    def course(stages: Sequence[Stage], whole: bool, images: int) -> Course:
        lengths = [_length(stage, schedule, images, parts) for stage in stages]
        sizes = [stage.batch_size or schedule.batch_size for stage in stages]
        taken = sum(length * size for length, size in zip(lengths, sizes, strict=True))
        epoch_length = math.ceil(images / schedule.batch_size)
        return Course(taken, whole, members_of(schedule, sum(lengths), epoch_length) if fused else 1)

    return lambda images: [course(stages, whole, images) for stages, whole in known]


def _require_stages(adapter: GuardedAdapter, extractor: Extractor, parts: Assembled) -> None:
    for stage in adapter.stages(extractor):
        if stage.images == "auxiliary" and not parts.auxiliary:
            raise UserError(
                f"adapter.use: expected an [auxiliary] table, on whose images {named(adapter)} trains its stage "
                f"{stage.name}, found none: add it"
            )


def length_of(schedule: Schedule, stage: Stage, epoch_length: int) -> int:
    """Compute the number of minibatches of a stage."""
    if stage.minibatches is not None:
        return stage.minibatches
    if schedule.minibatches is not None:
        return schedule.minibatches
    if schedule.epochs is None:
        raise ValueError("schedule: expected minibatches or epochs, found neither")
    return max(1, round(schedule.epochs * epoch_length))


def interval_of(epochs: float, epoch_length: int) -> int:
    """Compute the number of minibatches from one snapshot to the next."""
    return max(1, round(epochs * epoch_length))


def members_of(schedule: Schedule, length: int, epoch_length: int) -> int:
    """Compute the number of snapshots that a training leaves at its interval.

    Args:
        length: minibatches of the training.
        epoch_length: minibatches of an epoch.

    Raises:
        UserError: it ends before the first of them.
    """
    assert schedule.snapshot_epochs is not None  # require_trainable has checked it
    every = interval_of(schedule.snapshot_epochs, epoch_length)
    if length < every:
        raise UserError(
            f"training.snapshot_epochs: expected an interval within the training, which has "
            f"{counted(length, 'minibatch', 'minibatches')}, found one of {every}: shorten it, or train for longer"
        )
    return length // every


def _length(stage: Stage, schedule: Schedule, images: int, parts: Assembled) -> int:
    """The minibatches of a stage, where all ``images`` that it trains on can be read."""
    count = len(parts.auxiliary) if stage.images == "auxiliary" else images
    return length_of(schedule, stage, math.ceil(count / (stage.batch_size or schedule.batch_size)))


def scheduled(adapter: Adapter, table: TrainingTable | None) -> Schedule:
    """Combine the adapter's schedule with the recipe's, which takes precedence.

    Raises:
        UserError: neither says how long to train, or steps are to be relative that cannot be.
    """
    schedule = adapter.schedule
    given = {} if table is None else table.model_dump(exclude_none=True)
    if given.get("snapshot_epochs") == 0:
        given["snapshot_epochs"] = None
    if "minibatches" in given or "epochs" in given:  # there is one length: that of the recipe
        given = {"minibatches": None, "epochs": None, **given}
    schedule = replace(schedule, **given)
    if schedule.minibatches is None and schedule.epochs is None:
        raise UserError("training: expected a length, found none: set training.minibatches or training.epochs")
    if not schedule.relative_steps:
        return schedule
    if schedule.optimizer != "sgd":
        raise UserError(
            f'training.relative_steps: expected optimizer = "sgd", since {schedule.optimizer} scales gradients by '
            "itself, found true: remove one of the two keys"
        )
    if given.get("clip_norm") is not None:
        raise UserError(
            "training.clip_norm: expected none with relative_steps, whose gradients are as long as the weights, found "
            f"{given['clip_norm']:g}: remove one of the two keys"
        )
    return replace(schedule, clip_norm=None)


def new_stopper(parts: Assembled) -> Stopper | None:
    """Build a stopper that has seen nothing; None where the recipe names none."""
    choice = parts.recipe.stopper
    return None if choice is None else cast(Stopper, build(choice, parts.context))
