"""Checks that an adapter keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from math import isfinite
from typing import cast

import torch
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.adapter import (
    Adapter,
    BatchingAdapter,
    ExtendingAdapter,
    Group,
    Schedule,
    ScheduledAdapter,
    ScoredAdapter,
    Stage,
)
from adkit.plugin.extractor import Extractor
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_batchwise,
    require_close,
    require_finite,
    require_methods,
    require_tensor,
    require_type,
    running,
    untouched,
)
from adkit.testing.extractors import check_extractor
from adkit.testing.samples import SIZE, part, sample_images, stream_of
from adkit.testing.tiny import TinyExtractor, TinyScorer


def check_adapter(
    make: Callable[[], Adapter],
    make_extractor: Callable[[], Extractor] = TinyExtractor,
    make_scorer: Callable[[], Scorer] | None = None,
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of an adapter; one that fails raises an AssertionError.

    The extractor's parameters may be frozen: as in a run, those that ``stages()`` names are set to be trained.

    Args:
        make: a function that gives a fresh adapter, always with the same parameters and seed.
        make_extractor: a function that gives a fresh extractor with the levels that the adapter needs.
        make_scorer: a function that gives the scorer for an adapter that asks for one; it is fitted before ``prepare``
            sees it. Default: ``TinyScorer``.
        size: (height, width) of the extractor's input.
        tolerance: share of the largest score by which batches may differ.
        device: the torch device to check on.
    """
    normal, other = (sample_images(10, size, seed, device)[0] for seed in (1, 4))

    def extended() -> Extractor:
        adapter = make()
        require_methods(adapter, "adapter")
        return _extended(adapter, make_extractor())

    def prepared() -> tuple[Adapter, Extractor, list[nn.Parameter]]:
        adapter = make()
        require_methods(adapter, "adapter")
        extractor = _extended(adapter, make_extractor())
        stream, auxiliary = (stream_of(extractor, seed, size, device) for seed in (2, 3))
        scorer = None
        if _needs_scorer(adapter):
            scorer = make_scorer() if make_scorer else TinyScorer(device)
            scorer.fit(stream)
        with running("prepare(extractor, normal, auxiliary, scorer)"):
            adapter.prepare(extractor, stream, auxiliary, scorer)
        return adapter, extractor, _trained(adapter, extractor)

    if isinstance(make(), ExtendingAdapter):
        _check_extension(extended, make_extractor, size, tolerance, device)
    with generators_untouched():
        adapter, extractor, parameters = prepared()
        _check_schedule(adapter)
        batch = _check_batch(adapter, normal, other)
        loss = _check_loss(adapter, extractor, batch, parameters)
    twin, its_extractor, _ = prepared()
    again = _loss(twin, its_extractor, batch).detach()
    wanted = "two adapters of one seed to give equal losses"
    require_close("seed", wanted, {"loss": loss}, {"loss": again}, 0.0)
    with torch.no_grad():
        features = extractor(normal.images)
        with untouched("inputs", "features of score", features):
            scores = _score(adapter, features)
        require_tensor("shapes", "score", scores, (len(normal),))
        require_finite("score", scores)
        require_batchwise(lambda i, j: {"score": _score(adapter, part(features, i, j))}, len(normal), tolerance)


def _needs_scorer(adapter: Adapter) -> bool:
    if not isinstance(adapter, ScoredAdapter):
        return False
    require_type("needs_scorer", adapter.needs_scorer, bool)
    return adapter.needs_scorer


def _extended(adapter: Adapter, extractor: Extractor) -> Extractor:
    if not isinstance(adapter, ExtendingAdapter):
        return extractor
    with running("extend(extractor)"):
        return adapter.extend(extractor)


def _check_extension(
    extended: Callable[[], Extractor],
    make_extractor: Callable[[], Extractor],
    size: tuple[int, int],
    tolerance: float,
    device: str,
) -> None:
    """Require that ``extend`` gives an extractor of the given one's levels and more, always with the same tensors."""
    check_extractor(extended, size, tolerance, device)
    plain, first, second = make_extractor(), extended(), extended()
    kept = [name for name in first.levels if name in plain.levels]
    require(kept == list(plain.levels), "extension", f"the extractor's levels, {list(plain.levels)}", kept)
    require(len(first.levels) > len(kept), "extension", "at least one more level", list(first.levels))
    (batch,) = sample_images(3, size, 1, device)
    with torch.no_grad():
        before, after = plain(batch.images), first(batch.images)
    wanted = "the extractor's own levels as they were"
    require_close("extension", wanted, dict(before), {name: after[name] for name in plain.levels}, 0.0)
    shapes, others = ({n: tuple(t.shape) for n, t in cast(nn.Module, e).state_dict().items()} for e in (first, second))
    require(shapes == others, "extension", f"the same tensors at every call, {shapes}", others)


