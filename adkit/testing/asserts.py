"""What the checks of every kind are made of: requirements, calls of a component, and the runner that reports them all.

``check`` is the name that the line of a failure begins with.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from adkit.errors import PluginError
from adkit.plugin.adapter import Schedule
from adkit.plugin.component import Kind
from adkit.plugin.guard import guarded
from adkit.toolkit.cache import add_tensor
from adkit.utils.text import counted

Tensors = Mapping[str, Tensor]

REPLACED: Final[Mapping[str, object]] = {
    "schedule": Schedule(),
    "fuse": None,
    "needs_scorer": False,
    "reads_images": True,
    "validation": 0.0,
}
"""Attribute that a guard may refuse → what stands in for it, so that the other checks can run."""


class CallFailure(AssertionError):
    """A call of the component that did not run through, or gave back what the guard refuses."""

    def __init__(self, line: str, call: str, fault: str) -> None:
        """
        Args:
            call: what failed; it is reported once, since the checks behind it cannot run.
            fault: what was wrong with it, which a whole detector would only show again.
        """
        super().__init__(line)
        self.call, self.fault = call, fault


class Failures(AssertionError):
    """All checks that failed, in a line each."""

    def __init__(self, failed: Sequence[AssertionError]) -> None:
        super().__init__("\n".join(map(str, failed)))
        self.failed = tuple(failed)


def run_checks(*checks: Callable[[], object]) -> None:
    """Run every check, and report all that failed, equal lines and calls that failed before once.

    Raises:
        Failures: a check failed; its cause is the first one.
    """
    failed: list[AssertionError] = []
    seen: set[str] = set()
    for check in checks:
        for failure in _failures_of(check):
            call = failure.call if isinstance(failure, CallFailure) else str(failure)
            if call not in seen:
                failed.append(failure)
            seen |= {call, failure.fault} if isinstance(failure, CallFailure) else {call}
    if failed:
        raise Failures(failed) from failed[0]


def _failures_of(check: Callable[[], object]) -> Sequence[AssertionError]:
    try:
        check()
    except Failures as error:
        return error.failed
    except AssertionError as error:
        return [error]
    except Exception as error:  # noqa: BLE001  a component may do what no check expects
        failure = CallFailure(f"checks: expected every check to run through, found {error!r}", repr(error), repr(error))
        failure.__cause__ = error
        return [failure]
    return []


def require(holds: bool, check: str, expected: str, found: object) -> None:
    """Raise an AssertionError of the form "check: expected …, found …" unless ``holds``."""
    if not holds:
        raise AssertionError(f"{check}: expected {expected}, found {found}")


@contextmanager
def running(call: str, inside: bool = False) -> Iterator[None]:
    """Turn an error of the component into a failure of ``call``, such as ``fit(stream)``; the error stays its cause.

    Args:
        inside: the component is called deep inside, so that what fails there may have been reported before.
    """
    try:
        yield
    except AssertionError as error:
        if isinstance(error, CallFailure | Failures):
            raise
        raise _failure(error, call, inside) from error
    except (Exception, SystemExit) as error:
        raise _failure(error, call, inside) from error


def _failure(error: BaseException, call: str, inside: bool = False) -> CallFailure:
    """The failure of a call: the guard's own sentence without the name of the component, or what was raised."""
    name, _, _ = call.partition("(")
    raised = error.__cause__ if isinstance(error, PluginError) else error
    if raised is None:
        _, _, line = str(error).partition(": ")
        if ": expected " not in line:
            line = f"members: expected those of the contract, found {line}"
        fault, _, _ = line.partition(": expected ")
    else:
        line = f"{name}: expected {call} to run through, found {raised!r}"
        fault = "finite" if "expected finite values" in str(raised) else repr(raised)
    return CallFailure(" ".join(line.split()), fault if inside else name, fault)


def made(kind: Kind, make: Callable[[], Any], device: str = "cpu") -> Any:
    """Make a component under the guard that it has in a run; an attribute that it refuses is replaced.

    Raises:
        CallFailure: it cannot be made, or is not what its kind asks for.
    """
    guard, faults = _guarded(kind, make, device)
    if guard is None:
        raise faults[-1] from faults[-1].__cause__
    return guard


def require_contract(kind: Kind, make: Callable[[], Any], device: str = "cpu") -> None:
    """Require that the guard of its kind accepts a component; every attribute that it refuses is reported."""
    _, faults = _guarded(kind, make, device)
    if faults:
        raise Failures(faults)


def _guarded(kind: Kind, make: Callable[[], Any], device: str) -> tuple[Any, list[CallFailure]]:
    """A component under its guard, which is None where that cannot be, and all that the guard refused before."""
    with running("build(params, context)"):
        component = make()
    faults: list[CallFailure] = []
    while True:
        try:
            return guarded(kind, component, kind, device), faults
        except PluginError as error:
            fault = _failure(error, "build", inside=True)
            fault.__cause__ = error
            if str(fault) in map(str, faults):
                return None, faults
            faults.append(fault)
            if not _replaced(component, fault):
                return None, faults


