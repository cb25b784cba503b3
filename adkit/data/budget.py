"""How much memory images may take while they are decoded, all of them together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SMALL: Final = 4 * 2**20
"""Bytes up to which an image is decoded whatever the others take, one per core at a time: 256 MiB with 64 cores."""
TOTAL: Final = 2**29
"""Bytes that larger images take together; one that takes more is decoded when no other large one is."""
MOST: Final = 720 * 10**6
"""Bytes above which an image is refused: an RGB image of the most pixels that adkit decodes takes 716 MB."""


class Budget:
    """Lets threads take so much at a time, and makes others wait for what they give back."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Take ``amount`` while the block runs, or everything where it is more; who has taken some takes no more."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + amount <= self._total)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


LARGE_IMAGES: Final = Budget(TOTAL)
