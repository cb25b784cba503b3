"""Lines of a training as the numbers that an SVG takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 360
HEIGHT: Final = 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 96, 12, 28
_LINE = 12
"""Height of a label in the units of the chart."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    at: float
    """Where it lies along its axis, in the units of the chart."""
    text: str


@dataclass(frozen=True)
class Line:
    name: str
    path: str
    points: list[tuple[float, float]]
    label_at: float
    """The height of its label, which stands behind its end."""


@dataclass(frozen=True)
class Chart:
    """Lines over the course of a training, in a field of WIDTH × HEIGHT."""

    title: str
    below: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: float | None
    """Where the state lies that was kept."""
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def chart(title: str, below: str, series: Mapping[str, Points], mark: float | None = None) -> Chart | None:
    """A chart of the ``series``, name → (x, y); None where none of them has a point. What is not finite is left out."""
    finite = {name: [at for at in points if all(map(math.isfinite, at))] for name, points in series.items()}
    series = {name: points for name, points in finite.items() if points}
    xs = [x for points in series.values() for x, _ in points] + ([] if mark is None else [mark])
    ys = [y for points in series.values() for _, y in points]
    if not ys:
        return None
    least = min(ys) if min(ys) < max(ys) else min(ys) - abs(min(ys)) / 10  # a value that never changes lies at the top
    x_marks, y_marks = ticks(min(0.0, *xs), max(xs)), ticks(least, max(ys))
    x_low, x_high, y_low, y_high = min(0.0, *xs), max(xs) or 1.0, y_marks[0], y_marks[-1]

    def across(x: float) -> float:
        return round(_LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - _LEFT - _RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - _TOP - _BOTTOM), 1)

    placed = {name: [(across(x), up(y)) for x, y in points] for name, points in series.items()}
    labels = _apart({name: points[-1][1] for name, points in placed.items()})
    return Chart(
        title,
        below,
        [Line(name, "M" + "L".join(f"{x} {y}" for x, y in at), at, labels[name]) for name, at in placed.items()],
        [Tick(across(value), f"{value:g}") for value in x_marks if x_low <= value <= x_high],
        [Tick(up(value), f"{value:g}") for value in y_marks],
        None if mark is None else across(mark),
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in even steps of 1, 2 or 5 times a power of ten, which enclose ``low`` and ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """The heights moved down so far that no label covers another one."""
    placed: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda one: one[1]):
        last = max(height, last + _LINE)
        placed[name] = last
    over = max(0.0, last - (HEIGHT - _BOTTOM - _LINE / 2))
    return {name: round(height - over, 1) for name, height in placed.items()}
