"""The trainer: one Ignite engine for every adapter, with its stopper and with checkpoints to resume from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.handlers import Checkpoint, EMAHandler
from ignite.handlers.param_scheduler import LRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from adkit.errors import UserError
from adkit.inference.device import autocast
from adkit.inference.pipeline import Embedding
from adkit.logs.logs import NO_LOGS, Logs
from adkit.plugin.adapter import Adapter, Schedule, Stage, Step
from adkit.plugin.checks import fault
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import blaming, named
from adkit.plugin.stopper import Look, Progress, Stopper, Verdict
from adkit.plugin.types import Batch, Features
from adkit.report.report import CheckReport
from adkit.toolkit.cache import cached
from adkit.training.checkpoints import (
    CHECKPOINT,
    CheckpointFolder,
    TrainingState,
    latest,
    put_back,
    trained_parameters,
    write_snapshot,
)
from adkit.training.plan import interval_of, length_of
from adkit.training.shared import KIND, key_of, packed, unpacked
from adkit.utils.progress import Advance
from adkit.utils.text import counted

logger = logging.getLogger("adkit")

SAVE_EVERY: Final = 200
"""Number of minibatches after which a checkpoint is written, besides those at the end of every epoch."""
SPARING: Final = 20
"""A checkpoint is left out when the last was written less than so many times ago as writing it took: a GPU may be done
with an epoch sooner than a disk with a checkpoint. Where a stage ends there is always one."""


class Checks(EventEnum):
    """The event of a check, beside Ignite's own."""

    CHECKED = "checked"


@dataclass(frozen=True)
class TrainingTask:
    """Everything that a training consists of."""

    extractor: Extractor
    """The extractor that is trained in place; in evaluation mode, so that batch norms keep their statistics."""
    embedding: Embedding
    """The way from images to features through ``extractor``, without gradients, for the stopper."""
    adapter: Adapter
    schedule: Schedule
    stopper: Stopper | None
    stages: Sequence[Stage]
    """The stages that ``adapter.stages(extractor)`` gave."""
    forward: Callable[[Tensor], Mapping[str, Tensor]]
    """The way from the images of ``normal`` to levels that a step trains: the extractor, or its tail."""
    normal: Minibatches
    """Normal images to train on, or rows in their place where ``forward`` is a tail."""
    auxiliary: Minibatches | None
    """Images of ``[auxiliary]``; None without that table."""
    held_out: Iterable[Batch]
    """Normal images that are held out for the stopper."""
    context: Context
    about: str = ""
    """Names the adapter with its version and its parameters, for what is kept of its training in the cache."""
    tunes_blocks: bool = False
    """Whether the recipe's ``adapter.blocks`` decides what is trained."""
    subject: str = ""
    """What is adapted, for logs."""
    say: Callable[[str], None] = lambda text: None
    """Shows a line about each check to the user."""
    logs: Logs = NO_LOGS
    """What is told the loss and the rates of each step, and what each check found."""

    def features(self, images: Tensor) -> Features:
        """Compute the features that the adapter reads, with gradients; ``images`` are those of ``normal``."""
        with autocast(self.context), blaming(self.embedding.who):
            given = self.forward(images.to(self.context.device, non_blocking=True))
            found = self.embedding.checked(given, len(images))
        plain = Features({name: level.float() for name, level in found.items()}, found.geometry)
        return self.embedding.transform(plain)

    def loss(self, step: Step) -> Tensor | Mapping[str, Tensor]:
        """Compute the adapter's loss of a step, on features where it reads them."""
        if self.adapter.reads_features:
            return self.adapter.loss(step, self.features(step.batch.images))
        with autocast(self.context):
            return self.adapter.loss(step, Features({}, {}))

    def images_of(self, number: int) -> Minibatches:
        """Return the images that a stage trains on, in minibatches of its size."""
        stage = self.stages[number]
        found = self.auxiliary if stage.images == "auxiliary" else self.normal
        assert found is not None  # require_trainable has refused such a stage without [auxiliary]
        return found.of_stage(number, stage.batch_size)

    def length_of(self, number: int) -> int:
        """Compute the number of minibatches of a stage."""
        return length_of(self.schedule, self.stages[number], self.images_of(number).epoch_length)


