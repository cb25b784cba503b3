"""Adapting an extractor to the normal pictures of one category: from ψ₀ to the embedding that scorers then read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from adkit.assemble import Assembled, build, extended, for_inference, who
from adkit.blame import blaming
from adkit.context import Context
from adkit.contracts import (
    Adapter,
    Batch,
    ExtendingAdapter,
    Extractor,
    Features,
    HoldingStopper,
    Level,
    PictureStream,
    Schedule,
    ScheduledAdapter,
    ScoredAdapter,
    Scorer,
    Stopper,
    Stream,
)
from adkit.core_tables import TrainingTable
from adkit.data.datasets import open_dataset
from adkit.data.samples import Sample
from adkit.data.splits import hold_out
from adkit.errors import UserError
from adkit.features import FeatureTransform
from adkit.inference import Embedding
from adkit.progress import Display
from adkit.recipe import Recipe
from adkit.report import LookReport, TrainingReport
from adkit.sources import Source
from adkit.training import Course, Lesson, Pictures, train, training_context


@dataclass(frozen=True)
class Adapted:
    """One extractor after training."""

    embedding: Embedding
    initial: Scorer | None
    """The scorer that was fitted on ψ₀, where the recipe says that it stays so."""
    report: TrainingReport


@dataclass(frozen=True)
class _Pictured:
    """Features of one source and the pictures of another: implements ``adkit.PictureStream``."""

    features: Stream
    pictured: PictureStream

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.features.levels

    @property
    def pictures(self) -> int:
        return self.features.pictures

    def __iter__(self) -> Iterator[Features]:
        return iter(self.features)

    def batches(self) -> Iterator[Batch]:
        return self.pictured.batches()


def auxiliary_pictures(recipe: Recipe) -> list[Sample]:
    """The training pictures of every category of ``[auxiliary]``, each once; none without that table.

    Raises:
        UserError: what is wrong with the table or its data.
    """
    if recipe.auxiliary is None:
        return []
    with recipe.document.locating("auxiliary", type(recipe.auxiliary).model_fields):
        categories = open_dataset(recipe.auxiliary, recipe.run.seed).categories
    return list({s.id: s for category in categories for s in (*category.train, *category.calibration)}.values())


def new_adapter(parts: Assembled) -> Adapter | None:
    """An adapter that is not prepared; None where the recipe names none."""
    choice = parts.recipe.adapter
    return None if choice is None else cast(Adapter, build(choice, parts.context))


def split_for_stopping(samples: Sequence[Sample], parts: Assembled) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """(pictures to train on, pictures held out for the stopper)."""
    stopper = new_stopper(parts)
    share = stopper.validation if isinstance(stopper, HoldingStopper) else 0.0
    return hold_out(samples, share, parts.recipe.run.seed, "stopper")


def adapt(
    index: int,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    source: Source,
    parts: Assembled,
    display: Display,
    subject: str,
    folder: Path,
) -> Adapted:
    """Train the extractor ``index`` on ``samples``.

    Args:
        held_out: normal pictures for the stopper alone.
        source: of the features of ψ₀.
        subject: what is adapted, for the display.
        folder: for checkpoints.

    Raises:
        UserError: what adapter, stopper or scorer refuse, or a training that diverged.
    """
    recipe, choice, adapter = parts.recipe, parts.recipe.adapter, new_adapter(parts)
    assert choice is not None and adapter is not None
    extractor = extended(copy.deepcopy(parts.trainable[index]), choice, adapter)
    if isinstance(adapter, ExtendingAdapter):  # ψ₀ has the added levels, too
        source = source.fresh((_embedding(for_inference(copy.deepcopy(extractor), choice), index, parts),))
    initial = 0 if isinstance(adapter, ExtendingAdapter) else index

    scorer = None
    needs = isinstance(adapter, ScoredAdapter) and adapter.needs_scorer
    if needs or recipe.scorer_fit == "initial":
        scorer = parts.new_scorer()
        with display.stage("fit", f"{subject}, before adapting", len(samples)) as advance, blaming(who(recipe.scorer)):
            scorer.fit(source.stream(samples, advance, targets=False, embedding=initial))
    pictures = source.fresh(parts.embeddings)
    with display.stage("prepare", subject, len(samples)) as advance, blaming(who(choice)):
        normal = _Pictured(
            source.stream(samples, advance, targets=False, embedding=initial),
            pictures.stream(samples, advance, targets=False),
        )
        auxiliary = pictures.stream(parts.auxiliary, advance, targets=True) if parts.auxiliary else None
        adapter.prepare(extractor, normal, auxiliary, scorer if needs else None)

    schedule = scheduled(adapter, recipe.training)

    def minibatches(of: Sequence[Sample], name: str, targets: bool) -> Pictures:
        readable = [sample for sample in of if sample.id not in source.bad]

        def load(numbers: Sequence[int]) -> Iterable[Batch]:
            return parts.loader([readable[number] for number in numbers], source.bad, schedule.batch_size, targets)

        return Pictures(load, len(readable), schedule.batch_size, parts.context, name)

    context = training_context(parts.context)
    lesson = Lesson(
        extractor=cast(nn.Module, extractor),
        embedding=_embedding(extractor, index, parts, context),
        adapter=adapter,
        schedule=schedule,
        stopper=new_stopper(parts),
        pictures=minibatches(samples, "normal", False),
        auxiliary=minibatches(parts.auxiliary, "auxiliary", True) if parts.auxiliary else None,
        held_out=parts.loader(held_out, source.bad, recipe.data.batch_size, False),
        context=context,
        who_adapts=who(choice),
        who_stops="stopper" if recipe.stopper is None else who(recipe.stopper),
        say=lambda text: display.say(f"{subject}: {text}"),
    )
    with display.stage("adapt", subject) as advance:
        course = train(lesson, advance, folder)
    embedding = _embedding(for_inference(extractor, choice), index, parts)
    return Adapted(embedding, scorer if recipe.scorer_fit == "initial" else None, _report(subject, course, schedule))


def scheduled(adapter: Adapter, table: TrainingTable | None) -> Schedule:
    """The adapter's schedule, with what the recipe says instead.

    Raises:
        UserError: neither says how long.
    """
    schedule = adapter.schedule if isinstance(adapter, ScheduledAdapter) else Schedule()
    given = {} if table is None else table.model_dump(exclude_none=True)
    if "minibatches" in given or "epochs" in given:  # one length, the recipe's
        given = {"minibatches": None, "epochs": None, **given}
    schedule = replace(schedule, **given)
    if schedule.minibatches is None and schedule.epochs is None:
        raise UserError("training: expected a length, found none: set training.minibatches or training.epochs")
    return schedule


def new_stopper(parts: Assembled) -> Stopper | None:
    """A stopper that has seen nothing."""
    choice = parts.recipe.stopper
    return None if choice is None else cast(Stopper, build(choice, parts.context))


def _embedding(extractor: Extractor, index: int, parts: Assembled, context: Context | None = None) -> Embedding:
    """The way through ``extractor`` and the ``[features]`` of extractor ``index``; ``context``: what it computes in."""
    table, choice = parts.recipe.features, parts.recipe.extractors[index]
    transform = FeatureTransform(table, extractor.levels, parts.context.generator("features"))
    return Embedding(extractor, transform, context or parts.context, who(choice))


def _report(subject: str, course: Course, schedule: Schedule) -> TrainingReport:
    kept = course.kept
    return TrainingReport(
        subject=subject,
        schedule={key: value for key, value in asdict(schedule).items() if value is not None},
        minibatches=course.looks[-1].minibatches,
        kept_minibatches=kept.minibatches if course.best else course.looks[-1].minibatches,
        ended=course.ended or "trained to its length",
        seconds=round(course.seconds, 3),
        looks=[LookReport(**asdict(look)) for look in course.looks],
    )
