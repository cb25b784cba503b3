"""Requirements that the checks of every kind are made of; ``check`` is the name that a failure begins with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from adkit.plugin.component import Kind
from adkit.utils.text import counted

Tensors = Mapping[str, Tensor]

METHODS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        "extractor": ("__call__",),
        "adapter": ("prepare", "stages", "loss", "score"),
        "scorer": ("fit", "score", "state_dict", "load_state_dict"),
        "localizer": ("localize",),
        "stopper": ("check", "state_dict", "load_state_dict"),
    }
)
"""Kind → the methods that its instances must have."""


def require(holds: bool, check: str, expected: str, found: object) -> None:
    """Raise an AssertionError of the form "check: expected …, found …" unless ``holds``."""
    if not holds:
        raise AssertionError(f"{check}: expected {expected}, found {found}")


@contextmanager
def running(call: str) -> Iterator[None]:
    """Turn an error of the component into a failure of the check named after ``call``; the error stays its cause."""
    try:
        yield
    except Exception as error:
        check, _, _ = call.partition("(")
        raise AssertionError(f"{check}: expected {call} to run through, found {error!r}") from error


def require_methods(component: object, kind: Kind) -> None:
    """Require that ``component`` is an instance that has the methods of its kind."""
    if isinstance(component, type):
        raise AssertionError(f"methods: expected an instance, found the class {component.__name__}")
    missing = [name for name in METHODS[kind] if not callable(getattr(component, name, None))]
    found = f"a {type(component).__name__} without {', '.join(missing)}"
    require(not missing, "methods", f"{kind} with {', '.join(METHODS[kind])}", found)


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
    described = f"NaN or inf in {bad:,} of {counted(found.numel(), 'value')}"
    require(not bad, "finite", f"{name} finite for finite input", described)


def require_close(check: str, expected: str, left: Tensors, right: Tensors, tolerance: float) -> None:
    """Require equal names, and values that differ by no more than ``tolerance`` times the largest value."""
    require(left.keys() == right.keys(), check, f"{expected}: {sorted(left)}", sorted(right))
    for name in left:
        shape = tuple(left[name].shape)
        require(right[name].shape == shape, check, f"{expected}: {name} of {shape}", tuple(right[name].shape))
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
    """Require that the block draws nothing from the process's generators: randomness comes from the context's."""
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
