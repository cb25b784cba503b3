"""Adapting an extractor to the normal pictures of one category: from ψ₀ to the embedding that scorers then read."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from adkit.data.loader import BadPictures
from adkit.data.samples import Sample
from adkit.inference.assemble import Assembled, embedding_of, extended, for_inference, who
from adkit.inference.pipeline import Embedding
from adkit.inference.sources import PictureSource, Source
from adkit.plugin.adapter import Adapter, ExtendingAdapter, Schedule, ScoredAdapter, SnapshotAdapter
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import blaming
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features, Level, PictureStream, Stream
from adkit.recipe.reader import Choice
from adkit.report.report import TrainingReport
from adkit.toolkit.memory import check_memory
from adkit.training.checkpoints import Course
from adkit.training.frozen import Frozen, NoRoomError, cut_for
from adkit.training.plan import new_adapter, new_stopper, scheduled
from adkit.training.trace import Trail
from adkit.training.trainer import Lesson, Pictures, interval_of, length_of, train, training_context
from adkit.utils.progress import Display

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Task:
    """One extractor that is to be adapted, and what with."""

    index: int
    """Its place among the recipe's."""
    samples: Sequence[Sample]
    """To train on."""
    held_out: Sequence[Sample]
    """Normal pictures for the stopper alone."""
    source: Source
    """Of the features of ψ₀."""
    parts: Assembled
    display: Display
    subject: str
    """What is adapted, for the display."""
    folder: Path
    """For checkpoints, snapshots and the activations of blocks that are not trained."""

    @property
    def chosen(self) -> Choice:
        """The extractor, as the recipe has it."""
        return self.parts.recipe.extractors[self.index]


@dataclass(frozen=True)
class Adapted:
    """One extractor after training."""

    embeddings: tuple[Embedding, ...]
    """One, or one a snapshot."""
    initial: Scorer | None
    """The scorer that was fitted on ψ₀, where the recipe says that it stays so."""
    report: TrainingReport
    trail: Trail


@dataclass
class _Pictured:
    """Features of one source and the pictures of another: implements ``adkit.plugin.PictureStream``."""

    features: Stream
    pictured: PictureStream
    walked: bool = False
    """Whether all of either have been seen once."""

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.features.levels

    @property
    def pictures(self) -> int:
        return self.features.pictures

    def __iter__(self) -> Iterator[Features]:
        yield from self.features
        self.walked = True

    @property
    def kinds(self) -> Sequence[str]:
        return self.pictured.kinds

    def batches(self) -> Iterator[Batch]:
        yield from self.pictured.batches()
        self.walked = True


def adapt(task: Task) -> Adapted:
    """Train an extractor.

    Raises:
        UserError: what adapter, stopper or scorer refuse, or a training that diverged.
    """
    parts, adapter = task.parts, new_adapter(task.parts)
    assert parts.recipe.adapter is not None and adapter is not None
    extractor = extended(copy.deepcopy(parts.trainable[task.index]), parts.recipe.adapter, adapter)
    scorer, others = _prepare(task, adapter, extractor)
    lesson, frozen = _lesson(task, adapter, extractor, others)
    if isinstance(adapter, SnapshotAdapter):
        _check_members(lesson)
    with task.display.stage("adapt", task.subject) as advance:
        course = train(lesson, advance, task.folder)
    trail = Trail(lesson, frozen, course, task.folder, task.samples, task.source)
    members = trail.members if isinstance(adapter, SnapshotAdapter) else ()
    embeddings = tuple(_for_inference(extractor, task) for _ in trail.states(members))
    initial = scorer if parts.recipe.scorer_fit == "initial" else None
    return Adapted(
        embeddings or (_for_inference(extractor, task),), initial, _report(task.subject, course, lesson.schedule), trail
    )


def _check_members(lesson: Lesson) -> None:
    """Refuse more members than memory holds.

    Raises:
        UserError: their networks would take more than is free.
    """
    every, per_epoch = lesson.schedule.snapshot_epochs, lesson.pictures.epoch_length
    assert every is not None  # which was required before
    length = sum(length_of(lesson.schedule, stage, per_epoch) for stage in lesson.stages)
    count = math.ceil(length / interval_of(every, per_epoch))
    size = sum(tensor.numel() * tensor.element_size() for tensor in lesson.extractor.state_dict().values())
    check_memory(
        count * size,
        lesson.context.device,
        f"training.snapshot_epochs: {count} members, one every {every:g} rounds through the pictures,",
        "set a larger interval, or train for less",
    )


