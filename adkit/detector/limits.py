"""Limits on the memory that files from a stranger can make a detector take, checked before it is taken."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from adkit.errors import UserError
from adkit.toolkit.memory import check_memory
from adkit.utils.text import counted

BYTES_PER_PIXEL: Final = 512
"""Bytes that a pixel takes in a network and its localizer; ResNets, VGG and EfficientNet-Lite took 220 to 440."""
COPIES: Final = 2
"""Number of copies of a file's tensors in memory: as they were read, and in their component."""
NETWORKS: Final = 3
"""Multiple of its saved state that a network may register when built: with a classifier, at another input size."""
SPARE: Final = 64 * 2**20
"""Bytes that a network may register on top of that, for classifiers of small networks."""


def check_image(file: Path, side: int) -> None:
    """Raise UserError unless the memory that is free suffices for an image of ``side`` × ``side`` pixels."""
    what = f"{file}: an image of {side} × {side} pixels"
    check_memory(BYTES_PER_PIXEL * side**2, "cpu", what, "load it on a machine with more memory, if that is its size")


def check_files(folder: Path, sizes: Iterable[int]) -> None:
    """Raise UserError unless files of these sizes in bytes can be read into the memory that is free."""
    total = sum(sizes)
    what = f"{folder}: files of {counted(total, 'byte')}"
    check_memory(COPIES * total, "cpu", what, "load it on a machine with more memory")


@contextmanager
def no_larger_than(state: int) -> Iterator[None]:
    """Keep this thread, while entered, from building a network far larger than a saved state of ``state`` bytes.

    Raises:
        UserError: from inside, before the memory of the parameter that is too much has been written to.
    """
    limit, thread, found = NETWORKS * state + SPARE, threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal found
        if parameter is None or threading.get_ident() != thread:
            return
        found += parameter.nbytes
        if found > limit:
            raise UserError(f"a network of more than {limit:,} bytes, of which {state:,} were saved")

    handle = register_module_parameter_registration_hook(count)
    try:
        with _NoLarger(limit, state):
            yield
    finally:
        handle.remove()


class _NoLarger(TorchFunctionMode):
    """Refuses to make a tensor of more than ``limit`` bytes, which no parameter may have, before its memory is taken.

    A parameter is registered only after random numbers have been drawn for it, say.
    """

    def __init__(self, limit: int, state: int) -> None:
        super().__init__()
        self._limit = limit
        self._state = state

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            shape = kwargs.get("size", args[:1] if func is torch.full else args)
            shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
            item = (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            if item * math.prod(length for length in shape if isinstance(length, int)) > self._limit:
                raise UserError(f"a network of more than {self._limit:,} bytes, of which {self._state:,} were saved")
        return func(*args, **kwargs)


_MAKERS: Final = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
