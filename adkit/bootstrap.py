"""Intervals of metrics by resamples of whole groups: how much a figure rests on which parts happened to be tested.

Images of one part are alike, so a resample takes or leaves a part as a whole (cluster bootstrap: Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8). Groups with normal images alone, with anomalous ones alone,
and with both are drawn apart, so that every resample has as many of each as the test. Intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adkit.metrics import PIXEL_METRICS, PixelCounts, image_metrics

Floats = NDArray[np.float64]

RESAMPLES: Final = 2000
FEWEST: Final = 10
"""Groups on either side below which there is no interval: resamples of so few are too much alike."""
CONFIDENCE: Final = 0.95
CHUNK: Final = 500_000
"""Largest number of weights that are computed with at a time."""


@dataclass(frozen=True, eq=False)
class Tested:
    """What a detector found for its test images."""

    __test__ = False  # no test of pytest's, for all its name

    scores: NDArray[np.floating[Any]]
    """(n,) raw scores."""
    labels: NDArray[np.int64]
    """(n,) 0 normal, 1 anomalous."""
    groups: Sequence[str]
    """The key of each image's group: equal for images of one part."""
    pixels: PixelCounts | None = None
    """Counts of the pixels of each image at some thresholds; None without masks or maps."""

    def metrics(self) -> dict[str, float | None]:
        """The metrics that have an interval: exact ones of images, and binned ones of pixels."""
        exact = image_metrics(self.scores, self.labels)
        found: dict[str, float | None] = {name: exact[name] for name in ("image_auroc", "image_ap")}
        if self.pixels is not None:
            once = np.ones((1, len(self.groups)))
            found |= {name: float(values[0]) for name, values in self.pixels.metrics(once).items()}
        return found


@dataclass(frozen=True)
class Intervals:
    """The 95% intervals of metrics, or why there are none."""

    values: dict[str, tuple[float, float]]
    missing: str | None


def intervals(tests: Sequence[Tested], exact: dict[str, float | None], seed: int) -> Intervals:
    """Compute the intervals of the mean metrics of one or several detectors, such as those of folds.

    A group that several detectors were tested on is drawn equally often for each of them: it is one source of error.

    Args:
        exact: the metrics that the intervals are for; those of pixels are moved by what binning changes.
        seed: draws the resamples.
    """
    if missing := _too_few(tests):
        return Intervals({}, missing)
    found = _resampled(tests, seed)
    values = {}
    for name, drawn in found.items():
        point, binned = exact.get(name), _mean([one.metrics()[name] for one in tests])
        if point is not None and np.isfinite(drawn).any():
            low, high = _percentiles(drawn) + (point - binned)
            values[name] = (min(max(float(low), 0.0), 1.0), min(max(float(high), 0.0), 1.0))
    return Intervals(values, None)


