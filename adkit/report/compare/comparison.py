"""What two or more runs found on the images that all of them were tested on."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from adkit.bootstrap import FEWEST, Tested, paired_difference
from adkit.errors import UserError
from adkit.metrics import METRICS, image_metrics
from adkit.report.compare.delong import difference as delong
from adkit.report.finished import AGAIN, read_report
from adkit.report.report import Report
from adkit.utils.table import content
from adkit.utils.text import counted, joined, some

MOST: Final = 12
"""Images on which runs disagree that are named."""
Key = tuple[str, str, str]
"""Category, fold and id of a test image."""


@dataclass(frozen=True)
class Row:
    """A test image of a run, as ``scores.csv`` has it."""

    group: str
    kind: str
    label: int
    score: float
    anomalous: str
    """1 or 0, or nothing without a threshold."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    name: str
    folder: Path
    report: Report
    rows: dict[Key, Row]

    @property
    def seconds(self) -> float:
        return sum(self.report.timings.values())


@dataclass(frozen=True)
class Difference:
    """How much higher the image AUROC of a run is than that of the first one."""

    value: float | None
    interval: tuple[float, float] | None
    how: str
    """What the interval rests on, or why there is none."""

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Disagreement:
    """An image that runs place differently among the test images of its category."""

    category: str
    image: str
    kind: str
    label: int
    places: tuple[float, ...]
    """Per run, the share of the category's other test images that score lower."""

    @property
    def apart(self) -> float:
        return max(self.places) - min(self.places)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; figures but ``metrics`` are over the images that all were tested on."""

    runs: tuple[Run, ...]
    metrics: dict[str, list[float | None]]
    """Metric → the mean that each run reports."""
    auroc: list[float | None]
    """The image AUROC of each run, the mean over categories."""
    differences: list[Difference]
    """Of each run but the first."""
    disagreements: list[Disagreement]
    """The images that the runs disagree on most, the worst first."""
    verdicts: list[int | None]
    """Of each run but the first the number of images that it calls otherwise; None where one has no threshold."""
    images: int
    """The number of images that all runs were tested on."""
    notes: list[str]
    """What restricts the comparison, as sentences."""


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Compare finished runs, each with the first.

    Args:
        folders: two or more folders that runs left.

    Raises:
        UserError: one of them is no finished run, they share no test image, or they call images differently.
    """
    if len(folders) < 2:
        raise UserError("adkit compare: expected the folders of two or more runs, found one: name another run")
    names = _names([Path(folder) for folder in folders])
    runs = tuple(_run(name, Path(folder)) for name, folder in zip(names, folders, strict=True))
    _require_same_folds(runs)
    shared = [key for key in runs[0].rows if all(key in run.rows for run in runs)]
    if not shared:
        raise UserError(
            f"adkit compare: expected runs with test images in common, found none of {runs[0].name} in "
            f"{some([run.name for run in runs[1:]])}: compare runs on the same data"
        )
    _require_same_labels(runs, shared)
    tests = [list(_tests(run, runs[0], shared)) for run in runs]
    found = {name: [_number(run.report.mean.get(name)) for run in runs] for name in METRICS}
    once = dict.fromkeys((key[0], key[2]) for key in shared)
    return Comparison(
        runs,
        {name: values for name, values in found.items() if any(value is not None for value in values)},
        [_auroc(one) for one in tests],
        [_difference(one, tests[0], _grouped(runs[0], shared)) for one in tests[1:]],
        _disagreements(runs, shared),
        [_other_verdicts(run, runs[0], shared) for run in runs[1:]],
        len(once),
        _notes(runs, shared),
    )


def _run(name: str, folder: Path) -> Run:
    report, rows = read_report(folder), {}
    path = folder / "scores.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise ValueError("a row is not whole")
                if row["split"] == "test":
                    key = (content(row["category"]), row["fold"], content(row["id"]))
                    group, kind = content(row["group"]), content(row["kind"])
                    rows[key] = Row(group, kind, int(row["label"]), float(row["score"]), row["anomalous"])
                    if not math.isfinite(rows[key].score):
                        raise ValueError("a score is not finite")
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected the scores of a run, found no such file: {AGAIN}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: expected the scores of a run, found a damaged file: {AGAIN}") from error
    return Run(name, folder, report, rows)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"adkit compare: expected different runs, found {folders[0]} more than once: name each run once")


def _require_same_folds(runs: Sequence[Run]) -> None:
    folds = [len({key[1] for key in run.rows} - {""}) for run in runs]
    for run, count in zip(runs, folds, strict=True):
        if count != folds[0]:
            raise UserError(
                f"adkit compare: expected runs of the same run.folds, found {folds[0] or 'none'} in {runs[0].name} and "
                f"{count or 'none'} in {run.name}: compare runs that were tested alike"
            )


