"""How much memory a scorer may ask for."""

from __future__ import annotations

import psutil
import torch

from adkit.errors import UserError


def check_memory(need: int, device: str, what: str, advice: str) -> None:
    """Refuse to build what does not fit.

    Args:
        need: bytes.
        what: "spade: the bank of 400 images", the sentence's subject.
        advice: what to do instead, in the imperative.
    """
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if need > free:
        gigabytes = f"needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB is free on {device}"
        raise UserError(f"{what} {gigabytes}: {advice}")
