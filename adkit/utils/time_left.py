"""How long a run will still take: by what its stages have taken so far, and what is known of those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_TRUST: Final = 0.1
"""The share of a stage after which its own pace counts as much as what was expected of it."""


@dataclass(frozen=True)
class Ahead:
    """A stage that a run has before it."""

    name: str
    """What is done; stages of one name and weight take about the same time an image."""
    subject: str
    """What it is done to: ``tile`` for stages of ``tile``, ``tile, fold 1 of 3`` and the like."""
    images: int
    weight: float
    """About how long an image takes, compared with other stages; it counts until one of that name was seen."""
    at_most: bool = False
    """Whether it may end early."""


@dataclass(frozen=True)
class Left:
    """The time that a run will still take."""

    seconds: float
    at_most: bool
    """Whether a stage that is counted whole may end early."""

    def __str__(self) -> str:
        return f"{'at most ' if self.at_most else ''}{in_words(self.seconds)} left"


@dataclass
class _Pace:
    seconds: float = 0.0
    images: float = 0.0


class TimeLeft:
    """Estimates the time left as stages come and go; stages that were not expected only pass."""

    def __init__(self) -> None:
        self._ahead: list[Ahead] = []
        self._paces: dict[tuple[str, float], _Pace] = {}
        self._stage: Ahead | None = None
        self._begun = 0.0

    def expect(self, ahead: Sequence[Ahead]) -> None:
        """Take the stages that a run has before it, in their order."""
        self._ahead = [one for one in ahead if one.images > 0]

    def begin(self, name: str, subject: str, now: float) -> int:
        """Begin a stage, and return how many images were expected of it, 0 where it was not.

        Those that were expected before it will not come any more.
        """
        self._stage, self._begun = None, now
        for place, one in enumerate(self._ahead):
            if one.name == name and (subject == one.subject or subject.startswith(f"{one.subject}, ")):
                self._stage = one
                del self._ahead[: place + 1]
                return one.images
        return 0

    def end(self, now: float) -> None:
        """End the stage that began last."""
        if (stage := self._stage) is not None:
            pace = self._paces.setdefault((stage.name, stage.weight), _Pace())
            pace.seconds += now - self._begun
            pace.images += stage.images
        self._stage = None

    def left(self, share: float, now: float) -> Left | None:
        """The time left; None while nothing is known.

        Args:
            share: of the stage that is at work, how much is done.
        """
        stage, passed = self._stage, now - self._begun
        seconds = whole = 0.0
        if stage is not None:
            expected = self._at_work(stage, share, passed)
            if expected is None:
                return None
            whole = expected
            seconds = max(whole - passed, 0.0)
        for one in self._ahead:
            found = self._expected(one)
            if found is None:
                if stage is None:
                    return None
                # Only the first stage is known, and it is at work.
                found = whole * one.images * one.weight / (stage.images * stage.weight)
            seconds += found
        counted = [*self._ahead, *([] if stage is None else [stage])]
        return Left(seconds, any(one.at_most for one in counted)) if counted else None

    def _at_work(self, stage: Ahead, share: float, passed: float) -> float | None:
        """The seconds of the whole stage that is at work: by its own pace, the more the further it has come."""
        expected = self._expected(stage)
        if share <= 0:
            return expected
        if expected is None:
            return passed / share
        trust = share / (share + _TRUST)
        return trust * passed / share + (1 - trust) * expected

    def _expected(self, stage: Ahead) -> float | None:
        """The seconds of a whole stage, by others of its name or else by its weight; None where none was seen."""
        pace = self._paces.get((stage.name, stage.weight))
        if pace is not None:
            return pace.seconds / pace.images * stage.images
        weighed = sum(pace.images * weight for (_, weight), pace in self._paces.items())
        if not weighed:
            return None
        return sum(pace.seconds for pace in self._paces.values()) / weighed * stage.images * stage.weight


def in_words(seconds: float) -> str:
    """A duration as people say it: ``40 s`` in steps of 5, ``12 min``, ``3 h 20 min``."""
    if seconds < 57.5:
        return f"{max(5, 5 * math.ceil(seconds / 5 - 0.5))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
