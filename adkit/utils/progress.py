"""One progress display for a whole run: bars on a terminal, plain lines elsewhere; and how long each stage took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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

from adkit.utils.escapes import harmless, harmless_lines
from adkit.utils.text import counted
from adkit.utils.time_left import Ahead, Left, TimeLeft

Advance = Callable[[int], None]
"""A function that is called with the number of images that have just been processed."""
PLAIN_INTERVAL = 10.0
"""Seconds between two lines about a stage where there is no terminal."""


_shown: ContextVar[Display | None] = ContextVar("shown", default=None)
"""The display of the run that is going on, for components, which are given none."""


@contextmanager
def steps(title: str, total: int, noun: str) -> Iterator[Advance]:
    """Show long work inside a stage, on the display of the run that is going on, where there is one.

    Args:
        title: what is done.
        total: number of things that it is done to.
        noun: what one of these is.

    Yields:
        A function to call with the number of things that have just been done.
    """
    display = _shown.get()
    if display is None:
        yield lambda done: None
    else:
        with display.steps(title, total, noun) as advance:
            yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_as_text(speed, task.fields["noun"]) if speed else "", style="progress.data.speed")


class _RunLeft(ProgressColumn):
    max_refresh = 1.0  # the seconds of a bar run, those of a run would only flicker

    def __init__(self, left: Callable[[], Left | None]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        left = self._left()
        return Text("" if left is None else f"run: {left}", style="progress.remaining")


class Display:
    """A display that shows each stage of a run as it goes, and adds up the seconds that stages of one name took.

    Use it as a context manager around the run; ``console`` defaults to standard error, so that what a run
    prints as its result can be piped.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.timings: dict[str, float] = {}
        self._quiet = quiet
        self._run = TimeLeft()
        self._share = 0.0
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            _RunLeft(self.left),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        self._before = _shown.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shown.reset(self._before)
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self.console.print(harmless_lines(text), highlight=False, markup=False, soft_wrap=True)

    def expect(self, ahead: Sequence[Ahead]) -> None:
        """Take the stages that a run has before it, by which the time left of all of it is shown."""
        self._run.expect(ahead)

    def left(self) -> Left | None:
        """The time left of the run; None while nothing is known of it."""
        return self._run.left(self._share, time.perf_counter())

    @contextmanager
    def stage(self, name: str, subject: str, total: int | None = None) -> Iterator[Advance]:
        """Time a stage and show how far it has come.

        Args:
            name: what is done, such as ``fit``; the report lists its seconds under this name.
            subject: what it is done to, such as the category ``tile``.
            total: number of images to process; None where it is not known. Where they are walked more than once, as a
                scorer's ``fit`` may, each further walk that begins adds as many.

        Yields:
            A function to call with the number of images that have just been processed.
        """
        started = time.perf_counter()
        ahead = self._run.begin(name, subject, started)
        self._share, done = 0.0, 0
        try:
            with self.steps(harmless(f"{subject}: {name}"), total, "image", said=True) as show:

                def advance(images: int) -> None:
                    nonlocal done
                    done += images
                    if images_in_all := _walked(total, done) or ahead:
                        self._share = min(1.0, done / images_in_all)
                    show(images)

                yield advance
        finally:
            ended = time.perf_counter()
            self._run.end(ended)
            self.timings[name] = self.timings.get(name, 0.0) + ended - started

    @contextmanager
    def steps(self, title: str, total: int | None, noun: str, *, said: bool = False) -> Iterator[Advance]:
        """Show how far something has come; see ``stage`` and the function of this name.

        Args:
            said: whether a line stays of it when it is over.
        """
        started = time.perf_counter()
        task = self._bars.add_task(title, total=total, noun=noun)
        plain = _PlainStage(self, title, noun) if not self.console.is_terminal else None

        done = 0

        def advance(things: int) -> None:
            nonlocal done
            done += things
            expected = _walked(total, done)
            self._bars.update(task, total=expected, advance=things)
            if plain is not None:
                plain.advance(things, expected)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)
        seconds = time.perf_counter() - started
        if not said:
            return
        if plain is None:
            self.say(f"{title}: {seconds:.1f} s")
        else:
            plain.finish(seconds)


def _walked(total: int | None, done: int) -> int | None:
    """How many there are to do, where each further walk through ``total`` adds as many; None where it is not known."""
    return total * max(math.ceil(done / total), 1) if total else None


class _PlainStage:
    """A stage shown as lines for logs and pipes: one every few seconds and one at the end."""

    def __init__(self, display: Display, title: str, noun: str) -> None:
        self._display = display
        self._noun = noun
        self._title = title
        self._done = 0
        self._started = self._reported = time.perf_counter()

    def advance(self, images: int, total: int | None) -> None:
        self._done += images
        now = time.perf_counter()
        if now - self._reported < PLAIN_INTERVAL:
            return
        self._reported = now
        rate = self._done / (now - self._started)
        speed = _as_text(rate, self._noun)
        text = f"{self._title}: {counted(self._done, self._noun)}, {speed}"
        if total:
            text = f"{self._title}: {self._done:,} of {counted(total, self._noun)}, {speed}"
            if rate > 0:
                text += f", {(total - self._done) / rate:.0f} s left"
        if (left := self._display.left()) is not None:
            text += f"; run: {left}"
        self._display.say(text)

    def finish(self, seconds: float) -> None:
        images = f"{counted(self._done, self._noun)}, " if self._done else ""
        self._display.say(f"{self._title}: {images}{seconds:.1f} s")


def _as_text(speed: float, noun: str) -> str:
    """A speed in things per second as text: ``1 image/s``, ``120 images/s``."""
    return f"{counted(round(speed), noun)}/s"
