"""Bounds on the memory that a stranger's files can make a detector take, tested before it is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from adkit.errors import UserError
from adkit.toolkit.memory import check_memory

BYTES_A_PIXEL: Final = 512
"""Of an image on its way through a network and its localizer; ResNets, VGG and EfficientNet-Lite took 220 to 440."""
COPIES: Final = 2
"""Of a file's tensors: as they were read, and in their component."""
NETWORKS: Final = 3
"""Times the size of its saved state that building a network may register: with a classifier, at another input size."""
SPARE: Final = 64 * 2**20
"""Bytes beside, for classifiers of small networks."""


def check_image(file: Path, side: int) -> None:
    """Raise UserError unless an image of so many pixels can be computed in the memory that is free."""
    what = f"{file}: an image of {side} × {side} pixels"
    check_memory(BYTES_A_PIXEL * side**2, "cpu", what, "load it on a machine with more memory, if that is its size")


def check_files(folder: Path, sizes: Iterable[int]) -> None:
    """Raise UserError unless files of these sizes can be read into the memory that is free."""
    total = sum(sizes)
    check_memory(COPIES * total, "cpu", f"{folder}: files of {total:,} bytes", "load it on a machine with more memory")


@contextmanager
def no_larger_than(state: int) -> Iterator[None]:
    """While entered, this thread builds no network that is far larger than a saved state of so many bytes.

    Raises:
        UserError: from within, before the memory of the parameter that is too much has been written to.
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
        yield
    finally:
        handle.remove()
