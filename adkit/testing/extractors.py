"""Checks that an extractor keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.checks import check_features, described
from adkit.plugin.contract import has_own, member
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import check_extractor as require_extractor
from adkit.testing.asserts import (
    generators_untouched,
    made,
    require,
    require_batchwise,
    require_close,
    require_contract,
    require_finite,
    run_checks,
    running,
    through_bytes,
    untouched,
)
from adkit.testing.samples import SIZE, sample_images
from adkit.utils.text import some

REWRITTEN: Final = 1e-4
"""Share of a level's largest value by which the features of ``for_inference`` may differ from the extractor's."""


def check_extractor(
    make: Callable[[], Extractor],
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of an extractor, and raise one AssertionError that names all that failed.

    Args:
        make: a function that gives a fresh extractor, always with the same parameters and seed.
        size: (height, width) of the input, as in the context that the extractor was built with.
        tolerance: share of the largest value of a level by which batches may differ.
        device: the torch device that the extractor is on.
    """
    checks = _Checks(make, sample_images(size=size, device=device)[0].images, tolerance)
    run_checks(
        checks.contract,
        checks.finite,
        checks.inputs,
        checks.generators,
        checks.seed,
        checks.state,
        checks.batches,
        checks.blocks,
        checks.classifier,
        checks.split,
        checks.inference,
    )