def _replaced(component: Any, fault: CallFailure) -> bool:
    """Whether what a guard refused could be replaced, so that other checks can run."""
    try:
        if "in evaluation mode" in str(fault):
            component.eval()
            return True
        if fault.call in REPLACED:
            setattr(component, fault.call, REPLACED[fault.call])
            return True
    except Exception:  # noqa: BLE001  an author's class may refuse it by any error
        return False
    return False


def require_type(name: str, found: object, wanted: type) -> None:
    """Require that ``found`` is an instance of ``wanted``."""
    require(isinstance(found, wanted), "types", f"{name} to be of type {wanted.__name__}", type(found).__name__)


def require_tensor(check: str, name: str, found: object, shape: tuple[int, ...]) -> None:
    """Require that ``found`` is a float32 tensor of ``shape``."""
    if not isinstance(found, Tensor):
        raise AssertionError(f"{check}: expected {name} to be a tensor, found {type(found).__name__}")
    described = f"{tuple(found.shape)} {found.dtype}"
    holds = found.shape == shape and found.dtype == torch.float32
    require(holds, check, f"{name} of {shape} torch.float32", described)


def require_finite(name: str, found: Tensor) -> None:
    """Require that a tensor has neither NaN nor infinity."""
    bad = int((~found.isfinite()).sum())
    if bad:
        described = f"NaN or inf in {bad:,} of {counted(found.numel(), 'value')}"
        line = f"finite: expected {name} finite for finite input, found {described}"
        raise CallFailure(line, f"finite {name}", "finite")


def require_close(check: str, expected: str, left: Tensors, right: Tensors, tolerance: float) -> None:
    """Require equal names, and values that differ by no more than ``tolerance`` times the largest value.

    Where those of ``left`` are not finite, which ``require_finite`` reports, the others may be anything.
    """
    require(left.keys() == right.keys(), check, f"{expected}: {sorted(left)}", sorted(right))
    for name in left:
        shape = tuple(left[name].shape)
        require(right[name].shape == shape, check, f"{expected}: {name} of {shape}", tuple(right[name].shape))
        if not left[name].isfinite().all():
            continue
        scale = float(left[name].abs().max())
        gap = float((left[name] - right[name]).abs().max())
        found = f"{name} that differ by {gap:.3g} where the largest is {scale:.3g}"
        require(gap <= tolerance * scale, check, expected, found)


@contextmanager
def untouched(check: str, name: str, tensors: Tensors) -> Iterator[None]:
    """Require that the block leaves ``tensors`` unchanged."""
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    yield
    changed = [key for key, tensor in tensors.items() if not torch.equal(before[key], tensor)]
    require(not changed, check, f"{name} left as they were", f"changed: {', '.join(changed)}")


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Require that the block draws nothing from the process's generators: randomness comes from the context's.

    Each is drawn from before, so that one that is seeded again shows, and is then set back to what it was.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    for draw in (random.random, np.random.random, lambda: torch.rand(())):
        draw()
    drawn = _global_states()
    try:
        yield
        changed = [name for name, state in _global_states().items() if state != drawn[name]]
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
    require(not changed, "generators", "no draw from a global generator", f"draws from {', '.join(changed)}")


def _global_states() -> dict[str, object]:
    numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy.random": (numpy["key"].tolist(), numpy["pos"]),
        "random": random.getstate(),
    }


def held(component: object) -> dict[str, object]:
    """The attributes of a component that can be compared: numbers, words and tensors, and lists and dicts of them."""
    return {name: _comparable(value) for name, value in getattr(component, "__dict__", {}).items()}


def _comparable(value: object) -> object:
    """A value that is equal for equal values; an ellipsis for what is none of those that ``held`` compares."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        digest = hashlib.sha256()
        add_tensor(digest, "", value)
        return digest.digest()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_comparable(one) for one in value]
    return ...


def through_bytes(state: Tensors) -> dict[str, Tensor]:
    """The tensors of a state as they come back from a safetensors file."""
    require_type("what state_dict gives", state, Mapping)
    for name, value in state.items():
        found = type(value).__name__
        require(isinstance(value, Tensor), "state", f"{name} to be a tensor", found)
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    return safetensors.torch.load(safetensors.torch.save(plain))


def require_batchwise(call: Callable[[int, int], Tensors], count: int, tolerance: float) -> None:
    """Require that each image is treated by itself: ``call(first, last)`` gives the rows of what it gives for all."""
    whole = call(0, count)
    for size in (1, 7):
        parts: dict[str, list[Tensor]] = {name: [] for name in whole}
        for first in range(0, count, size):
            last = min(first + size, count)
            part = call(first, last)
            require(part.keys() == whole.keys(), "batches", f"{sorted(whole)} for every batch", sorted(part))
            for name, values in part.items():
                require_tensor("batches", name, values, (last - first, *whole[name].shape[1:]))
                parts[name].append(values)
        expected = f"batches of {size} to give what one batch of {count} gives"
        joined = {name: torch.cat(values) for name, values in parts.items()}
        require_close("batches", expected, whole, joined, tolerance)
