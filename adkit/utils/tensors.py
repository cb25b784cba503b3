"""Tensors in files that are written as any other: with the mode that the umask says, and the system's own errors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


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
