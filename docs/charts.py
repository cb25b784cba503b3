"""The course of trainings as a chart, from what ``report.json`` says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from PIL import Image, ImageDraw

from adkit.report import LookReport, TrainingReport

FINE = 3
"""Drawn so many times as large and then reduced, since Pillow's lines have hard edges."""
INK, FAINT, LINE, KEPT = "#222222", "#dddddd", "#1f5fa8", "#d1495b"
SHADES = ("#dbe7f3", "#31688e")
"""Of the bands, from the first level to the last."""
WIDTH, LABELS, MARGIN, TICKS = 300, 118, 46, 5
FIGURES, LOSSES, HEAD, FOOT, BETWEEN = 150, 220, 64, 42, 34


@dataclass(frozen=True)
class Axes:
    """A box in pixels, and the values at its edges."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return left + (right - left) * across, bottom - (bottom - top) * up


def courses(trainings: Sequence[TrainingReport]) -> Image.Image:
    """A column a training: the stopper's figure above, below it the loss and its terms, on one scale for all."""
    highest = max(look.loss for training in trainings for look in training.looks if look.loss is not None)
    column = MARGIN + WIDTH + LABELS
    size = (len(trainings) * column, HEAD + FIGURES + BETWEEN + LOSSES + FOOT)
    sheet = Image.new("RGB", (size[0] * FINE, size[1] * FINE), "white")
    pen = Pen(ImageDraw.Draw(sheet))
    for number, training in enumerate(trainings):
        left = number * column + MARGIN
        epochs = (0.0, max(look.epochs for look in training.looks))
        top = HEAD + FIGURES + BETWEEN
        figures = [look.figure for look in training.looks if look.figure is not None]
        room = 0.1 * (max(figures) - min(figures)) or 0.01
        upper = Axes((left, HEAD, left + WIDTH, HEAD + FIGURES), epochs, (min(figures) - room, max(figures) + room))
        lower = Axes((left, top, left + WIDTH, top + LOSSES), epochs, (0.0, 1.05 * highest))
        rate = training.schedule["learning_rate"]
        pen.text((left, 4), f"{training.subject}, learning rate {rate:g}", 15)
        pen.text((left, 26), "the stopper's figure", 12)
        pen.text((left, top - 18), "loss, mean since the look before", 12)
        for axes in (upper, lower):
            pen.frame(axes, whole=axes is lower)
        pen.text((left + WIDTH / 2, size[1] - 18), "epochs", 12, "mt")
        _draw_losses(pen, lower, training.looks)
        _draw_figures(pen, upper, training)
        kept = next(look.epochs for look in training.looks if look.minibatches == training.kept_minibatches)
        for axes in (upper, lower):
            pen.line([axes.at(kept, axes.y[0]), axes.at(kept, axes.y[1])], KEPT, 1)
        pen.text((upper.at(kept, 0)[0], HEAD - 3), "kept", 11, "mb", KEPT)
    return sheet.resize(size, Image.Resampling.LANCZOS)


def _draw_figures(pen: Pen, axes: Axes, training: TrainingReport) -> None:
    points = [(look.epochs, look.figure) for look in training.looks if look.figure is not None]
    pen.line([axes.at(*point) for point in points], LINE, 2)
    for look in training.looks:
        if look.figure is not None:
            pen.dot(axes.at(look.epochs, look.figure), 3.5, LINE if look.kept else "white", LINE)


def _draw_losses(pen: Pen, axes: Axes, looks: Sequence[LookReport]) -> None:
    """Terms as bands, one upon the other, for together they are the loss."""
    seen = [look for look in looks if look.loss is not None]
    below = [0.0] * len(seen)
    names = list(seen[0].terms)
    for number, name in enumerate(names):
        above = [base + look.terms[name] for base, look in zip(below, seen, strict=True)]
        edge = [axes.at(look.epochs, value) for look, value in zip(seen, above, strict=True)]
        back = [axes.at(look.epochs, value) for look, value in zip(seen, below, strict=True)]
        pen.area(edge + back[::-1], _shade(number / max(1, len(names) - 1)))
        pen.line(edge, "white", 1)
        x, y = axes.at(seen[-1].epochs, (above[-1] + below[-1]) / 2)
        change = seen[-1].terms[name] / seen[0].terms[name] - 1
        pen.text((x + 6, y), f"{name}  {change:+.0%}", 11, "lm")
        below = above
    pen.line([axes.at(look.epochs, look.loss or 0.0) for look in seen], INK, 2)


def _shade(share: float) -> str:
    ends = [[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in SHADES]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*ends, strict=True))


@dataclass(frozen=True)
class Pen:
    """Draws in pixels of the finished sheet."""

    draw: ImageDraw.ImageDraw

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self.draw.line([_fine(point) for point in points], colour, round(width * FINE), joint="curve")

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        self.draw.polygon([_fine(point) for point in points], colour)

    def dot(self, point: tuple[float, float], radius: float, fill: str, outline: str) -> None:
        self.draw.circle(_fine(point), radius * FINE, fill, outline, round(1.5 * FINE))

    def text(self, point: tuple[float, float], text: str, size: float, anchor: str = "lt", colour: str = INK) -> None:
        self.draw.text(_fine(point), text, colour, font_size=size * FINE, anchor=anchor)

    def frame(self, axes: Axes, whole: bool) -> None:
        """Lines and numbers at round values, below the box for the epochs where it is the last one."""
        left, _, right, bottom = axes.box
        for value in _round_values(*axes.y):
            y = axes.at(axes.x[0], value)[1]
            self.line([(left, y), (right, y)], FAINT, 1)
            self.text((left - 6, y), f"{value:g}", 11, "rm")
        for value in _round_values(*axes.x):
            x = axes.at(value, axes.y[0])[0]
            self.line([(x, bottom), (x, bottom + 4)], INK, 1)
            if whole:
                self.text((x, bottom + 8), f"{value:g}", 11, "mt")
        self.line([(left, bottom), (right, bottom)], INK, 1)


def _fine(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * FINE, point[1] * FINE


def _round_values(low: float, high: float) -> list[float]:
    """Some TICKS values between, at a step of 1, 2 or 5 times a power of ten."""
    wanted = (high - low) / TICKS
    power = 10.0 ** floor(log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted)
    return [round(step * number, 9) for number in range(ceil(low / step), floor(high / step) + 1)]
