"""Adapting an extractor to the normal images of one category: from its first state ψ₀ to what scorers then read."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.errors import PluginError, UserError
from adkit.inference.assemble import Assembled, embedding_of, for_inference, who
from adkit.inference.pipeline import Embedding
from adkit.inference.runtimes import TORCH, Wanted
from adkit.inference.sources import ImageSource, Source
from adkit.logs.logs import NO_LOGS, Logs
from adkit.plugin.adapter import Schedule, See
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import GuardedAdapter, check_state
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features, ImageStream, Level, Stream
from adkit.recipe.reader import Choice
from adkit.report.report import TrainingReport
from adkit.toolkit.blocks import TunesBlocks
from adkit.toolkit.memory import check_memory
from adkit.training.checkpoints import TrainingState, has_checkpoint
from adkit.training.frozen import Frozen, NoRoomError, cut_for
from adkit.training.plan import members_of, new_adapter, new_stopper, scheduled
from adkit.training.trace import COLLAPSED, Snapshots
from adkit.training.trainer import Minibatches, TrainingTask, train, training_context
from adkit.utils.progress import Display
from adkit.utils.text import counted

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class AdaptationJob:
    """One extractor that is to be adapted, and everything that it takes."""

    index: int
    """Number of the extractor among the recipe's."""
    samples: Sequence[Sample]
    """Normal images to train on."""
    held_out: Sequence[Sample]
    """Normal images for the stopper alone."""
    source: Source
    parts: Assembled
    display: Display
    subject: str
    """What is adapted, for the display."""
    folder: Path
    """Folder for checkpoints, snapshots and the activations of blocks that are not trained."""
    logs: Logs = NO_LOGS

    @property
    def chosen(self) -> Choice:
        """The recipe's choice of the extractor."""
        return self.parts.recipe.extractors[self.index]


@dataclass(frozen=True)
class Adapted:
    """One extractor after training."""

    embeddings: tuple[Embedding, ...]
    """The ways from images to features: one, or one per snapshot."""
    initial: Scorer | None
    """The scorer that was fitted on the features of ψ₀, where the recipe keeps that one; else None."""
    report: TrainingReport
    snapshots: Snapshots


@dataclass
class _StreamWithImages:
    """A stream of the features of one stream and the images of another: implements ``adkit.plugin.ImageStream``."""

    features: Stream
    images: ImageStream
    walked: bool = False
    """Whether all features or all images have been iterated over once."""

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.features.levels

    @property
    def count(self) -> int:
        return self.features.count

    def __iter__(self) -> Iterator[Features]:
        yield from self.features
        self.walked = True

    @property
    def kinds(self) -> Sequence[str]:
        return self.images.kinds

    def batches(self) -> Iterator[Batch]:
        yield from self.images.batches()
        self.walked = True


def adapt(job: AdaptationJob) -> Adapted:
    """Train an extractor by the recipe's adapter.

    Raises:
        UserError: what adapter, stopper or scorer refuse, or a training that diverged.
    """
    with _leaving_nothing_untrained(job.folder):
        return _adapt(job)


@contextmanager
def _leaving_nothing_untrained(folder: Path) -> Iterator[None]:
    """Empty the folder of a training that an error ends before its first checkpoint.

    What is stored by then, such as what frozen blocks give, would be taken for a part of the training, and no run could
    go on from it once the user or the author has changed what was wrong.
    """
    try:
        yield
    except (UserError, PluginError):
        if not has_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _adapt(job: AdaptationJob) -> Adapted:
    parts, adapter = job.parts, new_adapter(job.parts)
    assert adapter is not None
    extractor = adapter.extend(copy.deepcopy(parts.trainable[job.index]))
    scorer, others = _prepare(job, adapter, extractor)
    task, frozen = _task(job, adapter, extractor, others)
    if adapter.fuse is not None:
        _check_members(task)
    with job.display.stage("adapt", job.subject) as advance:
        state = train(task, advance, job.folder)
    snapshots = Snapshots(task, frozen, state, job.folder, job.samples, job.source)
    members = () if adapter.fuse is None else _members(job, snapshots)
    # Of many networks, converting each would take longer than it saves.
    embeddings = tuple(_for_inference(extractor, job) for _ in snapshots.states(members))
    embeddings = embeddings or (_for_inference(extractor, job, replace(parts.wanted, keep=False)),)
    initial = scorer if parts.recipe.scorer_table.fit == "initial" else None
    return Adapted(embeddings, initial, _report(job.subject, state, task.schedule), snapshots)


def _check_members(task: TrainingTask) -> None:
    """Refuse a training whose snapshots would become no members, or more than memory holds.

    Raises:
        UserError: the training ends before its first snapshot, or the members' networks would take more memory than
            is free.
    """
    length = sum(task.length_of(number) for number in range(len(task.stages)))
    count = members_of(task.schedule, length, task.normal.epoch_length)
    every = task.schedule.snapshot_epochs
    size = sum(tensor.numel() * tensor.element_size() for tensor in task.extractor.state_dict().values())
    check_memory(
        count * size,
        task.context.device,
        f"training.snapshot_epochs: a detector of {counted(count, 'member')}, "
        f"one every {'epoch' if every == 1 else f'{every:g} epochs'},",
        "set a larger interval, or train for less",
    )


def _members(job: AdaptationJob, snapshots: Snapshots) -> Sequence[int]:
    """The snapshots that become members: those of collapsed features would decide the score and know nothing.

    Raises:
        UserError: the features of all of them have collapsed.
    """
    with job.display.stage("members", job.subject) as advance:
        members = snapshots.uncollapsed(advance)
    if lost := len(snapshots.members) - len(members):
        said = (
            f"{lost} of {counted(len(snapshots.members), 'snapshot')} with collapsed features, where training images "
            f"spread less than {COLLAPSED:.0%} of what they did"
        )
        if not members:
            raise UserError(
                f"adapter: expected snapshots of {job.subject} that tell images apart, found {said}: lower "
                "training.learning_rate, or train for less"
            )
        logger.warning("%s: left out %s", job.subject, said)
    return members