def train(task: TrainingTask, advance: Advance, folder: Path | None = None) -> TrainingState:
    """Train the extractor, and leave it in the state that was kept last or, if none was, in the last one.

    Args:
        advance: called with the number of images of every minibatch that is done.
        folder: where checkpoints and snapshots are kept; a training that left some there is resumed from the last.
            Without a folder there are none.

    Raises:
        UserError: the loss was not finite before any state was kept.
    """
    trained = trained_parameters(task.extractor, task.stages)
    state, saved = TrainingState(), None if folder is None else latest(folder)
    if saved is not None:
        state.load_state_dict(saved["state"])
        task.extractor.load_state_dict(saved["extractor"])
        advance(_images_done(task, state.stage, int(saved["trainer"]["iteration"])))
    with torch.enable_grad():
        for number in range(state.stage, len(task.stages)):
            if state.ended:
                break
            trainer = _Trainer(task, task.stages[number], number, trained, state)
            if trainer.shared:
                trainer.run_once(advance, folder, saved)
            else:
                trainer.run(advance, folder, saved)
            saved = None
    if state.best:
        put_back(task.extractor, state.best)
    for parameter in task.extractor.parameters():
        parameter.requires_grad_(False)
    return state


def _images_done(task: TrainingTask, stage: int, iteration: int) -> int:
    """Compute the number of images of all minibatches up to one of a stage, the last of an epoch taken as whole."""
    done = [task.length_of(number) for number in range(stage)]
    sizes = [one.batch_size or task.schedule.batch_size for one in task.stages]
    return sum(length * size for length, size in zip([*done, iteration], sizes, strict=False))