def _check_schedule(adapter: Adapter) -> None:
    if not isinstance(adapter, ScheduledAdapter):
        return
    schedule = adapter.schedule
    require_type("schedule", schedule, Schedule)
    rules = ("sgd", "adam", "adamw")
    require(schedule.optimizer in rules, "schedule", f"optimizer one of {', '.join(rules)}", repr(schedule.optimizer))
    require(0 <= schedule.momentum < 1, "schedule", "momentum in [0, 1)", schedule.momentum)
    require_type("schedule: relative_steps", schedule.relative_steps, bool)
    plain = not schedule.relative_steps or schedule.optimizer == "sgd"
    require(plain, "schedule", 'optimizer "sgd" with relative_steps', repr(schedule.optimizer))
    for name in (f.name for f in fields(schedule) if f.name not in ("optimizer", "momentum", "relative_steps")):
        value = getattr(schedule, name)
        least = value is None or value > 0 or (name == "weight_decay" and value == 0)
        require(least and (value is None or isfinite(value)), "schedule", f"{name} above 0 and finite", value)
    both = schedule.minibatches is not None and schedule.epochs is not None
    require(not both, "schedule", "minibatches or epochs", f"{schedule.minibatches} and {schedule.epochs}")


def _check_batch(adapter: Adapter, normal: Batch, auxiliary: Batch) -> Batch:
    """The images of a step, which the adapter makes of normal and auxiliary ones where it has ``batch``."""
    if not isinstance(adapter, BatchingAdapter):
        return normal

    def drawn(other: Batch | None) -> Batch:
        given = {"images": normal.images} | ({} if other is None else {"auxiliary images": other.images})
        untouched_inputs = untouched("inputs", "images of batch", given)
        with generators_untouched(), untouched_inputs, running("batch(normal, auxiliary, generator)"):
            return adapter.batch(normal, other, torch.Generator().manual_seed(0))

    try:
        _check_images(drawn(None))
    except AssertionError as error:
        if not isinstance(error.__cause__, UserError):  # which says that it needs [auxiliary]
            raise
    batch, again = drawn(auxiliary), drawn(auxiliary)
    _check_images(batch)
    parts = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    for name, value in parts.items():
        other = getattr(again, name)
        equal = isinstance(other, Tensor) and torch.equal(value, other)
        require(equal, "seed", f"equal {name} from generators of one seed", "others")
    return batch


def _check_images(batch: Batch) -> None:
    require_type("what batch gives", batch, Batch)
    count, _, height, width = batch.images.shape
    require_tensor("shapes", "images of batch", batch.images, (len(batch), 3, height, width))
    low, high = float(batch.images.min()), float(batch.images.max())
    require(low >= 0 and high <= 1, "range", "images of batch in [0, 1]", f"{low:g} to {high:g}")
    for name, shape, dtype in (("labels", (count,), torch.int64), ("masks", (count, height, width), torch.bool)):
        found = getattr(batch, name)
        if found is not None:
            holds = isinstance(found, Tensor) and found.shape == shape and found.dtype == dtype
            described = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            require(holds, "shapes", f"{name} of batch of {shape} {dtype}", described)


def _loss(adapter: Adapter, extractor: Extractor, batch: Batch) -> Tensor:
    features = extractor(batch.images)
    with running("loss(extractor, batch, features)"):
        found = adapter.loss(extractor, batch, features)
    if not isinstance(found, Mapping):
        require_tensor("shapes", "loss", found, ())
        return found
    require(len(found) > 0, "terms", "at least one", "none")
    for name, term in found.items():
        require(isinstance(name, str) and name != "", "terms", "names", repr(name))
        require_tensor("shapes", f"term {name} of loss", term, ())
        require_finite(f"term {name} of loss", term.detach())
    return torch.stack(list(found.values())).sum()


def _score(adapter: Adapter, features: Features) -> Tensor:
    with running("score(features)"):
        return adapter.score(features)


def _trained(adapter: Adapter, extractor: Extractor) -> list[nn.Parameter]:
    """The parameters of all stages, after they were set to be trained."""
    own = {id(parameter) for parameter in cast(nn.Module, extractor).parameters()}
    with running("stages()"):
        stages = adapter.stages()
    require_type("what stages gives", stages, Sequence)
    require(len(stages) > 0, "stages", "at least one", len(stages))
    for stage in stages:
        require_type("a stage", stage, Stage)
        length = stage.minibatches
        require(length is None or length > 0, "stages", f"minibatches of stage {stage.name} above 0", length)
        require_type(f"groups of stage {stage.name}", stage.groups, Sequence)
        for group in stage.groups:
            require_type(f"a group of stage {stage.name}", group, Group)
            require_type(f"parameters of stage {stage.name}", group.parameters, Sequence)
            rate = group.learning_rate
            require(rate is None or rate > 0, "stages", f"learning_rate in stage {stage.name} above 0", rate)
        require(len(stage.parameters) > 0, "stages", f"stage {stage.name} to train some parameter", "none")
        for parameter in stage.parameters:
            require_type(f"a parameter of stage {stage.name}", parameter, nn.Parameter)
            require(id(parameter) in own, "stages", f"parameters of the extractor in stage {stage.name}", "another one")
            parameter.requires_grad_(True)
    return [parameter for stage in stages for parameter in stage.parameters]


def _check_loss(adapter: Adapter, extractor: Extractor, batch: Batch, parameters: list[nn.Parameter]) -> Tensor:
    with untouched("inputs", "images of loss", {"images": batch.images}):
        loss = _loss(adapter, extractor, batch)
    require_finite("loss", loss)
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else []
    gradients = [gradient for gradient in found if gradient is not None]
    for gradient in gradients:
        require_finite("gradient", gradient)
    moving = any(bool(gradient.any()) for gradient in gradients)
    require(moving, "gradient", "one that is not 0 in some parameter of the stages", "none")
    return loss.detach()