def paired_difference(
    one: Sequence[Tested], other: Sequence[Tested], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Compare two detectors, or two rows of folds, that were tested on the same images, by the same resamples.

    Returns:
        Metric → its difference, ``one`` less ``other``, and the ends of its interval.

    Raises:
        ValueError: they were not tested on the same images in the same order, or on too few groups.
    """
    pairs = zip(one, other, strict=True)
    if not all(list(a.groups) == list(b.groups) and np.array_equal(a.labels, b.labels) for a, b in pairs):
        raise ValueError("expected two detectors that were tested on the same images, found others")
    if missing := _too_few(one):
        raise ValueError(f"expected enough groups, found too few: {missing}")
    first, second = _resampled(one, seed), _resampled(other, seed)
    found = {}
    for name in first.keys() & second.keys():
        low, high = _percentiles(first[name] - second[name])
        means = [_mean([test.metrics()[name] for test in tests]) for tests in (one, other)]
        found[name] = (means[0] - means[1], float(low), float(high))
    return found


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _percentiles(drawn: Floats) -> Floats:
    tail = (1 - CONFIDENCE) / 2
    return np.asarray(np.nanquantile(drawn, (tail, 1 - tail)), np.float64)


def _sides(tests: Sequence[Tested]) -> tuple[set[str], set[str]]:
    """The groups with normal images, and those with anomalous ones, over all tests."""
    pairs = {(group, int(label)) for one in tests for group, label in zip(one.groups, one.labels, strict=True)}
    return {group for group, label in pairs if not label}, {group for group, label in pairs if label}


def _too_few(tests: Sequence[Tested]) -> str | None:
    found = zip(("normal", "anomalous"), _sides(tests), strict=True)
    short = [f"{len(groups)} of {side} images" for side, groups in found if len(groups) < FEWEST]
    if not short:
        return None
    return f"an interval takes {FEWEST} groups on either side of the test, found {' and '.join(short)}"


def resamples(tests: Sequence[Tested], seed: int) -> tuple[list[str], NDArray[np.uint16]]:
    """Draw groups with replacement, of each stratum as many as it has.

    Returns:
        The groups' names, and (RESAMPLES, groups) how often each was drawn.
    """
    normal, anomalous = _sides(tests)
    names = sorted(normal | anomalous)
    times = np.zeros((RESAMPLES, len(names)), np.uint16)
    rows = _at_a_time(len(names))
    rng = np.random.default_rng(seed)
    for stratum in (normal - anomalous, normal & anomalous, anomalous - normal):
        columns = [column for column, name in enumerate(names) if name in stratum]
        for first in range(0, RESAMPLES if columns else 0, rows):
            part = times[first : first + rows]
            part[:, columns] = rng.multinomial(len(columns), np.full(len(columns), 1 / len(columns)), len(part))
    return names, times


def _at_a_time(width: int) -> int:
    """The number of resamples of so many weights that are computed with at a time."""
    return max(CHUNK // max(width, 1), 1)


def _resampled(tests: Sequence[Tested], seed: int) -> dict[str, Floats]:
    """Metric → (RESAMPLES,) its mean over the tests in each resample; nan where none of them has both sides."""
    names, times = resamples(tests, seed)
    column = {name: index for index, name in enumerate(names)}
    found: dict[str, list[Floats]] = {}
    for one in tests:
        places = [column[group] for group in one.groups]
        for name, values in _of_one(one, times, places).items():
            found.setdefault(name, []).append(values)
    with np.errstate(invalid="ignore"):
        return {name: _mean_over_tests(np.stack(values)) for name, values in found.items()}


def _mean_over_tests(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(0)
    return np.asarray(np.where(known, values, 0).sum(0) / np.where(count, count, np.nan), np.float64)


def _of_one(one: Tested, times: NDArray[np.uint16], places: Sequence[int]) -> dict[str, Floats]:
    image: list[tuple[Floats, Floats]] = []
    pixel: list[dict[str, Floats]] = []
    for weights in _chunks(times, places):
        image.append(_image_metrics(one, weights))
        if one.pixels is not None:
            pixel.append(one.pixels.metrics(weights))
    found = {name: np.concatenate([pair[i] for pair in image]) for i, name in enumerate(("image_auroc", "image_ap"))}
    if pixel:
        found |= {name: np.concatenate([part[name] for part in pixel]) for name in PIXEL_METRICS}
    return found


def _chunks(times: NDArray[np.uint16], places: Sequence[int]) -> Iterator[Floats]:
    """Yield the weights (r, n) of images in some resamples after the other."""
    rows = _at_a_time(len(places))
    for first in range(0, len(times), rows):
        yield times[first : first + rows][:, places].astype(np.float64)


def _image_metrics(one: Tested, weights: Floats) -> tuple[Floats, Floats]:
    """AUROC and average precision (r,) of images of weights (r, n), as if each were there so many times."""
    order = np.argsort(-one.scores, kind="stable")
    scores, positive = one.scores[order], (one.labels == 1)[order]
    weights = weights[:, order]
    found, alarms = np.cumsum(weights * positive, 1), np.cumsum(weights * ~positive, 1)  # (r, n)
    # Of tied scores the last one has seen them all.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found, alarms = found[:, last], alarms[:, last]
    gained = np.diff(found, axis=1, prepend=0)
    before = np.concatenate([np.zeros((len(weights), 1)), alarms[:, :-1]], 1)
    positives, negatives = found[:, -1], alarms[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = 1 - (gained * (before + alarms) / 2).sum(1) / (positives * negatives)
        precision = np.where(gained > 0, found / (found + alarms), 0)
        ap = (gained * precision).sum(1) / positives
    ap[negatives == 0] = np.nan
    return auroc, ap
