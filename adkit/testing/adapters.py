"""Checks that an adapter keeps its contract."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.adapter import Adapter, See, Stage, Step
from adkit.plugin.checks import check_features
from adkit.plugin.contract import has_own
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import GuardedAdapter
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features
from adkit.testing.asserts import (
    CallFailure,
    generators_untouched,
    made,
    require,
    require_batchwise,
    require_close,
    require_contract,
    require_finite,
    run_checks,
    running,
    untouched,
)
from adkit.testing.extractors import check_extractor
from adkit.testing.samples import SIZE, copied, part, sample_images, stream_of
from adkit.testing.tiny import TinyExtractor, TinyScorer
from adkit.utils.text import some

RATE = 1e-3
"""The learning rate of the step after which ``after_step`` is called."""


def check_adapter(
    make: Callable[[], Adapter],
    make_extractor: Callable[[], Extractor] = TinyExtractor,
    make_scorer: Callable[[], Scorer] | None = None,
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of an adapter, and raise one AssertionError that names all that failed.

    The extractor's parameters may be frozen: as in a run, those of a stage are set to be trained.

    Args:
        make: a function that gives a fresh adapter, always with the same parameters and seed.
        make_extractor: a function that gives a fresh extractor with the levels that the adapter needs.
        make_scorer: a function that gives the scorer for an adapter that asks for one; it is fitted before ``prepare``
            sees it. Default: ``TinyScorer``.
        size: (height, width) of the extractor's input.
        tolerance: share of the largest score by which batches may differ.
        device: the torch device to check on.
    """
    checks = _Checks(make, make_extractor, make_scorer, size, tolerance, device)
    run_checks(
        checks.contract,
        checks.extension,
        checks.stages,
        checks.batch,
        checks.loss,
        checks.generators,
        checks.seed,
        checks.resumed,
        checks.shared,
        checks.images_unread,
        checks.after_step,
        checks.score,
        checks.batches,
    )