@dataclass(frozen=True)
class _Checks:
    make: Callable[[], Extractor]
    images: Tensor
    tolerance: float

    def made(self) -> Extractor:
        return cast(Extractor, made("extractor", self.make))

    def changed(self, change: Callable[[nn.Module], None]) -> Extractor:
        """An extractor of other weights."""
        extractor = self.made()
        change(extractor)
        return extractor

    @cached_property
    def features(self) -> dict[str, Tensor]:
        return _features(self.made(), self.images)

    def contract(self) -> None:
        require_contract("extractor", self.make)

    def finite(self) -> None:
        for name, level in self.features.items():
            require_finite(f"level {name}", level)

    def inputs(self) -> None:
        extractor, images = self.made(), self.images.clone()
        with untouched("inputs", "images", {"images": images}), running("forward(images)"), torch.no_grad():
            extractor(images)

    def generators(self) -> None:
        with generators_untouched():
            _features(self.made(), self.images)

    def seed(self) -> None:
        twin = _features(self.made(), self.images)
        require_close("seed", "two extractors of one seed to give equal features", self.features, twin, 0.0)

    def state(self) -> None:
        self._check_saving("state", self.made(), self.changed(_scramble))

    def batches(self) -> None:
        extractor = self.made()
        call = lambda first, last: _features(extractor, self.images[first:last])  # noqa: E731
        require_batchwise(call, len(self.images), self.tolerance)

    def blocks(self) -> None:
        extractor = self.made()
        blocks = _blocks(extractor)
        listed = [id(parameter) for block in blocks.values() for parameter in block]
        own = dict(extractor.named_parameters())
        counts = {name: listed.count(id(parameter)) for name, parameter in own.items()} if blocks else {}
        for wrong, found in (
            ([name for name, count in counts.items() if not count], "none with"),
            ([name for name, count in counts.items() if count > 1], "several with"),
            (["some"] * len(set(listed) - set(map(id, own.values()))), "parameters of another module:"),
        ):
            require(not wrong, "blocks", "every parameter in exactly one block", f"{found} {some(wrong)}")

    def classifier(self) -> None:
        if not self.features:
            return
        with running("classify(images)"), torch.no_grad():
            try:
                found = member(self.made(), Extractor, "classify")(self.images.clone())
            except UserError:  # these weights have none
                return
        logits = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(self.images)
        wanted = f"({len(self.images)}, classes) logits or None"
        require(found is None or logits, "classify", wanted, described(found))

    def split(self) -> None:
        """Cuts below the first block that is trained, whichever that is, and below the last parameter."""
        if has_own(self.made(), Extractor, "split"):
            for first in range(max(1, len(_blocks(self.made())))):
                self._check_cut(first)

    def _check_cut(self, first: int) -> None:
        """Require of the halves of a cut below block number ``first`` that they give the features, trained or not."""
        extractor = self.made()
        blocks = list(_blocks(extractor).values()) or [list(extractor.parameters())[-1:]]
        parameters = [parameter for block in blocks[first:] for parameter in block]
        with running("split(parameters)"):
            halves: Any = member(extractor, Extractor, "split")(parameters)
        if halves is None:
            return
        pair = isinstance(halves, tuple) and len(halves) == 2 and all(isinstance(half, nn.Module) for half in halves)
        require(pair, "split", "(trunk, tail), two modules, or None", described(halves))
        trunk, tail = halves
        kept = {id(parameter) for parameter in trunk.parameters()}
        inside = [name for name, one in extractor.named_parameters() if id(one) in kept & set(map(id, parameters))]
        require(not inside, "split", "a trunk without the parameters that are trained", f"{some(inside)} in it")
        self._check_halves(extractor, trunk, tail, "tail(trunk(images)) to be the features")
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1)
        self._check_halves(extractor, trunk, tail, "tail(trunk(images)) to be the features when the tail was trained")

    def _check_halves(self, extractor: Extractor, trunk: nn.Module, tail: nn.Module, wanted: str) -> None:
        order = [*range(1, len(self.images)), 0]  # a stored trunk is read in any order
        with running("trunk(images)"), torch.no_grad():
            rows = trunk(self.images)
        right = isinstance(rows, Tensor) and rows.ndim > 0 and len(rows) == len(self.images)
        require(right, "split", "a trunk that gives one tensor, a row per image", described(rows))
        with running("tail(trunk(images))"), torch.no_grad():
            found = dict(check_features(tail(rows[order]), extractor.levels, len(order), "extractor"))
        require_close("split", wanted, _features(extractor, self.images[order]), found, self.tolerance)

    def inference(self) -> None:
        if has_own(self.made(), Extractor, "for_inference"):
            run_checks(self._check_inference, self._check_inference_state, self._check_inference_of_other_weights)

    def _check_inference(self) -> None:
        """The faster extractor gives the same features, and the one that it is made of stays what it was."""
        extractor = self.made()
        expected = _features(extractor, self.images)
        with untouched("for_inference", "weights of the original", extractor.state_dict()):
            fast = _for_inference(extractor)
        require_close("for_inference", "the same features", expected, _features(fast, self.images), REWRITTEN)
        after = _features(extractor, self.images)
        require_close("for_inference", "the original to give the features that it gave", expected, after, 0.0)

    def _check_inference_state(self) -> None:
        one, other = _for_inference(self.made()), _for_inference(self.changed(_scramble))
        self._check_saving("for_inference", one, other)

    def _check_inference_of_other_weights(self) -> None:
        """What is loaded is made of other weights, so these must not decide which tensors there are."""
        expected = _shapes(_for_inference(self.made()))
        for change in (_scramble, _clear):
            found = _shapes(_for_inference(self.changed(change)))
            others = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            require(not others, "for_inference", "the same tensors for any weights", f"others: {some(others)}")

    def _check_saving(self, check: str, extractor: Extractor, other: Extractor) -> None:
        """Require that ``other``, which has other weights, gives the same features once it was loaded."""
        with running("state_dict()"):
            saved = extractor.state_dict()
        state = through_bytes(saved)
        with running("load_state_dict(state)"):
            other.load_state_dict(state)
        wanted = "equal features after state_dict, safetensors and load_state_dict"
        require_close(check, wanted, _features(extractor, self.images), _features(other, self.images), 0.0)


def _features(extractor: Extractor, images: Tensor) -> dict[str, Tensor]:
    with running("forward(images)"), torch.no_grad():
        return dict(check_features(extractor(images.clone()), extractor.levels, len(images), "extractor"))


def _for_inference(extractor: Extractor) -> Extractor:
    with running("for_inference()"):
        found = member(extractor, Extractor, "for_inference")()
        require_extractor(found, "extractor: for_inference")
    return cast(Extractor, found)


def _blocks(extractor: Extractor) -> Mapping[str, Sequence[nn.Parameter]]:
    with running("blocks()"):
        blocks = {name: list(block) for name, block in member(extractor, Extractor, "blocks")().items()}
    for name, block in blocks.items():
        right = all(isinstance(parameter, nn.Parameter) for parameter in block)
        require(right, "blocks", f"a list of parameters of block {name}", ", ".join(map(described, block[:1])))
    return blocks


def _shapes(extractor: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in extractor.state_dict().items()}


def _scramble(module: nn.Module) -> None:
    """Change all floating-point weights, so that loading has something to do."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1)


def _clear(module: nn.Module) -> None:
    """Set all weights to 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