class _Trainer:
    """One stage of a training: its optimizer, and the engine that steps it."""

    def __init__(
        self, task: TrainingTask, stage: Stage, number: int, trained: Mapping[str, nn.Parameter], state: TrainingState
    ) -> None:
        self.task, self.stage, self.state, self.trained = task, stage, state, trained
        state.stage = self.number = number
        self.images, self.length = task.images_of(number), task.length_of(number)
        self.epochs_before = sum(task.length_of(one) / task.images_of(one).epoch_length for one in range(number))
        self.optimizer = optimizer_of(task.schedule, stage)
        device = torch.device(task.context.device).type
        self.rates = rates_of(self.optimizer, task.schedule, self.length)
        self.mean = mean_of(stage, task.schedule)
        self.scaler = torch.amp.GradScaler(device, enabled=task.context.precision == "float16")
        self.engine = Engine(self.step)
        self.engine.register_events(*Checks, event_to_attr={Checks.CHECKED: "checks"})
        self.auxiliary: Iterator[Batch] | None = None
        self.started = time.perf_counter()
        self.saved_at = self.saving_took = 0.0

    @property
    def shared(self) -> bool:
        """Whether nothing but the cache need know of this stage: neither a stopper nor snapshots look into it."""
        task = self.task
        watched = (self.last and task.stopper is not None) or task.schedule.snapshot_epochs is not None
        return self.stage.shared and not watched

    def run_once(self, advance: Advance, folder: Path | None, saved: Mapping[str, Any] | None) -> None:
        """Run the stage, or take its outcome from the cache."""
        task, state = self.task, self.state
        names = {id(parameter): name for name, parameter in task.extractor.named_parameters()}
        if saved is None:
            state.key, state.begun = self._key(), len(state.checks)
        before, ran = state.begun, False

        def outcome() -> dict[str, Tensor]:
            nonlocal ran
            ran = True
            self.run(advance, folder, saved)
            trained = {names[id(one)]: one.detach() for one in self.stage.parameters}
            return packed(trained, state.checks[before:])

        found = cached(KIND, state.key, outcome)
        if not ran:
            parameters, checks = unpacked(found)
            put_back(task.extractor, parameters)
            state.checks[before:] = checks  # a killed run may have seen some of them
            state.sums, state.count = {}, 0
            state.done += self.length
            advance(self.length * (self.stage.batch_size or task.schedule.batch_size))
            task.say(f"{self.stage.name}: taken from an earlier training on the same images")

    def _key(self) -> str:
        task, images = self.task, self.images
        generator = task.context.generator("batch", str(self.state.done + 1))
        with torch.no_grad():
            step = Step(task.extractor, next(images.since(0)), None, self.number, self.state.done, generator)
            found = task.loss(replace(step, batch=task.adapter.batch(step)))
        losses = found if isinstance(found, Mapping) else {"loss": found}
        about = f"{task.about}, stage {self.number} after {self.state.done}"
        every = images.every()
        return key_of(about, task.schedule, self.stage, self.length, task.extractor, task.context, every, losses)

    def run(self, advance: Advance, folder: Path | None, saved: Mapping[str, Any] | None) -> None:
        task, engine = self.task, self.engine
        engine.logger.addHandler(logging.NullHandler())
        per_epoch = self.images.epoch_length
        done = 0
        if saved is not None:
            Checkpoint.load_objects(self._objects(), saved)
            if task.stopper is not None:
                task.stopper.load_state_dict(saved["stopper"])
            done = engine.state.iteration
        for parameter in task.extractor.parameters():
            parameter.requires_grad_(False)
        for parameter in self.stage.parameters:
            parameter.requires_grad_(True)
        if self.rates is not None:
            engine.add_event_handler(Events.ITERATION_STARTED, self.rates)
        if self.mean is not None:  # before whatever looks at a step's outcome
            self.mean.attach(engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: advance(len(cast(Batch, engine.state.batch))))
        task.logs.attach(engine, Checks.CHECKED, self.optimizer, task.subject, lambda: self.minibatches)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.end_where_it_should)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check)
        if folder is not None:
            if (every := task.schedule.snapshot_epochs) is not None:
                take = partial(self.take_snapshot, folder, interval_of(every, task.normal.epoch_length))
                engine.add_event_handler(Events.ITERATION_COMPLETED, take)
                take()
            # Two are kept, since Ignite removes the older before the newer is written.
            save = Checkpoint(
                {**self._objects(), **({} if task.stopper is None else {"stopper": task.stopper})},
                CheckpointFolder(folder),
                filename_prefix=CHECKPOINT,
                n_saved=2,
                global_step_transform=lambda engine, event: self.state.done + engine.state.iteration,
            )

            def save_in_time(engine: Engine) -> None:
                now = time.perf_counter()
                ends = self.state.ended or engine.state.iteration >= self.length
                if ends or now - self.saved_at >= SPARING * self.saving_took:
                    save(engine)
                    self.saved_at = time.perf_counter()
                    self.saving_took = self.saved_at - now

            inside = Events.ITERATION_COMPLETED(event_filter=lambda _, n: n % SAVE_EVERY == 0 and n % per_epoch != 0)
            engine.add_event_handler(inside, save_in_time)
            engine.add_event_handler(Events.EPOCH_COMPLETED, save_in_time)
        begins = task.stopper is not None and self.last and not done  # what the stopper's stage begins with
        if not self.state.checks or begins:
            self.check()
        if self.state.ended:
            return
        if task.auxiliary is not None and task.adapter.reads_images and self.stage.images == "normal":
            self.auxiliary = task.auxiliary.of_stage(self.number, self.stage.batch_size).since(done)
        if done < self.length:
            epochs = math.ceil(self.length / per_epoch)
            engine.run(self.images.since(done), max_epochs=epochs, epoch_length=per_epoch)
        if self.state.checks[-1].minibatches < self.state.done + engine.state.iteration:
            self.check()  # inside an epoch
        if self.mean is not None:
            self._put(self.mean.ema_model.parameters())  # which the next stage begins with
        self.state.done += engine.state.iteration

    def _objects(self) -> dict[str, Any]:
        return {
            "trainer": self.engine,
            "extractor": self.task.extractor,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            **({} if self.rates is None else {"rates": self.rates}),
            **({} if self.mean is None else {"mean": self.mean.ema_model}),
            "state": self.state,
        }

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the extractor have the mean of the weights, where the schedule asks for one, and then its own again."""
        if self.mean is None:
            yield
            return
        own = [parameter.detach().clone() for parameter in self.stage.parameters]
        self._put(self.mean.ema_model.parameters())
        try:
            yield
        finally:
            self._put(own)

    def _put(self, weights: Iterable[Tensor]) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.stage.parameters, weights, strict=True):
                parameter.copy_(weight)

    @property
    def last(self) -> bool:
        """Whether this is the last stage, which alone a stopper judges: what it kept of others would undo this one."""
        return self.number == len(self.task.stages) - 1

    @property
    def minibatches(self) -> int:
        return self.state.done + self.engine.state.iteration

    def step(self, engine: Engine, drawn: Batch) -> float:
        task = self.task
        other = None if self.auxiliary is None else next(self.auxiliary)
        generator = task.context.generator("batch", str(self.minibatches))
        step = Step(task.extractor, drawn, other, self.number, self.minibatches - 1, generator)
        step = replace(step, batch=task.adapter.batch(step))
        found = task.loss(step)
        terms = dict(found) if isinstance(found, Mapping) else {}
        loss = found if isinstance(found, Tensor) else torch.stack([term.float() for term in terms.values()]).sum()
        if not loss.requires_grad:
            self._untrainable()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._diverged(value)
            return value
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if engine.state.iteration == 1:
            self._warn_of_idle_groups()
        share, clip = 1.0, task.schedule.clip_norm
        if task.schedule.relative_steps:
            self.scaler.unscale_(self.optimizer)
            share = self._lengthen()
        elif clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = float(torch.nn.utils.clip_grad_norm_(self.stage.parameters, clip))
            share = min(1.0, clip / (norm + 1e-6))  # the factor that clip_grad_norm_ applies
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            task.adapter.after_step(step, acting_rates(self.optimizer, task.schedule, share))
        for name, term in {"": loss, **terms}.items():
            self.state.sums[name] = self.state.sums.get(name, 0.0) + float(term.detach())
        self.state.count += 1
        return value

    def _lengthen(self) -> float:
        """Make the gradient as long as the weights of this stage; the factor by which it was lengthened."""
        weights = list(self.stage.parameters)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        length = float(torch.nn.utils.get_total_norm([weight.detach() for weight in weights]))
        norm = float(torch.nn.utils.get_total_norm(gradients))
        share = length / norm if 0 < norm < math.inf else 1.0
        for gradient in gradients:
            gradient.mul_(share)
        return share

    def _warn_of_idle_groups(self) -> None:
        """Warn of groups of parameters that the loss does not depend on, which would stay as they are."""
        for number, group in enumerate(self.stage.groups):
            if all(parameter.grad is None for parameter in group.parameters):
                logger.warning(
                    "%s: the loss does not depend on group %d of stage %s, which stays as it is: leave it out, or read "
                    "a level that depends on it",
                    named(self.task.adapter),
                    number,
                    self.stage.name,
                )

    def _untrainable(self) -> NoReturn:
        """Raise the error of a loss that no parameter of the stage takes part in."""
        if self.task.tunes_blocks:
            raise UserError(
                "adapter.blocks: expected blocks that the levels are made of, found only some behind the last of them, "
                "which training would not change: name earlier ones, or deeper extractor.levels"
            )
        raise fault(
            named(self.task.adapter),
            "loss",
            f"a scalar that gradients flow through to the parameters of stage {self.stage.name}",
            "one without a gradient",
            "compute it from the features, without detach, item or no_grad",
        )

    def _diverged(self, value: float) -> None:
        state, after = self.state, counted(self.minibatches, "minibatch", "minibatches")
        if not state.best:
            raise UserError(
                f"training: expected a finite loss, found {value:g} after {after}: lower "
                "training.learning_rate or set training.clip_norm"
            )
        kept = state.kept
        state.ended = f"the loss became {value:g} after {after}; went back to the state of minibatch {kept.minibatches}"
        state.checks.append(
            CheckReport(
                minibatches=self.minibatches,
                epochs=self._epochs(),
                loss=None,
                terms={},
                value=None,
                kept=False,
                reason=state.ended,
            )
        )
        self.engine.terminate()

    def take_snapshot(self, folder: Path, every: int) -> None:
        """Write the state to disk after each ``every`` minibatches, and the first and the last state of a stage."""
        last = self.engine.state.iteration >= self.length
        if self.state.ended or not (self.minibatches % every == 0 or last):
            return
        with self.averaged():
            write_snapshot(folder, self.minibatches, self.trained)
        if self.minibatches not in self.state.snapshots:
            self.state.snapshots.append(self.minibatches)

    def end_where_it_should(self) -> None:
        """End the stage at a length inside an epoch; at an epoch's end the engine ends by itself, after a check."""
        done = self.engine.state.iteration
        if done >= self.length and done % self.images.epoch_length:
            self.engine.terminate()

    def _epochs(self) -> float:
        return self.epochs_before + self.engine.state.iteration / self.images.epoch_length

    def check(self) -> None:
        """Ask the stopper, if there is one, about the current state, and note and show what it says."""
        state, task = self.state, self.task
        if state.ended:
            return
        means = {name: total / state.count for name, total in state.sums.items()} if state.count else {}
        loss = means.pop("", None)
        progress = Progress(self.minibatches, self._epochs(), loss)
        state.sums, state.count = {}, 0
        verdict = Verdict(keep=False, stop=False, reason="")
        with self.averaged():
            if task.stopper is not None and self.last:
                generator = task.context.generator("stopper", str(progress.minibatches))
                with torch.no_grad():
                    look = Look(progress, task.embedding, task.adapter, task.held_out, generator)
                    verdict = task.stopper.check(look)
            # A checkpoint has the weights themselves: where nothing was kept, a mean would be lost with the stop.
            if verdict.keep or (verdict.stop and self.mean is not None and not state.best):
                state.best = {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}
        state.checks.append(
            CheckReport(
                minibatches=progress.minibatches,
                epochs=progress.epochs,
                loss=loss,
                terms=means,
                value=verdict.value,
                kept=verdict.keep,
                reason=verdict.reason,
            )
        )
        now = time.perf_counter()
        state.seconds, self.started = state.seconds + now - self.started, now
        if line := _describe(state.checks[-1]):
            task.say(line)
        self.engine.state.metrics = _numbers(state.checks[-1])
        self.engine.fire_event(Checks.CHECKED)
        if verdict.stop:
            state.ended = verdict.reason
            self.engine.terminate()


