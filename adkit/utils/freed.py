"""Gives back to the system what is free between pieces of memory that are in use."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

GROWN: Final = 32 * 2**20
"""Bytes by which a process may grow before free memory is given back."""


class FreeMemory:
    """Gives back the free pages of the C library's heap, where it can, when the process has grown.

    Large tensors come and go with every batch, and small ones that stay lie in between: by and by the holes no longer
    fit what is asked for, and a process would grow with the number of images, though it holds no more of them.
    """

    def __init__(self) -> None:
        self._least: int | None = None
        """Bytes that the process held when it held least, since memory was last given back."""

    def give_back(self) -> None:
        """Give them back if that is worth while: what is used again afterwards takes new pages."""
        if (trim := _trim()) is None:
            return
        held = _held()
        if self._least is not None and held < self._least + GROWN:
            self._least = min(self._least, held)
            return
        trim(0)
        self._least = _held()


def _held() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _trim() -> Any:
    """``malloc_trim`` of the GNU C library; None where there is another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
