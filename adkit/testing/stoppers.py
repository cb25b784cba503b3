"""Checks that a stopper keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from adkit.plugin.adapter import Adapter, See
from adkit.plugin.checks import check_features
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import GuardedAdapter, GuardedStopper
from adkit.plugin.stopper import Look, Progress, Stopper, Verdict
from adkit.plugin.types import Batch, Features
from adkit.testing.asserts import (
    generators_untouched,
    held,
    made,
    require,
    require_contract,
    run_checks,
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
    """Run every check of a stopper, and raise one AssertionError that names all that failed.

    As in a run, ``extractor`` is a function of images, and ``held_out`` can be iterated over more than once; it is
    empty unless the stopper has ``validation``.

    Args:
        make: a function that gives a fresh stopper, always with the same parameters and seed.
        make_extractor: a function that gives a fresh extractor.
        make_adapter: a function that gives a fresh adapter for it, which is prepared before the stopper sees it.
        size: (height, width) of the extractor's input.
        device: the torch device to check on.
    """
    checks = _Checks(make, make_extractor, make_adapter, size, device)
    run_checks(
        checks.contract,
        checks.reason,
        checks.generators,
        checks.weights,
        checks.inputs,
        checks.seed,
        checks.state,
    )


@dataclass(frozen=True)
class _Shown:
    """What a stopper is shown in one training."""

    extractor: Extractor
    adapter: GuardedAdapter
    """The adapter, which is prepared."""
    held_out: Sequence[Batch]

    def look(self, progress: Progress) -> Look:
        generator = torch.Generator().manual_seed(progress.minibatches)
        return Look(progress, self.features, self.adapter, self.held_out, generator)

    def features(self, images: Tensor) -> Features:
        with torch.no_grad():
            return check_features(self.extractor(images), self.extractor.levels, len(images), "extractor")


@dataclass(frozen=True)
class _Trained:
    """What a stopper said in a training, and what it was left with."""

    said: list[Verdict]
    state: dict[str, float]
    attributes: dict[str, object]


@dataclass(frozen=True)
class _Checks:
    make: Callable[[], Stopper]
    make_extractor: Callable[[], Extractor]
    make_adapter: Callable[[], Adapter]
    size: tuple[int, int]
    device: str

    def made(self) -> GuardedStopper:
        return cast(GuardedStopper, made("stopper", self.make))

    def shown(self) -> _Shown:
        with running("make_extractor()"):
            extractor = self.make_extractor()
        normal, auxiliary = (stream_of(extractor, seed, self.size, self.device) for seed in (2, 3))
        with running("make_adapter()"):
            adapter: GuardedAdapter = made("adapter", self.make_adapter)
            adapter.prepare(See(extractor, normal, auxiliary, None))
        held_out = sample_images(12, self.size, seed=1, device=self.device, batch_size=4)
        return _Shown(extractor, adapter, held_out if self.made().validation else [])

    def training(self, shown: _Shown, interrupted: bool = False) -> _Trained:
        """A training; if ``interrupted``, it is resumed after every check but the last."""
        stopper, verdicts = self.made(), []
        for progress in CHECKS:
            with running("check(look)"), torch.no_grad():
                verdicts.append(stopper.check(shown.look(progress)))
            if interrupted and progress is not CHECKS[-1]:
                stopper = self.resumed(stopper)
        return _Trained(verdicts, _state(stopper), held(stopper.inner))

    def resumed(self, stopper: GuardedStopper) -> GuardedStopper:
        """A fresh stopper with the state of ``stopper``."""
        fresh, state = self.made(), _state(stopper)
        with running("load_state_dict(state)"):
            fresh.load_state_dict(state)
        return fresh

    def contract(self) -> None:
        require_contract("stopper", self.make)

    def reason(self) -> None:
        for verdict in self.training(self.shown()).said:
            require(bool(verdict.reason.strip()), "reason", "a sentence", repr(verdict.reason))

    def generators(self) -> None:
        shown = self.shown()
        with generators_untouched():
            self.training(shown)

    def weights(self) -> None:
        shown = self.shown()
        with untouched("weights", "weights", shown.extractor.state_dict()):
            self.training(shown)

    def inputs(self) -> None:
        shown = self.shown()
        images = {f"batch {number}": batch.images for number, batch in enumerate(shown.held_out)}
        with untouched("inputs", "held-out images", images):
            self.training(shown)

    def seed(self) -> None:
        first, second = (self.training(self.shown()).said for _ in range(2))
        require(first == second, "seed", f"two stoppers of one seed to say {first}", second)

    def state(self) -> None:
        whole, again, resumed = (self.training(self.shown(), one) for one in (False, False, True))
        for name, value in whole.attributes.items():
            varies = again.attributes.get(name) != value  # such as the time, which no state has to give back
            lost = resumed.attributes.get(name) != value and not varies
            found = f"another {name}: give it by state_dict, and take it over in load_state_dict"
            require(not lost, "state", f"a stopper that goes on from its state to have the same {name}", found)
        said = f"a stopper that goes on from its state to say {whole.said}"
        require(whole.said == resumed.said, "state", said, resumed.said)
        require(repr(whole.state) == repr(resumed.state), "state", f"it to remember {whole.state}", resumed.state)


def _state(stopper: Stopper) -> dict[str, float]:
    with running("state_dict()"):
        return stopper.state_dict()