def _numbers(check: CheckReport) -> dict[str, float]:
    """What a check found, by name, as far as there is something."""
    found = {"loss": check.loss, **{f"loss/{name}": mean for name, mean in check.terms.items()}}
    if check.reason:  # there is a stopper
        found |= {"stopper_value": check.value, "kept": float(check.kept)}
    return {name: value for name, value in found.items() if value is not None}


def _describe(check: CheckReport) -> str:
    """Describe a check in a line for the display; empty where there is neither a loss nor a stopper's reason."""
    if check.loss is None and not check.reason:
        return ""
    loss = "" if check.loss is None else f", loss {check.loss:.6g}"
    reason = f": {check.reason}" if check.reason else ""
    return f"epoch {check.epochs:.4g}{loss}{reason}"


def training_context(context: Context) -> Context:
    """Make the context of a training: float32 on the CPU, where mixed precision gains little and costs exactness."""
    return replace(context, precision="float32") if torch.device(context.device).type == "cpu" else context


def optimizer_of(schedule: Schedule, stage: Stage) -> torch.optim.Optimizer:
    """Build the optimizer of a stage, with one group of parameters per group of the stage."""
    rate, decay = schedule.learning_rate, schedule.weight_decay
    groups = [
        {"params": list(group.parameters), "lr": rate if group.learning_rate is None else group.learning_rate}
        for group in stage.groups
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=schedule.momentum, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, betas=(schedule.momentum, 0.999), weight_decay=decay)


