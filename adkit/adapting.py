"""Adapting an extractor to the normal pictures of one category: from ψ₀ to the embedding that scorers then read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from adkit.assemble import Assembled, build, embedding_of, extended, for_inference, who
from adkit.blame import blaming
from adkit.checkpoints import Course
from adkit.context import Context
from adkit.contracts import Batch, Extractor, Features, Level, PictureStream, Scorer, Stream
from adkit.core_tables import TrainingTable
from adkit.data.datasets import open_dataset
from adkit.data.duplicates import foreign_pictures, foreign_warning
from adkit.data.found import some
from adkit.data.loader import BadPictures, Loader
from adkit.data.samples import Dataset, Sample
from adkit.data.splits import hold_out
from adkit.data.view import View
from adkit.errors import UserError
from adkit.inference import Embedding
from adkit.minibatches import Pictures
from adkit.progress import Display
from adkit.recipe import Recipe
from adkit.report import TrainingReport
from adkit.sources import PictureSource, Source
from adkit.training import Lesson, train, training_context
from adkit.training_contracts import (
    Adapter,
    ExtendingAdapter,
    HoldingStopper,
    Schedule,
    ScheduledAdapter,
    ScoredAdapter,
    Stopper,
)


@dataclass(frozen=True)
class Adapted:
    """One extractor after training."""

    embedding: Embedding
    initial: Scorer | None
    """The scorer that was fitted on ψ₀, where the recipe says that it stays so."""
    report: TrainingReport


@dataclass
class _Pictured:
    """Features of one source and the pictures of another: implements ``adkit.PictureStream``."""

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


def auxiliary_pictures(recipe: Recipe, dataset: Dataset, warn: Callable[[str], None]) -> list[Sample]:
    """The training pictures of every category of ``[auxiliary]``, each once; none without that table.

    A picture that is among those of the data, too, or cannot be read is left out. All are decoded for that: which ones
    are trained on must not depend on when one is found to be broken.

    Args:
        warn: told of those that are left out.

    Raises:
        UserError: what is wrong with the table or its data.
    """
    table = recipe.auxiliary
    if table is None:
        return []
    with recipe.document.locating("auxiliary", type(table).model_fields):
        found = open_dataset(table, recipe.run.seed)
        # By names of their own: the same file name may stand in the data.
        samples = [
            replace(sample, id=f"[auxiliary]/{sample.id}")
            for category in found.categories
            for sample in (*category.train, *category.calibration)
        ]
        samples = list({sample.id: sample for sample in samples}.values())
        own = {sample.id: sample for category in dataset.categories for sample in category.samples}
        samples, pairs = foreign_pictures(samples, own.values())
        bad = BadPictures(table.max_bad_share)
        for _ in Loader(samples, View.of(recipe.data), recipe.data.batch_size, bad):
            pass
        bad.check(len(samples))
    warnings = [*found.warnings, *([foreign_warning(pairs)] if pairs else [])]
    if bad:
        named = some([f"{picture}: {reason}" for picture, reason in bad.reasons.items()], 3)
        warnings.append(f"{len(bad)} auxiliary pictures could not be read and were left out: {named}")
    for text in warnings:
        warn(text)
    return [sample for sample in samples if sample.id not in bad]


def new_adapter(parts: Assembled) -> Adapter | None:
    """An adapter that is not prepared; None where the recipe names none.

    Raises:
        UserError: what it refuses, or a scorer that would be fitted on levels that nothing was trained for.
    """
    choice = parts.recipe.adapter
    if choice is None:
        return None
    adapter = cast(Adapter, build(choice, parts.context))
    if isinstance(adapter, ExtendingAdapter) and parts.recipe.scorer_fit == "initial":
        raise UserError(
            f'scorer.fit: expected "adapted" with {choice.name}, which adds levels of its own that mean nothing before '
            'training, found "initial": remove this key'
        )
    return adapter


def split_for_stopping(
    samples: Sequence[Sample], equal: Mapping[str, int], parts: Assembled
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """(pictures to train on, pictures held out for the stopper)."""
    stopper = new_stopper(parts)
    share = stopper.validation if isinstance(stopper, HoldingStopper) else 0.0
    return hold_out(samples, share, parts.recipe.run.seed, "stopper", equal)


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
    initial = parts.embeddings[index]
    if isinstance(adapter, ExtendingAdapter):  # ψ₀ has the added levels, too
        initial = _embedding(for_inference(copy.deepcopy(extractor), choice), index, parts)
        source, index_of_initial = source.fresh((initial,)), 0
    else:
        index_of_initial = index

    scorer = None
    needs = isinstance(adapter, ScoredAdapter) and adapter.needs_scorer
    if needs or recipe.scorer_fit == "initial":
        scorer = parts.new_scorer()
        with display.stage("fit", f"{subject}, before adapting", len(samples)) as advance, blaming(who(recipe.scorer)):
            scorer.fit(source.stream(samples, advance, targets=False, embedding=index_of_initial))
    with display.stage("prepare", subject, len(samples)) as advance, blaming(who(choice)):
        normal = _Pictured(
            source.stream(samples, advance, targets=False, embedding=index_of_initial),
            source.fresh((initial,)).stream(samples, advance, targets=False),
        )
        others = PictureSource(parts, BadPictures(1.0), len(parts.auxiliary), (initial,))
        auxiliary = others.stream(parts.auxiliary, advance, targets=True) if parts.auxiliary else None
        adapter.prepare(extractor, normal, auxiliary, scorer if needs else None)
    if scorer is None and not normal.walked:
        for _ in normal.batches():  # which of them can be read must be known before the first step
            pass

    schedule = scheduled(adapter, recipe.training)

    def minibatches(of: Sequence[Sample], bad: BadPictures, name: str, targets: bool) -> Pictures:
        readable = [sample for sample in of if sample.id not in bad]

        def load(numbers: Sequence[int]) -> Iterable[Batch]:
            return parts.loader([readable[number] for number in numbers], bad, schedule.batch_size, targets)

        return Pictures(load, len(readable), schedule.batch_size, parts.context, name)

    context = training_context(parts.context)
    lesson = Lesson(
        extractor=cast(nn.Module, extractor),
        embedding=_embedding(extractor, index, parts, context),
        adapter=adapter,
        schedule=schedule,
        stopper=new_stopper(parts),
        pictures=minibatches(samples, source.bad, "normal", False),
        auxiliary=minibatches(parts.auxiliary, others.bad, "auxiliary", True) if parts.auxiliary else None,
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
    """Through a changed extractor ``index``; ``context``: what it computes in."""
    return embedding_of(extractor, parts.recipe.extractors[index], parts.recipe.features, context or parts.context)


def _report(subject: str, course: Course, schedule: Schedule) -> TrainingReport:
    kept = course.kept
    return TrainingReport(
        subject=subject,
        schedule={key: value for key, value in asdict(schedule).items() if value is not None},
        minibatches=course.looks[-1].minibatches,
        kept_minibatches=kept.minibatches if course.best else course.looks[-1].minibatches,
        ended=course.ended or "trained to its length",
        seconds=round(course.seconds, 3),
        looks=course.looks,
    )