@dataclass(frozen=True)
class _Prepared:
    """An adapter that has seen the normal images, and the extractor that it will train."""

    adapter: GuardedAdapter
    extractor: Extractor
    stages: Sequence[Stage]

    def features(self, images: Tensor) -> Features:
        """The features of images, as stoppers have them."""
        found = self.extractor(images)
        return check_features(found, self.extractor.levels, len(images), "extractor")

    def batch(self, step: Step) -> Step:
        """The step with the images that the adapter makes of it."""
        with running("batch(step)"):
            return replace(step, batch=self.adapter.batch(step))

    def loss(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its terms, of which there is one where it has none; only the stage's parameters are trained."""
        for parameter in self.extractor.parameters():
            parameter.requires_grad_(False)
        for parameter in self.stages[step.stage].parameters:
            parameter.requires_grad_(True)
        reads = self.adapter.reads_features
        return self.loss_of(step, self.features(step.batch.images) if reads else Features({}, {}))

    def loss_of(self, step: Step, features: Features) -> tuple[Tensor, Mapping[str, Tensor]]:
        with running("loss(step, features)"):
            found = self.adapter.loss(step, features)
        terms = found if isinstance(found, Mapping) else {"loss": found}
        return torch.stack(list(terms.values())).sum(), terms


@dataclass(frozen=True)
class _Checks:
    make: Callable[[], Adapter]
    make_extractor: Callable[[], Extractor]
    make_scorer: Callable[[], Scorer] | None
    size: tuple[int, int]
    tolerance: float
    device: str

    def made(self) -> GuardedAdapter:
        return cast(GuardedAdapter, made("adapter", self.make))

    def extractor(self) -> Extractor:
        with running("make_extractor()"):
            return self.make_extractor()

    def extended(self) -> Extractor:
        extractor = self.extractor()
        with running("extend(extractor)"):
            return self.made().extend(extractor)

    def prepared(self, extractor: Extractor | None = None, normal: int = 2) -> _Prepared:
        """An adapter that was prepared on normal images of the seed ``normal``."""
        adapter, extractor = self.made(), extractor or self.extractor()
        with running("extend(extractor)"):
            extractor = adapter.extend(extractor)
        seen, auxiliary = (stream_of(extractor, seed, self.size, self.device) for seed in (normal, 3))
        scorer: Scorer | None = None
        if adapter.needs_scorer:
            with running("make_scorer()"):
                scorer = self.make_scorer() if self.make_scorer else TinyScorer(self.device)
                scorer.fit(seen)
        with running("prepare(see)"):
            adapter.prepare(See(extractor, seen, auxiliary, scorer))
        return _Prepared(adapter, extractor, _stages(adapter, extractor))

    def images(self, seed: int) -> Batch:
        return sample_images(10, self.size, seed, self.device)[0]

    def step(self, given: _Prepared, number: int, auxiliary: bool = True) -> Step:
        """A step of a stage, with the images that the trainer gives it."""
        normal, other = self.images(1), self.images(4)
        generator = torch.Generator().manual_seed(0)
        if given.stages[number].images == "auxiliary":
            return Step(given.extractor, other, None, number, 0, generator)
        beside = other if auxiliary and given.adapter.reads_images else None
        return Step(given.extractor, normal, beside, number, 0, generator)

    def each_stage(self, check: Callable[[int], None]) -> None:
        run_checks(*(partial(check, number) for number in range(len(self.prepared().stages))))

    def contract(self) -> None:
        require_contract("adapter", self.make)

    def extension(self) -> None:
        extractor = self.extractor()
        with running("extend(extractor)"):
            itself = self.made().extend(extractor) is extractor  # which is what extend does by default
        if not itself:
            run_checks(
                lambda: check_extractor(self.extended, self.size, self.tolerance, self.device),
                self.extended_levels,
                self.extended_tensors,
            )

    def extended_levels(self) -> None:
        plain, extended, images = self.extractor(), self.extended(), self.images(1).images
        added = [name for name in extended.levels if name not in plain.levels]
        weights = [len(list(cast(nn.Module, one).parameters())) for one in (plain, extended)]
        wanted = "a level or a parameter beside those of the extractor"
        require(bool(added) or weights[0] < weights[1], "extend", wanted, ", ".join(extended.levels))
        with torch.no_grad():
            before, after = plain(images), extended(images)
        wanted = "the extractor's own levels as they were"
        require_close("extend", wanted, dict(before), {name: after[name] for name in plain.levels}, 0.0)

    def extended_tensors(self) -> None:
        one, other = (
            {name: tuple(tensor.shape) for name, tensor in cast(nn.Module, self.extended()).state_dict().items()}
            for _ in range(2)
        )
        others = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        require(not others, "extend", "the same tensors at every call", f"others: {some(others)}")

    def stages(self) -> None:
        """Stages depend on the extractor and the parameters alone, and list a parameter once."""
        adapter, extractor = self.made(), self.extractor()
        with running("extend(extractor)"):
            extractor = adapter.extend(extractor)
        first = _described(_stages(adapter, extractor), extractor)
        for name, *_, groups in first:
            names = [one for _, parameters in groups for one in parameters]
            twice = sorted({one for one in names if names.count(one) > 1})
            require(not twice, "stages", f"every parameter once in stage {name}", f"{some(twice)} twice")
        prepared = self.prepared()
        for when, asked, of in (
            ("at a second call", adapter, extractor),
            ("of a copy of the extractor", adapter, copy.deepcopy(extractor)),
            ("of another adapter of the same parameters", self.made(), extractor),
            ("after prepare", prepared.adapter, prepared.extractor),
            ("of a copy of the extractor after prepare", prepared.adapter, copy.deepcopy(prepared.extractor)),
        ):
            expected = f"the same stages {when}"
            try:
                found = _described(_stages(asked, of), of)
            except CallFailure as error:
                raise AssertionError(f"stages: expected {expected}, found {error}") from error
            require(found == first, "stages", f"{expected}, {first}", found)

    def batch(self) -> None:
        self.each_stage(self._check_batch)

    def _check_batch(self, number: int) -> None:
        given = self.prepared()

        def drawn(auxiliary: bool) -> Batch:
            step = self.step(given, number, auxiliary)
            images = {"images": step.batch.images}
            images |= {} if step.auxiliary is None else {"auxiliary images": step.auxiliary.images}
            with untouched("inputs", "images of batch", images):
                return given.batch(step).batch

        try:
            _check_range(drawn(auxiliary=False))
        except CallFailure as error:
            if not isinstance(error.__cause__, UserError):  # which says that it needs [auxiliary]
                raise
        one, other = drawn(auxiliary=True), drawn(auxiliary=True)
        _check_range(one)
        for name, value in vars(one).items():
            if isinstance(value, Tensor):
                again = getattr(other, name)
                equal = isinstance(again, Tensor) and torch.equal(value, again)
                require(equal, "seed", f"equal {name} of batch from generators of one seed", "others")

    def loss(self) -> None:
        self.each_stage(lambda number: run_checks(partial(self._check_loss, number), partial(self._check_read, number)))

    def _check_loss(self, number: int) -> None:
        given = self.prepared()
        loss, terms = given.loss(given.batch(self.step(given, number)))
        named = all(isinstance(name, str) and name for name in terms)
        require(named, "loss", "terms with names", ", ".join(map(repr, terms)))
        for name, term in terms.items():
            require_finite("loss" if name == "loss" else f"term {name} of loss", term.detach())
        stage = given.stages[number]
        found = torch.autograd.grad(loss, stage.parameters, allow_unused=True) if loss.requires_grad else []
        gradients = [gradient for gradient in found if gradient is not None]
        for gradient in gradients:
            require_finite("gradient", gradient)
        moving = any(bool(gradient.any()) for gradient in gradients)
        require(moving, "gradient", f"one that is not 0 in some parameter of stage {stage.name}", "none")
        got = {
            id(parameter) for parameter, gradient in zip(stage.parameters, found, strict=True) if gradient is not None
        }
        idle = [n for n, group in enumerate(stage.groups) if not any(id(p) in got for p in group.parameters)]
        require(not idle, "gradient", f"one in some parameter of each group of stage {stage.name}", f"none in {idle}")

    def _check_read(self, number: int) -> None:
        """The loss changes neither images nor weights."""
        given = self.prepared()
        step = given.batch(self.step(given, number))
        weights = cast(nn.Module, given.extractor).state_dict()
        images = {"images": step.batch.images}
        with untouched("inputs", "images of loss", images), untouched("weights", "weights in loss", weights):
            given.loss(step)

    def generators(self) -> None:
        extractor = self.extractor()
        with generators_untouched():
            given = self.prepared(extractor)
            for number in range(len(given.stages)):
                step = given.batch(self.step(given, number))
                given.loss(step)
                with torch.no_grad():
                    _scored(given.adapter, given.features(step.batch.images))

    def seed(self) -> None:
        self.each_stage(self._check_seed)

    def _check_seed(self, number: int) -> None:
        one, other = (
            {"loss": given.loss(given.batch(self.step(given, number)))[0].detach()}
            for given in (self.prepared(), self.prepared())
        )
        require_close("seed", "two adapters of one seed to give equal losses", one, other, 0.0)

    def resumed(self) -> None:
        self.each_stage(self._check_resumed)

    def _check_resumed(self, number: int) -> None:
        """A step does not depend on those before, but by the weights: a killed run goes on with a new adapter."""

        def loss(given: _Prepared, minibatch: int) -> float:
            generator = torch.Generator().manual_seed(minibatch)
            step = replace(self.step(given, number), minibatch=minibatch, generator=generator)
            return float(given.loss(given.batch(step))[0].detach())

        used = self.prepared()
        loss(used, 0)
        after, alone, again = loss(used, 1), loss(self.prepared(), 1), loss(self.prepared(), 1)
        if repr(alone) != repr(again):  # which the check of the seed reports
            return
        wanted = "a loss of prepare, extractor and step alone, since a killed run goes on with a new adapter"
        found = (
            f"{after:g} after another step and {alone:g} without: make what it depends on in prepare or of "
            "step.minibatch"
        )
        require(repr(after) == repr(alone), "resumed", wanted, found)

    def shared(self) -> None:
        """The loss of a stage that is trained once for all categories does not depend on the normal images of one."""
        for number, stage in enumerate(self.prepared().stages):
            if stage.shared:
                one, other = (
                    {"loss": given.loss(given.batch(self.step(given, number)))[0].detach()}
                    for given in (self.prepared(), self.prepared(normal=7))
                )
                wanted = f"a loss of stage {stage.name}, which is shared, whatever the normal images are"
                require_close("shared", wanted, one, other, 0.0)

    def images_unread(self) -> None:
        """Without ``reads_images`` a step has what blocks that are not trained gave in place of the images."""
        if not self.made().reads_images:
            self.each_stage(self._check_unread)

    def _check_unread(self, number: int) -> None:
        given = self.prepared()
        step = self.step(given, number)
        features = given.features(step.batch.images)
        expected, _ = given.loss_of(step, features)
        rows = replace(step, batch=replace(step.batch, images=torch.zeros(len(step.batch), 2, device=self.device)))
        try:
            found, _ = given.loss_of(rows, features)
        except CallFailure as error:
            line = "expected a loss of the features alone where it is False, found that it reads the images"
            raise AssertionError(f"reads_images: {line}: {error}") from error
        wanted = "a loss of the features alone where it is False"
        require_close("reads_images", wanted, {"loss": expected.detach()}, {"loss": found.detach()}, 0.0)

    def after_step(self) -> None:
        if has_own(self.made().inner, Adapter, "after_step"):
            self.each_stage(self._check_after_step)

    def _check_after_step(self, number: int) -> None:
        """A step of its own changes what the stage trains, and nothing else."""
        given = self.prepared()
        step = given.batch(self.step(given, number))
        loss, _ = given.loss(step)
        trained = given.stages[number].parameters
        found = torch.autograd.grad(loss, trained, allow_unused=True) if loss.requires_grad else []
        ids = {id(parameter) for parameter in trained}
        state = cast(nn.Module, given.extractor).state_dict(keep_vars=True)
        others = {name: tensor.detach() for name, tensor in state.items() if id(tensor) not in ids}
        with torch.no_grad():
            for parameter, gradient in zip(trained, found, strict=False):
                if gradient is not None:
                    parameter.sub_(RATE * gradient)
            left = {**others, "images": step.batch.images}
            unchanged = untouched("after_step", "images and what the stage does not train", left)
            with unchanged, generators_untouched(), running("after_step(step, rates)"):
                given.adapter.after_step(step, dict.fromkeys(trained, RATE))
        for parameter in trained:
            require_finite("a parameter after after_step", parameter.detach())

    def score(self) -> None:
        given = self.prepared()
        with torch.no_grad():
            features = given.features(self.images(1).images)
            with untouched("inputs", "features of score", features), running("score(features)"):
                scores = given.adapter.score(features)
        require_finite("score", scores)

    def batches(self) -> None:
        given, images = self.prepared(), self.images(1).images
        with torch.no_grad():
            features = given.features(images)

            def score(first: int, last: int) -> dict[str, Tensor]:
                return {"score": _scored(given.adapter, part(features, first, last))}

            require_batchwise(score, len(images), self.tolerance)


def _scored(adapter: GuardedAdapter, features: Features) -> Tensor:
    with running("score(features)"):
        return adapter.score(copied(features))


def _stages(adapter: GuardedAdapter, extractor: Extractor) -> list[Stage]:
    with running("stages(extractor)"):
        return adapter.stages(extractor)


def _described(stages: Sequence[Stage], extractor: Extractor) -> list[tuple[Any, ...]]:
    """Stages in names of parameters, so that those of two copies of an extractor can be compared."""
    names = {id(parameter): name for name, parameter in extractor.named_parameters()}
    return [
        (
            stage.name,
            stage.images,
            stage.minibatches,
            stage.batch_size,
            [(group.learning_rate, [names[id(one)] for one in group.parameters]) for group in stage.groups],
        )
        for stage in stages
    ]


def _check_range(batch: Batch) -> None:
    low, high = float(batch.images.min()), float(batch.images.max())
    require(low >= 0 and high <= 1, "range", "images of batch in [0, 1]", f"{low:g} to {high:g}")
