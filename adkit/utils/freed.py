"""Gives back to the system what is free between pieces of memory that are in use."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Give back the free pages of the C library's heap, where it can; they cost next to nothing to have again.

    Large tensors come and go with every batch, and small ones that stay lie in between: by and by the holes no longer
    fit what is asked for, and a process would grow with the number of images, though it holds no more of them.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    """``malloc_trim`` of the GNU C library; None where there is another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
