"""One progress display for a whole run: bars on a terminal, plain lines elsewhere; and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]
"""Called with the number of images that have just been dealt with."""
PLAIN_INTERVAL = 10.0
"""Seconds between two lines of a stage where there is no terminal."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} images/s" if speed else "", style="progress.data.speed")


class Display:
    """Shows each stage of a run as it goes, and adds up the seconds that stages of one kind took.

    Use it as a context manager around the run; ``console`` defaults to standard error, so that what a run
    prints as its result can be piped.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.timings: dict[str, float] = {}
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, subject: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage and show how far it is.

        Args:
            name: what is done, the key under which the report has its seconds: ``fit``.
            subject: to what: ``tile``.
            total: images to come; None where they are not counted.

        Yields:
            A function to call with the number of images just done.
        """
        started = time.perf_counter()
        title = f"{subject}: {name}"
        task = self._bars.add_task(title, total=total)
        plain = _PlainStage(self, title, total) if not self.console.is_terminal else None

        def advance(images: int) -> None:
            self._bars.advance(task, images)
            if plain is not None:
                plain.advance(images)

        try:
            yield advance
        finally:
            seconds = time.perf_counter() - started
            self.timings[name] = self.timings.get(name, 0.0) + seconds
            self._bars.remove_task(task)
        if plain is None:
            self.say(f"{title}: {seconds:.1f} s")
        else:
            plain.finish(seconds)


class _PlainStage:
    """Lines for logs and pipes: one every few seconds and one at the end."""

    def __init__(self, display: Display, title: str, total: int | None) -> None:
        self._display = display
        self._title = title
        self._total = total
        self._done = 0
        self._started = self._spoke = time.perf_counter()

    def advance(self, images: int) -> None:
        self._done += images
        now = time.perf_counter()
        if now - self._spoke < PLAIN_INTERVAL:
            return
        self._spoke = now
        rate = self._done / (now - self._started)
        text = f"{self._title}: {self._done} images, {rate:.0f} images/s"
        if self._total:
            text = f"{self._title}: {self._done} of {self._total} images, {rate:.0f} images/s"
            if rate > 0:
                text += f", {max(self._total - self._done, 0) / rate:.0f} s left"
        self._display.say(text)

    def finish(self, seconds: float) -> None:
        counted = f"{self._done} images, " if self._done else ""
        self._display.say(f"{self._title}: {counted}{seconds:.1f} s")
