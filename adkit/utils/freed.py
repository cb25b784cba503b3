"""Gives back to the system what is free between pieces of memory that are in use."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

GROWN: Final = 32 * 2**20
"""Bytes by which a process may grow before free memory is worth giving back: what is used again takes new pages."""


class FreeMemory:
    """The free pages of the C library's heap, which go back to the system where there is a way.

    Large tensors come and go with every batch, and small ones that stay lie in between: by and by the holes no longer
    fit what is asked for, and a process would grow with the number of images, though it holds no more of them.
    """

    def __init__(self) -> None:
        self._least = _held()

    def give_back(self, grown: int = 0) -> None:
        """Give them back if the process has grown by ``grown`` bytes from the fewest at a call since they last were."""
        held = _held()
        self._least = min(self._least, held)
        if held >= self._least + grown and (trim := _trim()) is not None:
            trim(0)
            self._least = _held()


def _held() -> int:
    """The bytes of this process in memory that no file stands for; 0 where the system does not say."""
    try:
        _, resident, of_files, *_ = Path("/proc/self/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE")


@cache
def _trim() -> Any:
    """``malloc_trim`` of the GNU C library; None where there is another one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