def rates_of(optimizer: torch.optim.Optimizer, schedule: Schedule, length: int) -> LRScheduler | None:
    """Make the handler that sets the learning rates of each minibatch of a stage; None where they stay as they are."""
    decay, warmup = schedule.rate_decay, schedule.warmup
    if decay == "none" and not warmup:
        return None

    def share(number: int) -> float:
        if number < warmup:
            return (number + 1) / (warmup + 1)
        past = min(1.0, (number - warmup) / max(1, length - warmup))
        return {"none": 1.0, "linear": 1 - past, "cosine": (1 + math.cos(math.pi * past)) / 2}[decay]

    return LRScheduler(LambdaLR(optimizer, share))


def mean_of(stage: Stage, schedule: Schedule) -> EMAHandler | None:
    """Make the handler that averages the weights that a stage trains; None where they are kept as they are.

    It knows nothing of the others: averaged with themselves they would drift by rounding.
    """
    if schedule.ema_decay is None:
        return None
    return EMAHandler(nn.ParameterList(stage.parameters), momentum=1 - schedule.ema_decay)


def acting_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, share: float) -> dict[nn.Parameter, float]:
    """Compute the rate at which a gradient acts on each parameter, with clipping and the momentum of sgd.

    Args:
        share: the factor by which this step's gradient was shortened or lengthened.
    """
    gain = share / (1 - schedule.momentum) if schedule.optimizer == "sgd" else 1.0
    return {parameter: gain * float(group["lr"]) for group in optimizer.param_groups for parameter in group["params"]}


