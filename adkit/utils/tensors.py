"""Tensors: whether all are finite, and files of them that are written as any other.

Files have the mode that the umask says, and the system's own errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adkit.utils.text import is_text


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write contiguous tensors on the CPU, no two of which share memory, as safetensors.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with path.open("wb") as file:  # safetensors puts a file in its place that nobody else may read
        mode = os.fstat(file.fileno()).st_mode
    try:
        safetensors.torch.save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(mode)


def all_finite(values: Tensor) -> bool:
    """Whether real numbers are finite; unlike ``values.isfinite()`` it takes no memory."""
    if not values.is_floating_point() or not values.numel():
        return True
    if values.element_size() == 1:  # eight-bit floats have no extremes in torch
        values = values.float()
    return bool(torch.stack(values.aminmax()).isfinite().all())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, copied from it, for it may go away while they are in use.

    Raises:
        OSError, SafetensorError, ValueError: the file cannot be read, or is of another kind.
    """
    if is_text(str(path)):
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    return safetensors.torch.load(path.read_bytes())  # safetensors itself opens no name that is not UTF-8
