"""Tables of what a run found, for the terminal."""

from __future__ import annotations

import csv
import heapq
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.metrics import METRICS
from adkit.report.report import Report, ThresholdReport
from adkit.utils.escapes import harmless
from adkit.utils.table import content

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


MOST_KINDS = 20
"""Kinds of anomalies beyond which they are not shown on a terminal."""


def metrics_table(report: Report) -> Table | None:
    """The metrics of each category, and their mean with its standard error; None where nothing could be measured."""
    shown = [metric for metric in METRICS if report.mean[metric] is not None]
    if not shown:
        return None
    result = _table(report.name, "category", *(METRICS[metric].title for metric in shown))
    for name, category in report.categories.items():
        result.add_row(_plain(name), *(_value(category.metrics[metric]) for metric in shown))
    only = next(iter(report.categories.values()))
    if len(report.categories) == 1:
        if only.intervals:
            result.add_row("95% from", *(_end(only.intervals.get(metric), 0) for metric in shown))
            result.add_row("to", *(_end(only.intervals.get(metric), 1) for metric in shown))
        if only.sem is not None:
            result.add_row("± SEM of folds", *(_value(only.sem[metric]) for metric in shown))
    if len(report.categories) > 1:
        errors = report.mean["sem"]
        assert isinstance(errors, dict)
        result.add_section()
        result.add_row("mean", *(_value(report.mean[metric]) for metric in shown))
        result.add_row("± SEM", *(_value(errors[metric]) for metric in shown))
    return result


def kinds_table(report: Report) -> Table | None:
    """How each kind of anomaly is found in the only category of a run; None with several categories or one kind."""
    only = next(iter(report.categories.values()))
    if len(report.categories) > 1 or not 1 < len(only.kinds) <= MOST_KINDS:
        return None
    shown = [metric for metric in METRICS if any(kind.metrics[metric] is not None for kind in only.kinds.values())]
    result = _table("by kind", "kind", "images", *(METRICS[metric].title for metric in shown))
    for name, kind in only.kinds.items():
        result.add_row(_plain(name), f"{kind.images:,}", *(_value(kind.metrics[metric]) for metric in shown))
    return result


def suspects(scores: Path, most: int = 3) -> list[tuple[str, float]]:
    """Name the normal test images that are most like anomalous ones, which may show what nobody saw.

    Args:
        scores: the ``scores.csv`` of a run.

    Returns:
        The image and the share of the anomalous test images of its category that it scores above, which is not 0; the
        highest share first.
    """
    by_label: dict[str, tuple[list[tuple[float, str]], list[float]]] = {}
    with scores.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                normal, anomalous = by_label.setdefault(row["category"], ([], []))
                if row["label"] == "0":
                    normal.append((float(row["score"]), content(row["id"])))
                else:
                    anomalous.append(float(row["score"]))
    found = []
    for normal, anomalous in by_label.values():
        ordered = sorted(anomalous)
        for score, image in heapq.nlargest(most, normal) if ordered else ():
            found.append((image, bisect_left(ordered, score) / len(ordered)))
    return heapq.nlargest(most, [one for one in found if one[1]], key=lambda one: one[1])


def thresholds_table(report: Report) -> Table | None:
    """The threshold of each category that has one, with its error rates; None where no category has one."""
    rows = {name: category.threshold for name, category in report.categories.items() if category.threshold}
    if not rows:
        return None
    heads = ("category", "anomalous\nabove", "false alarms\npromised", "on test\nimages", "defects\nfound")
    result = _table("threshold", *heads)
    for name, threshold in rows.items():
        result.add_row(
            _plain(name),
            f"{threshold.value:.4g}",
            _promised(threshold),
            _value(threshold.test_false_positive_rate),
            _value(threshold.test_recall),
        )
    return result


def _promised(threshold: ThresholdReport) -> str:
    if threshold.false_positive_rate_asked is None or threshold.false_positive_rate_supported is None:
        return "nothing"  # the value was set by hand
    rate = max(threshold.false_positive_rate_supported, threshold.false_positive_rate_asked)
    return f"{'≈' if threshold.approximate else '≤'} {rate:.3f}{' a part' if threshold.per == 'part' else ''}"


def _table(title: str, first: str, *others: str) -> Table:
    from rich.table import Table

    result = Table(title=_plain(title), title_justify="left")
    result.add_column(first, no_wrap=True)
    for head in others:
        result.add_column(head, justify="right", no_wrap=True)
    return result


def _plain(name: str) -> Text:
    """A name as it is shown: without harm to the terminal, and without markup, which rich would find in brackets."""
    from rich.text import Text

    return Text(harmless(name))


def _end(interval: tuple[float, float] | None, end: int) -> str:
    return "–" if interval is None else _value(interval[end])


def _value(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"
