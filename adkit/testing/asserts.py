"""What every kind's checks are made of; ``check`` is the name that a failure begins with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def require(holds: bool, check: str, expected: str, found: object) -> None:
    if not holds:
        raise AssertionError(f"{check}: expected {expected}, found {found}")


def require_tensor(check: str, name: str, found: object, shape: tuple[int, ...]) -> None:
    """``found`` is a float32 tensor of that shape."""
    if not isinstance(found, Tensor):
        raise AssertionError(f"{check}: expected {name} to be a tensor, found {type(found).__name__}")
    described = f"{tuple(found.shape)} {found.dtype}"
    holds = found.shape == shape and found.dtype == torch.float32
    require(holds, check, f"{name} of {shape} torch.float32", described)


def require_finite(name: str, found: Tensor) -> None:
    bad = int((~found.isfinite()).sum())
    require(not bad, "finite", f"{name} finite for finite input", f"{bad} of {found.numel()} values NaN or inf")


def require_close(check: str, expected: str, left: Tensors, right: Tensors, tolerance: float) -> None:
    """Equal names, and values whose differences stay within ``tolerance`` of the largest value."""
    require(left.keys() == right.keys(), check, f"{expected}: {sorted(left)}", sorted(right))
    for name in left:
        scale = float(left[name].abs().max())
        gap = float((left[name] - right[name]).abs().max())
        found = f"{name} that differ by {gap:.3g} where the largest is {scale:.3g}"
        require(gap <= tolerance * scale, check, expected, found)


@contextmanager
def untouched(check: str, name: str, tensors: Tensors) -> Iterator[None]:
    """The tensors hold afterwards what they held before."""
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    yield
    changed = [key for key, tensor in tensors.items() if not torch.equal(before[key], tensor)]
    require(not changed, check, f"{name} left as they were", f"changed: {', '.join(changed)}")


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Randomness comes from the context's generators, not from those of the process."""
    before = _global_states()
    yield
    drawn = [name for name, state in _global_states().items() if state != before[name]]
    require(not drawn, "generators", "no draw from a global generator", f"draws from {', '.join(drawn)}")


def _global_states() -> dict[str, object]:
    numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy.random": (numpy["key"].tolist(), numpy["pos"]),
        "random": random.getstate(),
    }


def through_bytes(state: Tensors) -> dict[str, Tensor]:
    """The state as it comes back from a safetensors file."""
    for name, value in state.items():
        found = type(value).__name__
        require(isinstance(value, Tensor), "state", f"{name} to be a tensor", found)
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    return safetensors.torch.load(safetensors.torch.save(plain))


def in_batches(call: Callable[[int, int], Tensors], count: int, size: int) -> dict[str, Tensor]:
    """Results of ``call(first, last)`` over batches of ``size``, joined."""
    parts = [call(first, min(first + size, count)) for first in range(0, count, size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def require_batchwise(call: Callable[[int, int], Tensors], count: int, tolerance: float) -> None:
    """Each picture is treated by itself."""
    whole = call(0, count)
    for size in (1, 7):
        expected = f"batches of {size} to give what one batch of {count} gives"
        require_close("batches", expected, whole, in_batches(call, count, size), tolerance)
