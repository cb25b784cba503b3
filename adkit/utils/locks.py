"""Locks that keep two processes from doing one thing at once, and that die with the process that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from adkit.utils.signals import deferred

PATIENCE: Final = 0.5
"""Seconds to wait for whoever holds a lock, who may be about to end."""


class Occupied(Exception):
    """Another process holds the lock."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; its file is removed then, and its folder made where there is none.

    Raises:
        Occupied: another process holds it.
        OSError: the folder cannot be written.
    """
    lock = FileLock(path, PATIENCE)
    try:
        try:
            with deferred():  # between the file that is made and the lock that knows of it
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
        except Timeout as error:
            raise Occupied from error
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()  # while it is held: who waits for it sees that it has no name any more, and makes anew
            lock.release()
