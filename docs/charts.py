"""The course of trainings as charts, from what ``report.json`` says; needs matplotlib (``adkit-ignite[docs]``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adkit.report.report import CheckReport, TrainingReport

KEPT = "#d1495b"
GROUPS = {"train": "#1f5fa8", "held_out": "#7fa7d1", "test_normal": "#3f8f5f", "test_anomalous": "#d1495b"}

plt.rcParams |= {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


def courses(trainings: Sequence[TrainingReport]) -> Figure:
    """A column per training: the stopper's value above, below it the loss and its terms, on one scale for all."""
    figure, axes = _columns(len(trainings), heights=(2, 3))
    for training, (upper, lower) in zip(trainings, axes, strict=True):
        checks = [check for check in training.checks if check.value is not None]
        upper.plot([check.epochs for check in checks], [check.value for check in checks], color=GROUPS["train"])
        for kept, fill in ((True, GROUPS["train"]), (False, "white")):
            some = [check for check in checks if check.kept is kept]
            at, values = [check.epochs for check in some], [check.value for check in some]
            upper.plot(at, values, "o", markerfacecolor=fill, markeredgecolor=GROUPS["train"], clip_on=False)
        upper.set(title=_title(training), ylabel="stopper's value")
        _draw_losses(lower, [check for check in training.checks if check.loss is not None])
        lower.set(xlabel="epochs", ylabel="loss since the check before")
        at = next(check.epochs for check in training.checks if check.minibatches == training.kept_minibatches)
        for chart in (upper, lower):
            chart.axvline(at, color=KEPT, linewidth=1)
        upper.annotate("kept", (at, 0.03), (4, 0), ("data", "axes fraction"), "offset points", color=KEPT, fontsize=8)
    top = max(lower.get_ylim()[1] for _, lower in axes)
    for _, lower in axes:
        lower.set_ylim(0, top)
    return figure


def distances(trainings: Mapping[str, TrainingReport]) -> Figure:
    """A column per training, by its title: its snapshots' mean distances, raw and over those of training; image AUROC.

    As figure 3 of PANDA (CVPR 2021).
    """
    figure, axes = _columns(len(trainings), heights=(2, 2, 2), width=3)
    for (title, training), (raw, normalized, auroc) in zip(trainings.items(), axes, strict=True):
        at = [snapshot.minibatches for snapshot in training.snapshots]
        for name, color in GROUPS.items():
            if name in training.snapshots[0].distances:
                raw.plot(at, [one.distances[name] for one in training.snapshots], ".-", color=color, label=name)
                values = [one.normalized.get(name, np.nan) for one in training.snapshots]
                normalized.plot(at, values, ".-", color=color)
        auroc.plot(at, [np.nan if one.image_auroc is None else one.image_auroc for one in training.snapshots], ".-k")
        raw.set(title=title, yscale="log")
        normalized.set(yscale="log")
        auroc.set(xlabel="minibatches")
    for chart, label in zip(axes[0], ("mean distance", "over that of train", "image AUROC"), strict=True):
        chart.set_ylabel(label)
    for row in zip(*axes, strict=True):  # on one scale for all
        low, high = min(chart.get_ylim()[0] for chart in row), max(chart.get_ylim()[1] for chart in row)
        for chart in row:
            chart.set_ylim(low, high)
    axes[0][0].legend(fontsize=8, frameon=False)
    return figure


def _columns(count: int, heights: Sequence[int], width: float = 4.6) -> tuple[Figure, list[Sequence[Axes]]]:
    figure, axes = plt.subplots(
        len(heights), count, squeeze=False, sharex="col", height_ratios=heights, layout="constrained",
        figsize=(width * count, 1.1 * sum(heights) + 0.8),
    )  # fmt: skip
    return figure, list(axes.T)


def _title(training: TrainingReport) -> str:
    return f"{training.subject}, learning rate {training.schedule['learning_rate']:g}"


def _draw_losses(axes: Axes, checks: Sequence[CheckReport]) -> None:
    """Terms as bands, one upon the other, for together they are the loss; each with by how much it fell."""
    names = list(checks[0].terms) or [""]
    rows = np.array([[check.terms.get(name, check.loss) for check in checks] for name in names], float)
    colors = plt.get_cmap("Blues")(np.linspace(0.15, 0.85, len(names)))
    epochs = [check.epochs for check in checks]
    axes.stackplot(epochs, rows, colors=colors, edgecolor="white", linewidth=0.5)
    for name, row, middle in zip(names, rows, rows.cumsum(0)[:, -1] - rows[:, -1] / 2, strict=True):
        label = f"{name} {row[-1] / row[0] - 1:+.0%}"
        axes.annotate(label, (epochs[-1], middle), (4, 0), textcoords="offset points", va="center", fontsize=8)