def _prepare(job: AdaptationJob, adapter: GuardedAdapter, extractor: Extractor) -> tuple[Scorer | None, BadImages]:
    """Prepare the adapter; return the scorer fitted on ψ₀, if there is one, and the unreadable auxiliary images."""
    parts, samples, display = job.parts, job.samples, job.display
    recipe = parts.recipe
    # ψ₀ has the levels that an adapter adds, too.
    initial = _for_inference(extractor, job) if adapter.extends else parts.embeddings[job.index]
    scorer = None
    if adapter.needs_scorer or recipe.scorer_table.fit == "initial":
        scorer = parts.new_scorer()
        title = f"{job.subject}, before adapting"
        with display.stage("fit", title, len(samples)) as advance:
            stream = job.source.stream(samples, (initial,), advance, targets=False)
            scorer.fit(stream)
            check_state(scorer, parts.new_scorer(), stream.levels)
    bad = BadImages(1.0)
    with display.stage("prepare", job.subject, len(samples)) as advance:
        normal = _StreamWithImages(
            job.source.stream(samples, (initial,), advance, targets=False),
            job.source.images.stream(samples, (initial,), advance, targets=False),
        )
        others = ImageSource(parts, bad, len(parts.auxiliary))
        auxiliary = others.stream(parts.auxiliary, (initial,), advance, targets=True) if parts.auxiliary else None
        adapter.prepare(See(extractor, normal, auxiliary, scorer if adapter.needs_scorer else None))
    if scorer is None and not normal.walked:
        for _ in normal.batches():  # which images can be read must be known before the first step
            pass
    return scorer, bad


def _task(
    job: AdaptationJob, adapter: GuardedAdapter, extractor: Extractor, others: BadImages
) -> tuple[TrainingTask, Frozen | None]:
    """Put together the training of a prepared adapter, and the frozen blocks below what it trains, if there are any."""
    parts, recipe = job.parts, job.parts.recipe
    assert recipe.adapter is not None
    schedule, context = scheduled(adapter, recipe.training), training_context(parts.context)
    stages, embedding = adapter.stages(extractor), _embedding(extractor, job, context)
    cut = cut_for(embedding, adapter, stages)
    frozen = None if cut is None else Frozen(cut, job.index, job.source, job.folder)
    normal = None if frozen is None else _frozen(job, frozen, schedule)
    if normal is None:
        cut = frozen = None

    def minibatches(of: Sequence[Sample], bad: BadImages, name: str, targets: bool) -> Minibatches:
        readable = [sample for sample in of if sample.id not in bad]

        def load(numbers: Sequence[int], batch_size: int) -> Iterable[Batch]:
            return parts.loader([readable[number] for number in numbers], bad, batch_size, targets)

        return Minibatches(load, len(readable), schedule.batch_size, parts.context, name)

    task = TrainingTask(
        extractor=extractor,
        embedding=embedding,
        adapter=adapter,
        schedule=schedule,
        stopper=new_stopper(parts),
        stages=stages,
        forward=extractor if cut is None else cut.tail,
        normal=normal or minibatches(job.samples, job.source.bad, "normal", False),
        auxiliary=minibatches(parts.auxiliary, others, "auxiliary", True) if parts.auxiliary else None,
        held_out=parts.loader(job.held_out, job.source.bad, recipe.data.batch_size, False),
        context=context,
        about=f"{who(recipe.adapter)} {recipe.adapter.params.model_dump_json()}",
        tunes_blocks=isinstance(recipe.adapter.params, TunesBlocks),
        subject=job.subject,
        say=lambda text: job.display.say(f"{job.subject}: {text}"),
        logs=job.logs,
    )
    return task, frozen


def _frozen(job: AdaptationJob, frozen: Frozen, schedule: Schedule) -> Minibatches | None:
    """Make minibatches of what the frozen blocks give for the images; None where the disk has no room for that."""
    computing = partial(job.display.stage, "frozen blocks", job.subject, len(job.samples))
    try:
        with nullcontext(lambda done: None) if frozen.shared else computing() as advance:
            rows = frozen.rows("frozen", job.samples, advance)
    except NoRoomError as error:
        logger.info(
            "%s: frozen blocks run anew at every step: stored, what they give would take %s", job.subject, error
        )
        return None
    return Minibatches(rows.load, len(rows), schedule.batch_size, job.parts.context, "normal")


def _for_inference(extractor: Extractor, job: AdaptationJob, wanted: Wanted = TORCH) -> Embedding:
    """Make an embedding by a copy of the extractor as it is now, which no further training changes."""
    return _embedding(for_inference(copy.deepcopy(extractor), job.chosen), job, job.parts.context, wanted)


def _embedding(extractor: Extractor, job: AdaptationJob, context: Context, wanted: Wanted = TORCH) -> Embedding:
    """Make an embedding by ``extractor`` that computes in ``context``."""
    return embedding_of(extractor, job.chosen, job.parts.recipe.features, context, job.index, wanted)


def _report(subject: str, state: TrainingState, schedule: Schedule) -> TrainingReport:
    return TrainingReport(
        subject=subject,
        schedule={key: value for key, value in asdict(schedule).items() if value is not None},
        minibatches=state.checks[-1].minibatches,
        kept_minibatches=state.kept.minibatches,
        ended=state.ended or "trained to its length",
        seconds=round(state.seconds, 3),
        checks=state.checks,
    )