def _prepare(task: Task, adapter: Adapter, extractor: Extractor) -> tuple[Scorer | None, BadPictures]:
    """Let the adapter see what it is to see; the scorer fitted on ψ₀, and the auxiliary pictures that are broken."""
    parts, samples, display = task.parts, task.samples, task.display
    recipe, choice = parts.recipe, parts.recipe.adapter
    assert choice is not None
    initial, source, index = parts.embeddings[task.index], task.source, task.index
    if isinstance(adapter, ExtendingAdapter):  # ψ₀ has the added levels, too
        initial = _for_inference(extractor, task)
        source, index = source.fresh((initial,)), 0
    scorer = None
    needs = isinstance(adapter, ScoredAdapter) and adapter.needs_scorer
    if needs or recipe.scorer_fit == "initial":
        scorer = parts.new_scorer()
        title = f"{task.subject}, before adapting"
        with display.stage("fit", title, len(samples)) as advance, blaming(who(recipe.scorer)):
            scorer.fit(source.stream(samples, advance, targets=False, embedding=index))
    bad = BadPictures(1.0)
    with display.stage("prepare", task.subject, len(samples)) as advance, blaming(who(choice)):
        normal = _Pictured(
            source.stream(samples, advance, targets=False, embedding=index),
            source.decoding((initial,)).stream(samples, advance, targets=False),
        )
        others = PictureSource(parts, bad, len(parts.auxiliary), (initial,))
        auxiliary = others.stream(parts.auxiliary, advance, targets=True) if parts.auxiliary else None
        adapter.prepare(extractor, normal, auxiliary, scorer if needs else None)
    if scorer is None and not normal.walked:
        for _ in normal.batches():  # which of them can be read must be known before the first step
            pass
    return scorer, bad


def _lesson(task: Task, adapter: Adapter, extractor: Extractor, others: BadPictures) -> tuple[Lesson, Frozen | None]:
    """A training of an adapter that is prepared, and what the blocks give that it does not train."""
    parts, recipe = task.parts, task.parts.recipe
    assert recipe.adapter is not None
    schedule, context = scheduled(adapter, recipe.training), training_context(parts.context)
    with blaming(who(recipe.adapter)):
        stages = list(adapter.stages())
    trained = [parameter for stage in stages for parameter in stage.parameters]
    cut = cut_for(extractor, adapter, trained, context, who(task.chosen))
    frozen = None if cut is None else Frozen(cut, task.index, task.source, task.folder)
    pictures = None if frozen is None else _frozen(task, frozen, schedule)
    if pictures is None:
        cut = frozen = None

    def minibatches(of: Sequence[Sample], bad: BadPictures, name: str, targets: bool) -> Pictures:
        readable = [sample for sample in of if sample.id not in bad]

        def load(numbers: Sequence[int]) -> Iterable[Batch]:
            return parts.loader([readable[number] for number in numbers], bad, schedule.batch_size, targets)

        return Pictures(load, len(readable), schedule.batch_size, parts.context, name)

    lesson = Lesson(
        extractor=cast(nn.Module, extractor),
        embedding=_embedding(extractor, task, context),
        adapter=adapter,
        schedule=schedule,
        stopper=new_stopper(parts),
        stages=stages,
        forward=extractor if cut is None else cut.tail,
        pictures=pictures or minibatches(task.samples, task.source.bad, "normal", False),
        auxiliary=minibatches(parts.auxiliary, others, "auxiliary", True) if parts.auxiliary else None,
        held_out=parts.loader(task.held_out, task.source.bad, recipe.data.batch_size, False),
        context=context,
        who_adapts=who(recipe.adapter),
        who_stops="stopper" if recipe.stopper is None else who(recipe.stopper),
        say=lambda text: task.display.say(f"{task.subject}: {text}"),
    )
    return lesson, frozen


def _frozen(task: Task, frozen: Frozen, schedule: Schedule) -> Pictures | None:
    """The pictures as the frozen blocks give them; None where the disk has no room for that."""
    computing = partial(task.display.stage, "frozen blocks", task.subject, len(task.samples))
    try:
        with nullcontext(lambda done: None) if frozen.shared else computing() as advance:
            rows = frozen.rows("frozen", task.samples, advance)
    except NoRoomError as error:
        logger.info("%s: frozen blocks run anew at every step: stored, they would take %s", task.subject, error)
        return None
    size = schedule.batch_size
    return Pictures(partial(rows.load, batch_size=size), len(rows), size, task.parts.context, "normal")


def _for_inference(extractor: Extractor, task: Task) -> Embedding:
    """Through the extractor as it is now, whatever becomes of it."""
    return _embedding(for_inference(copy.deepcopy(extractor), task.chosen), task, task.parts.context)


def _embedding(extractor: Extractor, task: Task, context: Context) -> Embedding:
    """``context``: what it computes in."""
    return embedding_of(extractor, task.chosen, task.parts.recipe.features, context, task.index)


def _report(subject: str, course: Course, schedule: Schedule) -> TrainingReport:
    return TrainingReport(
        subject=subject,
        schedule={key: value for key, value in asdict(schedule).items() if value is not None},
        minibatches=course.looks[-1].minibatches,
        kept_minibatches=course.kept.minibatches,
        ended=course.ended or "trained to its length",
        seconds=round(course.seconds, 3),
        looks=course.looks,
    )
