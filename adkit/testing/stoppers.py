"""Checks that a stopper keeps its contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from adkit.plugin.adapter import Adapter
from adkit.plugin.extractor import Extractor
from adkit.plugin.stopper import HoldingStopper, Progress, Stopper, Verdict
from adkit.plugin.types import Batch, Features
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_methods,
    require_type,
    running,
    untouched,
)
from adkit.testing.samples import SIZE, sample_images, stream_of
from adkit.testing.tiny import TinyAdapter, TinyExtractor

CHECKS = tuple(
    Progress(minibatches=10 * epoch, epochs=float(epoch), loss=loss) for epoch, loss in enumerate((None, 1.0, 0.5, 0.7))
)
"""The progress of a training at each of its checks."""


def check_stopper(
    make: Callable[[], Stopper],
    make_extractor: Callable[[], Extractor] = TinyExtractor,
    make_adapter: Callable[[], Adapter] = TinyAdapter,
    size: tuple[int, int] = SIZE,
    device: str = "cpu",
) -> None:
    """Run every check of a stopper; one that fails raises an AssertionError.

    As in a run, ``extractor`` is a function of images, and ``held_out`` can be iterated over more than once.

    Args:
        make: a function that gives a fresh stopper, always with the same parameters and seed.
        make_extractor: a function that gives a fresh extractor.
        make_adapter: a function that gives a fresh adapter for it, which is prepared before the stopper sees it.
        size: (height, width) of the extractor's input.
        device: the torch device to check on.
    """
    extractor, adapter = make_extractor(), make_adapter()
    normal, auxiliary = (stream_of(extractor, seed, size, device) for seed in (2, 3))
    adapter.prepare(extractor, normal, auxiliary, None)
    held_out = sample_images(12, size, seed=1, device=device, batch_size=4)

    @torch.no_grad()
    def features(images: Tensor) -> Features:
        return extractor(images)

    def judge(interrupted: bool) -> tuple[list[Verdict], dict[str, float]]:
        """The verdicts of a training and the state at its end; if ``interrupted``, it is resumed after every check."""
        stopper, verdicts = make(), []
        for progress in CHECKS:
            verdicts.append(_checked(stopper, progress, features, adapter, held_out))
            if interrupted:
                stopper = _resumed(make, stopper)
        return verdicts, _state(stopper)

    _check_instance(make())
    images = {f"batch {number}": batch.images for number, batch in enumerate(held_out)}
    assert isinstance(extractor, torch.nn.Module)
    weights = extractor.state_dict()
    with generators_untouched(), untouched("weights", "weights", weights), untouched("inputs", "held out", images):
        first, left = judge(interrupted=False)
    second, _ = judge(interrupted=False)
    require(first == second, "seed", f"two stoppers of one seed to say {first}", second)
    resumed, left_resumed = judge(interrupted=True)
    require(first == resumed, "state", f"a stopper that goes on from its state to say {first}", resumed)
    require(repr(left) == repr(left_resumed), "state", f"it to remember {left}", left_resumed)


def _check_instance(stopper: Stopper) -> None:
    require_methods(stopper, "stopper")
    if isinstance(stopper, HoldingStopper):
        share = stopper.validation
        require(isinstance(share, float | int), "types", "validation to be a number", type(share).__name__)
        require(0 <= share < 1, "validation", "a share from 0 to below 1", share)


def _checked(
    stopper: Stopper,
    progress: Progress,
    features: Callable[[Tensor], Features],
    adapter: Adapter,
    held_out: Sequence[Batch],
) -> Verdict:
    generator = torch.Generator().manual_seed(progress.minibatches)
    with running("check(progress, extractor, adapter, held_out, generator)"):
        verdict = stopper.check(progress, features, adapter, held_out, generator)
    _check_verdict(verdict)
    return verdict


def _resumed(make: Callable[[], Stopper], stopper: Stopper) -> Stopper:
    """A fresh stopper with the state of ``stopper``."""
    fresh, state = make(), _state(stopper)
    with running("load_state_dict(state)"):
        fresh.load_state_dict(state)
    return fresh


def _state(stopper: Stopper) -> dict[str, float]:
    with running("state_dict()"):
        state = stopper.state_dict()
    require_type("what state_dict gives", state, Mapping)
    for name, value in state.items():
        require_type("a name in state_dict", name, str)
        number = isinstance(value, float | int)
        require(number, "types", f"{name} in state_dict to be a number", type(value).__name__)
    return {name: float(value) for name, value in state.items()}


def _check_verdict(verdict: object) -> None:
    if not isinstance(verdict, Verdict):
        raise AssertionError(f"verdict: expected a Verdict, found {verdict!r}")
    flags = (verdict.keep, verdict.stop)
    plain = all(isinstance(flag, bool) for flag in flags)
    require(plain, "verdict", "keep and stop to be bool", [type(flag).__name__ for flag in flags])
    require_type("reason", verdict.reason, str)
    require(bool(verdict.reason.strip()), "reason", "a sentence", repr(verdict.reason))
    if verdict.value is not None:
        number = isinstance(verdict.value, float | int)
        require(number, "types", "value to be a number or None", type(verdict.value).__name__)
        require(math.isfinite(verdict.value), "finite", "a value that is finite, or None", verdict.value)
