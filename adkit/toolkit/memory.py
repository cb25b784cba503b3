"""Checking that there is enough memory before it is taken, and telling when there was not."""

from __future__ import annotations

import torch

from adkit.errors import UserError, exhausted, out_of_memory
from adkit.utils.container import available_memory

__all__ = ["check_memory", "exhausted", "out_of_memory"]


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
    free = torch.cuda.mem_get_info(device)[0] if torch.device(device).type == "cuda" else available_memory()
    if need > free:
        gigabytes = f"needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB is free on {device}"
        raise UserError(f"{what} {gigabytes}: {advice}")
