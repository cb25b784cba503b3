"""What Ctrl-C and SIGTERM do while a block runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Let ``handler`` take signals while the block runs; other threads than the main one leave them as they are."""
    if threading.current_thread() is not threading.main_thread():  # where Python runs no signal handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM while the block runs, such as a second one while the first one's traces are removed."""
    with handling(signal.SIG_IGN, *ENDING):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block, which is to be short."""
    came: list[int] = []
    try:
        with handling(lambda number, frame: came.append(number), *ENDING):
            yield
    finally:
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM ask the block to end in good order; a second one interrupts it where it is.

    Yields:
        Whether they did.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with handling(ask, *ENDING):
        yield lambda: bool(asked)
