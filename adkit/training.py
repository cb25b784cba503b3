"""The trainer: one Ignite engine for every adapter, with the stopper in sight and checkpoints to go on from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import Tensor, nn

from adkit.blame import blaming
from adkit.checkpoints import CHECKPOINT, Course, latest
from adkit.context import Context
from adkit.contracts import Batch, Features
from adkit.device import autocast
from adkit.errors import UserError
from adkit.inference import Embedding
from adkit.minibatches import Pictures
from adkit.progress import Advance
from adkit.report import LookReport
from adkit.training_contracts import Adapter, BatchingAdapter, Progress, Schedule, Stage, Stopper, Verdict

SAVE_EVERY: Final = 200
"""Minibatches after which a checkpoint is written, beside those at the end of every epoch."""


@dataclass(frozen=True)
class Lesson:
    """Everything that a training is made of."""

    extractor: nn.Module
    """Trained in place; in evaluation mode, so that batch norms keep their statistics."""
    embedding: Embedding
    """The way from pictures to features through ``extractor``, without gradients, for the stopper."""
    adapter: Adapter
    schedule: Schedule
    stopper: Stopper | None
    pictures: Pictures
    auxiliary: Pictures | None
    held_out: Iterable[Batch]
    context: Context
    who_adapts: str = "adapter"
    who_stops: str = "stopper"
    say: Callable[[str], None] = lambda text: None


def train(lesson: Lesson, advance: Advance, folder: Path | None = None) -> Course:
    """Train the extractor, and leave it in the state that was kept last, or else the last one.

    Args:
        advance: told of every minibatch that is done.
        folder: for checkpoints; a training that left some there goes on from the last.

    Raises:
        UserError: the loss was not finite before any state was kept.
    """
    with blaming(lesson.who_adapts):
        stages = list(lesson.adapter.stages())
    trained = _trained(lesson.extractor, stages)
    course, saved = Course(), None if folder is None else latest(folder)
    if saved is not None:
        course.load_state_dict(saved["course"])
        lesson.extractor.load_state_dict(saved["extractor"])
        advance((course.done + int(saved["trainer"]["iteration"])) * lesson.schedule.batch_size)
    with torch.enable_grad():
        for number in range(course.stage, len(stages)):
            if course.ended:
                break
            _Trainer(lesson, stages[number], number, trained, course).run(advance, folder, saved)
            saved = None
    if course.best:
        with torch.no_grad():
            for name, tensor in course.best.items():
                trained[name].copy_(tensor)
    for parameter in lesson.extractor.parameters():
        parameter.requires_grad_(False)
    return course


class _Trainer:
    """One stage: its optimizer, and the engine that it steps."""

    def __init__(
        self, lesson: Lesson, stage: Stage, number: int, trained: Mapping[str, nn.Parameter], course: Course
    ) -> None:
        self.lesson, self.stage, self.course, self.trained = lesson, stage, course, trained
        course.stage = number
        self.length = _length(lesson.schedule, stage, lesson.pictures.epoch_length)
        self.optimizer = _optimizer(lesson.schedule, stage)
        device = torch.device(lesson.context.device).type
        self.scaler = torch.amp.GradScaler(device, enabled=lesson.context.precision == "float16")
        self.engine = Engine(self.step)
        self.auxiliary: Iterator[Batch] | None = None
        self.started = time.perf_counter()

    def run(self, advance: Advance, folder: Path | None, saved: Mapping[str, Any] | None) -> None:
        lesson, engine = self.lesson, self.engine
        engine.logger.addHandler(logging.NullHandler())
        per_epoch = lesson.pictures.epoch_length
        done = 0
        if saved is not None:
            Checkpoint.load_objects(self._objects(), saved)
            if lesson.stopper is not None:
                lesson.stopper.load_state_dict(saved["stopper"])
            done = engine.state.iteration
        for parameter in lesson.extractor.parameters():
            parameter.requires_grad_(False)
        for parameter in self.stage.parameters:
            parameter.requires_grad_(True)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: advance(len(cast(Batch, engine.state.batch))))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.end_where_it_should)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.look)
        if folder is not None:
            # Two are kept, since Ignite removes the older before the newer is written.
            save = Checkpoint(
                {**self._objects(), **({} if lesson.stopper is None else {"stopper": lesson.stopper})},
                DiskSaver(folder, require_empty=False),
                filename_prefix=CHECKPOINT,
                n_saved=2,
                global_step_transform=lambda engine, event: self.course.done + engine.state.iteration,
            )
            inside = Events.ITERATION_COMPLETED(event_filter=lambda _, n: n % SAVE_EVERY == 0 and n % per_epoch != 0)
            engine.add_event_handler(inside, save)
            engine.add_event_handler(Events.EPOCH_COMPLETED, save)
        if not self.course.looks:
            self.look()
        if self.course.ended:
            return
        if lesson.auxiliary is not None:
            self.auxiliary = lesson.auxiliary.since(self.minibatches)
        if done < self.length:
            epochs = math.ceil(self.length / per_epoch)
            engine.run(lesson.pictures.since(self.minibatches), max_epochs=epochs, epoch_length=per_epoch)
        if self.course.looks[-1].minibatches < self.course.done + engine.state.iteration:
            self.look()  # at a part of an epoch
        self.course.done += engine.state.iteration

    def _objects(self) -> dict[str, Any]:
        return {
            "trainer": self.engine,
            "extractor": self.lesson.extractor,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "course": self.course,
        }

    @property
    def minibatches(self) -> int:
        return self.course.done + self.engine.state.iteration

    def step(self, engine: Engine, normal: Batch) -> float:
        lesson = self.lesson
        with blaming(lesson.who_adapts):
            batch = self._batch(normal)
            with autocast(lesson.context):
                features = self._features(batch)
            found = lesson.adapter.loss(lesson.embedding.extractor, batch, features)
            terms = dict(found) if isinstance(found, Mapping) else {}
            loss = torch.stack([term.float() for term in terms.values()]).sum() if terms else _tensor(found)
        if not loss.requires_grad:
            raise UserError(
                "adapter.blocks: expected blocks that the levels are made of, found only some behind the last of them, "
                "which training would not change: name earlier ones, or deeper extractor.levels"
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            self._diverged(value)
            return value
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if lesson.schedule.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.stage.parameters, lesson.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for name, term in {"": loss, **terms}.items():
            self.course.sums[name] = self.course.sums.get(name, 0.0) + float(term.detach())
        self.course.count += 1
        return value

    def _batch(self, normal: Batch) -> Batch:
        adapter = self.lesson.adapter
        if not isinstance(adapter, BatchingAdapter):
            return normal
        other = None if self.auxiliary is None else next(self.auxiliary)
        return adapter.batch(normal, other, self.lesson.context.generator("batch", str(self.minibatches)))

    def _features(self, batch: Batch) -> Features:
        embedding = self.lesson.embedding
        features = embedding.extractor(batch.images.to(self.lesson.context.device, non_blocking=True))
        plain = Features({name: level.float() for name, level in features.items()}, features.geometry)
        return embedding.transform(plain)

    def _diverged(self, value: float) -> None:
        course = self.course
        if not course.best:
            raise UserError(
                f"training: expected a finite loss, found {value:g} after {self.minibatches} minibatches: lower "
                "training.learning_rate or set training.clip_norm"
            )
        kept = course.kept
        course.ended = (
            f"the loss became {value:g} after {self.minibatches} minibatches; went back to the state of minibatch "
            f"{kept.minibatches}"
        )
        course.looks.append(
            LookReport(
                minibatches=self.minibatches,
                epochs=self._epochs(),
                loss=None,
                terms={},
                figure=None,
                kept=False,
                reason=course.ended,
            )
        )
        self.engine.terminate()

    def end_where_it_should(self) -> None:
        """The length need not be whole epochs; where it is, the engine ends by itself, after a last look."""
        done = self.engine.state.iteration
        if done >= self.length and done % self.lesson.pictures.epoch_length:
            self.engine.terminate()

    def _epochs(self) -> float:
        return self.minibatches / self.lesson.pictures.epoch_length

    def look(self) -> None:
        """Ask the stopper about the current state."""
        course, lesson = self.course, self.lesson
        if course.ended:
            return
        means = {name: total / course.count for name, total in course.sums.items()} if course.count else {}
        loss = means.pop("", None)
        progress = Progress(self.minibatches, self._epochs(), loss)
        course.sums, course.count = {}, 0
        verdict = Verdict(keep=False, stop=False, reason="no stopper: trained to its length")
        if lesson.stopper is not None:
            generator = lesson.context.generator("stopper", str(progress.minibatches))
            with blaming(lesson.who_stops), torch.no_grad():
                verdict = lesson.stopper.check(progress, lesson.embedding, lesson.adapter, lesson.held_out, generator)
        if verdict.keep:
            course.best = {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}
        course.looks.append(
            LookReport(
                minibatches=progress.minibatches,
                epochs=progress.epochs,
                loss=loss,
                terms=means,
                figure=verdict.figure,
                kept=verdict.keep,
                reason=verdict.reason,
            )
        )
        now = time.perf_counter()
        course.seconds, self.started = course.seconds + now - self.started, now
        lesson.say(_told(course.looks[-1]))
        if verdict.stop:
            course.ended = verdict.reason
            self.engine.terminate()


def _told(look: LookReport) -> str:
    loss = "" if look.loss is None else f", loss {look.loss:.6g}"
    return f"epoch {look.epochs:.4g}{loss}: {look.reason}"


def _tensor(found: Tensor | Mapping[str, Tensor]) -> Tensor:
    if not isinstance(found, Tensor):
        raise TypeError(f"loss: expected a tensor or terms, found {type(found).__name__} of none")
    return found


def _trained(extractor: nn.Module, stages: Sequence[Stage]) -> dict[str, nn.Parameter]:
    """Name → parameter, of all that any stage trains."""
    wanted = {id(parameter) for stage in stages for parameter in stage.parameters}
    found = {name: parameter for name, parameter in extractor.named_parameters() if id(parameter) in wanted}
    if len(found) < len(wanted):
        raise ValueError(
            f"stages: expected parameters of the extractor alone, found {len(wanted) - len(found)} others, which would "
            "be lost: an adapter that trains a head extends the extractor by it"
        )
    return found


def _length(schedule: Schedule, stage: Stage, epoch_length: int) -> int:
    """Minibatches of a stage."""
    if stage.minibatches is not None:
        return stage.minibatches
    if schedule.minibatches is not None:
        return schedule.minibatches
    if schedule.epochs is None:
        raise ValueError("schedule: expected minibatches or epochs, found neither")
    return max(1, round(schedule.epochs * epoch_length))


def _optimizer(schedule: Schedule, stage: Stage) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    groups = [
        {"params": list(group.parameters), "lr": rate if group.learning_rate is None else group.learning_rate}
        for group in stage.groups
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=schedule.momentum, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, betas=(schedule.momentum, 0.999), weight_decay=decay)


def training_context(context: Context) -> Context:
    """In what a training computes: in float32 on the CPU, where mixed precision gains little and costs exactness."""
    return replace(context, precision="float32") if torch.device(context.device).type == "cpu" else context
