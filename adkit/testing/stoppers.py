"""Checks of stoppers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from adkit.contracts import Adapter, Extractor, Progress, Stopper, Verdict
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_methods,
    require_type,
    running,
    untouched,
)
from adkit.testing.samples import SIZE, pictures, stream_of
from adkit.testing.tiny import TinyAdapter, TinyExtractor


def check_stopper(
    make: Callable[[], Stopper],
    make_extractor: Callable[[], Extractor] = TinyExtractor,
    make_adapter: Callable[[], Adapter] = TinyAdapter,
    size: tuple[int, int] = SIZE,
    device: str = "cpu",
) -> None:
    """Run every check of a stopper.

    Args:
        make: gives a fresh stopper, always with the same parameters and seed.
        make_extractor: gives a fresh extractor.
        make_adapter: gives a fresh adapter that goes with it; it is prepared before the stopper sees it.
        size: (height, width) of pictures, the extractor's.
    """
    extractor, adapter = make_extractor(), make_adapter()
    normal, auxiliary = (stream_of(extractor, seed, size, device) for seed in (2, 3))
    adapter.prepare(extractor, normal, auxiliary, None)

    def verdicts() -> list[Verdict]:
        stopper, generator = make(), torch.Generator().manual_seed(0)
        require_methods(stopper, "stopper")
        found = []
        for step, loss in enumerate((1.0, 0.5, 0.7), start=1):
            held_out = iter(pictures(12, size, seed=1, device=device, batch_size=4))
            progress = Progress(minibatches=10 * step, epochs=float(step), loss=loss)
            with running("check(progress, extractor, adapter, held_out, generator)"):
                found.append(stopper.check(progress, extractor, adapter, held_out, generator))
        return found

    assert isinstance(extractor, torch.nn.Module)
    with generators_untouched(), untouched("weights", "weights", extractor.state_dict()):
        first = verdicts()
    training = [module for module in extractor.modules() if module.training]
    require(not training, "evaluation", "the extractor left in evaluation mode", "it in training mode")
    for verdict in first:
        _check_verdict(verdict)
    second = verdicts()
    require(first == second, "seed", f"two stoppers of one seed to say {first}", second)


def _check_verdict(verdict: object) -> None:
    if not isinstance(verdict, Verdict):
        raise AssertionError(f"verdict: expected a Verdict, found {verdict!r}")
    flags = (verdict.keep, verdict.stop)
    plain = all(isinstance(flag, bool) for flag in flags)
    require(plain, "verdict", "keep and stop to be bool", [type(flag).__name__ for flag in flags])
    require_type("reason", verdict.reason, str)
    require(bool(verdict.reason.strip()), "reason", "a sentence", repr(verdict.reason))
    if verdict.figure is not None:
        number = isinstance(verdict.figure, float | int)
        require(number, "types", "figure to be a number or None", type(verdict.figure).__name__)
        require(math.isfinite(verdict.figure), "finite", "a figure that is finite, or None", verdict.figure)
