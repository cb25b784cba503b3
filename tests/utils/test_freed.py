"""Memory that is free between pieces in use goes back to the system."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from adkit.utils.freed import GROWN, FreeMemory

SIZE = 100_000  # below what the C library asks the system for piece by piece


def resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_between_pieces_in_use_is_given_back() -> None:
    pieces = [np.ones(SIZE, np.uint8) for _ in range(2000)]
    full = resident()
    kept = pieces[::10]
    del pieces
    FreeMemory().give_back()
    assert resident() <= full - 0.7 * 2000 * SIZE
    assert all(piece.all() for piece in kept)


@pytest.mark.parametrize(("grown", "given_back"), [(GROWN - 1, 0), (GROWN, 1)])
def test_free_memory_is_given_back_when_the_process_has_grown(
    monkeypatch: pytest.MonkeyPatch, grown: int, given_back: int
) -> None:
    trims: list[int] = []
    held = iter([500_000_000, 250_000_000, 250_000_000 + grown, 0])
    monkeypatch.setattr("adkit.utils.freed._trim", lambda: trims.append)  # malloc_trim, which is given a number
    monkeypatch.setattr("adkit.utils.freed._held", lambda: next(held))
    free = FreeMemory()
    free.give_back(GROWN)
    free.give_back(GROWN)
    assert len(trims) == given_back