class Minibatches:
    """Training images in minibatches, epoch after epoch without end, in an order that the epoch's number decides.

    So a run that is resumed at any minibatch sees the images that it would have seen.
    """

    def __init__(
        self,
        load: Callable[[Sequence[int], int], Iterable[Batch]],
        count: int,
        batch_size: int,
        context: Context,
        name: str,
    ) -> None:
        """
        Args:
            load: numbers of images, and a batch size → those images, in batches of that size.
            count: number of all images.
            name: name of the generator that shuffles them.
        """
        self._load = load
        self._count = count
        self._batch_size = batch_size
        self._context = context
        self._name = name

    def of_stage(self, number: int, batch_size: int | None) -> Minibatches:
        """Return the same images in the order of another stage than the first, in minibatches of ``batch_size``."""
        name = f"{self._name}, stage {number}" if number else self._name
        return Minibatches(self._load, self._count, batch_size or self._batch_size, self._context, name)

    @property
    def epoch_length(self) -> int:
        """The number of minibatches of an epoch, the last of which may be smaller."""
        return math.ceil(self._count / self._batch_size)

    def every(self) -> Iterable[Batch]:
        """Read each image once, in order."""
        return self._load(range(self._count), self._batch_size)

    def since(self, minibatch: int) -> Iterator[Batch]:
        """Yield batches from number ``minibatch`` on, which is counted from 0."""
        epoch, offset = divmod(minibatch, self.epoch_length)
        while True:
            order = torch.randperm(self._count, generator=self._context.generator(self._name, str(epoch))).tolist()
            found = 0
            for batch in self._load(order[offset * self._batch_size :], self._batch_size):
                found += 1
                yield batch
            if not found:
                raise UserError("data: expected images to train on, found none that can be read any more")
            epoch, offset = epoch + 1, 0