def _require_same_labels(runs: Sequence[Run], shared: Sequence[Key]) -> None:
    for run in runs[1:]:
        for key in shared:
            if run.rows[key].label != runs[0].rows[key].label:
                said = [("normal", "anomalous")[one.rows[key].label] for one in (runs[0], run)]
                raise UserError(
                    f"{key[2]}: expected the same label in all runs, found {said[0]} in {runs[0].name} and {said[1]} "
                    f"in {run.name}: run both on the same data"
                )


def _tests(run: Run, first: Run, shared: Sequence[Key]) -> Iterator[Tested]:
    """The images of each category, and each fold of it, with both labels; groups are those of the first run."""
    parts: dict[tuple[str, str], list[Key]] = {}
    for key in shared:
        parts.setdefault(key[:2], []).append(key)
    for keys in parts.values():
        rows = [run.rows[key] for key in keys]
        labels = np.array([row.label for row in rows], np.int64)
        if 0 < labels.sum() < len(labels):
            groups = [first.rows[key].group or key[2] for key in keys]
            yield Tested(np.array([row.score for row in rows]), labels, groups)


def _grouped(run: Run, shared: Sequence[Key]) -> bool:
    return any(run.rows[key].group not in ("", key[2]) for key in shared)


def _auroc(tests: Sequence[Tested]) -> float | None:
    values = [image_metrics(one.scores, one.labels)["image_auroc"] for one in tests]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _difference(tests: Sequence[Tested], first: Sequence[Tested], grouped: bool) -> Difference:
    one, other = _auroc(tests), _auroc(first)
    if one is None or other is None:
        return Difference(None, None, "no category has both normal and anomalous test images in common")
    if len(tests) == 1 and not grouped and min(np.bincount(tests[0].labels)) >= FEWEST:
        value, low, high = delong(tests[0].scores, first[0].scores, tests[0].labels)
        return Difference(value, (low, high), "DeLong")
    over = "groups" if grouped else "images"
    try:
        value, low, high = paired_difference(tests, first)["image_auroc"]
    except ValueError as error:
        return Difference(one - other, None, str(error).partition(": ")[2])
    return Difference(value, (low, high), f"resamples of {over}, in pairs")


def _disagreements(runs: Sequence[Run], shared: Sequence[Key]) -> list[Disagreement]:
    parts: dict[tuple[str, str], list[Key]] = {}
    for key in shared:
        parts.setdefault(key[:2], []).append(key)
    places: dict[tuple[str, str], list[NDArray[Any]]] = {}
    for keys in parts.values():
        scores = np.array([[run.rows[key].score for key in keys] for run in runs])  # (runs, n)
        ranks = (rankdata(scores, axis=1) - 1) / max(len(keys) - 1, 1)
        for at, key in enumerate(keys):
            places.setdefault((key[0], key[2]), []).append(ranks[:, at])
    of = {(key[0], key[2]): runs[0].rows[key] for key in shared}
    found = []
    for (category, image), values in places.items():
        row = of[category, image]
        mean = tuple(float(value) for value in np.mean(values, axis=0))
        found.append(Disagreement(category, image, row.kind, row.label, mean))
    found.sort(key=lambda one: (-one.apart, one.category, one.image))
    return [one for one in found[:MOST] if one.apart > 0]


def _other_verdicts(run: Run, first: Run, shared: Sequence[Key]) -> int | None:
    pairs = [(run.rows[key].anomalous, first.rows[key].anomalous) for key in shared]
    return None if any("" in pair for pair in pairs) else sum(one != other for one, other in pairs)


def _notes(runs: Sequence[Run], shared: Sequence[Key]) -> list[str]:
    more = {run.name: len({key[2] for key in run.rows}) - len({key[2] for key in shared}) for run in runs}
    found = [
        f"{name} was tested on {counted(count, 'image')} more, which take no part in differences"
        for name, count in more.items()
        if count
    ]
    seeds = {run.report.seed for run in runs}
    if len(seeds) > 1:
        found.append(f"the runs have different seeds: {', '.join(str(run.report.seed) for run in runs)}")
    machines = {(run.report.device, run.report.precision, *run.report.runtimes) for run in runs}
    if len(machines) > 1:
        told = ", ".join(f"{run.name} in {run.report.precision} on {run.report.device}{_by(run)}" for run in runs)
        found.append(f"the runs were computed differently: {told}")
    return found


def _by(run: Run) -> str:
    return f" by {joined(run.report.runtimes, 'and')}" if run.report.runtimes else ""


def _number(value: object) -> float | None:
    return value if isinstance(value, float) else None
