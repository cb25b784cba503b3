"""Checking that there is enough memory before it is taken, and telling when there was not."""

from __future__ import annotations

import re
from typing import Final

import psutil
import torch

from adkit.errors import OutOfMemoryError, UserError

_EXHAUSTED: Final = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


def check_memory(need: int, device: str, what: str, advice: str) -> None:
    """Refuse to build something that needs more memory than is free.

    Args:
        need: number of bytes.
        device: where the memory is needed.
        what: the subject of the sentence, such as "spade: the bank of 400 images".
        advice: what to do instead, in the imperative.

    Raises:
        UserError: less than ``need`` is free.
    """
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if need > free:
        gigabytes = f"needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB is free on {device}"
        raise UserError(f"{what} {gigabytes}: {advice}")


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, by whichever library it was raised, or was caused by one that does."""
    if isinstance(error, MemoryError | OutOfMemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU torch raises a plain RuntimeError, and C++ beneath other libraries its own words.
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED):
        return True
    return error.__cause__ is not None and exhausted(error.__cause__)


def out_of_memory(what: str, error: BaseException) -> OutOfMemoryError:
    """Make the error that tells a user that memory ran out.

    Args:
        what: what was being done, as the subject of the sentence.
        error: the error for which ``exhausted`` holds.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    bytes_asked = re.search(r"allocate (\d+) bytes", str(error))
    asked = re.search(r"allocate ([\d.]+ [KMGTPE]iB)", str(error))
    more = f" for {int(bytes_asked[1]) / 1e9:,.1f} GB" if bytes_asked else f" for {asked[1]}" if asked else ""
    return OutOfMemoryError(
        f"{what}: expected enough memory, found too little{more}: lower data.batch_size, data.image_size or the number "
        "of levels, or end other programs"
    )
