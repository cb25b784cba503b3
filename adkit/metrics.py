"""Exact ranking metrics on raw scores: every distinct score is a threshold, nothing is binned or rescaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adkit.errors import UserError

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

PRO_LIMIT = 0.3
"""False-positive rate up to which PRO is integrated."""


def image_metrics(scores: Scores, labels: NDArray[Any]) -> dict[str, float | None]:
    """Compute the metrics over images; every one is ``None`` where normal or anomalous images are missing.

    Args:
        scores: (n,) raw scores, higher is more anomalous.
        labels: (n,) 0 normal, 1 anomalous.

    Returns:
        Name of each metric → its value in [0, 1].

    Raises:
        UserError: a score is not finite, or the two arrays do not fit together.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(
            "image metrics: expected one score and one label per image, found scores of shape "
            f"{scores.shape} and labels of shape {labels.shape}: pass two arrays of shape (n,)"
        )
    if not np.isin(labels, (0, 1)).all():
        strange = labels[~np.isin(labels, (0, 1))][0]
        raise UserError(
            "image metrics: expected labels of 0 (normal) and 1 (anomalous), found "
            f"{strange}: map the labels to 0 and 1"
        )
    _require_finite(scores, "image metrics", "the score")
    anomalous = labels == 1
    if anomalous.all() or not anomalous.any():
        return dict.fromkeys(IMAGE_METRICS)
    ranking = _rank(np.sort(scores[~anomalous]), np.sort(scores[anomalous]))
    return {name: metric.function(ranking) for name, metric in IMAGE_METRICS.items()}


class PixelMetrics:
    """Metrics over the pixels of all test images together, which are added batch by batch.

    Every pixel's score is kept, because exact metrics need them all: 4 to 4.5 bytes per normal pixel and 8 per
    anomalous one. ``compute`` sorts the normal ones in place and needs some 100 bytes more for each anomalous
    one. More images can be added after it.
    """

    def __init__(self) -> None:
        self._images = 0
        self._components = 0
        self._normal = _Growing()
        self._anomalous: list[NDArray[np.float32]] = []
        self._sizes: list[NDArray[np.int32]] = []

    def add(self, maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> None:
        """Add the maps and masks of n images.

        Args:
            maps: (n, h, w) float32 raw scores, higher is more anomalous.
            masks: (n, h, w) bool, true where a pixel is anomalous.

        Raises:
            UserError: a score is not finite, or the two arrays do not fit together.
        """
        if maps.ndim != 3 or maps.shape != masks.shape or maps.dtype != np.float32 or masks.dtype != np.bool_:
            raise UserError(
                "pixel metrics: expected float32 maps and bool masks of one shape (n, h, w), found "
                f"{maps.dtype} maps of shape {maps.shape} and {masks.dtype} masks of shape {masks.shape}: "
                "convert them first"
            )
        _require_finite(maps, "pixel metrics", "the map", first=self._images)
        self._images += len(maps)
        self._normal.append(maps[~masks])  # (normal pixels,)
        for scores, mask in zip(maps, masks, strict=True):
            if mask.any():
                sizes, components = _component_sizes(mask)
                self._anomalous.append(scores[mask])
                self._sizes.append(sizes)
                self._components += components

    def compute(self) -> dict[str, float | None]:
        """Compute ROC AUC, average precision and PRO; each is ``None`` where normal or anomalous pixels are missing."""
        normal = self._normal.values
        if not len(normal) or not self._anomalous:
            return dict.fromkeys(PIXEL_METRICS)
        normal.sort()
        anomalous, sizes = np.concatenate(self._anomalous), np.concatenate(self._sizes)
        order = np.argsort(anomalous, kind="stable")
        weights = 1 / (sizes[order] * np.float64(self._components))
        ranking = _PixelRanking(**vars(_rank(normal, anomalous[order])), weights=weights)
        return {name: metric.function(ranking) for name, metric in PIXEL_METRICS.items()}


def mean_and_sem(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Compute the mean and its standard error (sample standard deviation / √n) of the values that are not ``None``.

    Returns:
        The mean, ``None`` where there is no value; the standard error, ``None`` where there are fewer than two.
    """
    known = [value for value in values if value is not None]
    mean = fmean(known) if known else None
    return mean, stdev(known) / len(known) ** 0.5 if len(known) > 1 else None


@dataclass(frozen=True)
class _Ranking:
    """What each positive's score, taken as the threshold, would find; positives in ascending order.

    No metric here changes at a threshold that is a negative's score alone, so the positives' are enough.
    """

    found: Counts
    """(p,) number of positives that score at least as high as each positive."""
    alarms: Counts
    """(p,) number of negatives that score at least as high."""
    alarms_above: Counts
    """(p,) number of negatives that score higher."""
    negatives: int
    """Number of all negatives."""

    @property
    def positives(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class _PixelRanking(_Ranking):
    """A ranking of pixels that also says how much each anomalous one counts for its connected component."""

    weights: NDArray[np.float64]
    """(p,) 1 / (size of the pixel's component · components); their sum is 1."""


def _rank(negatives: Scores, positives: Scores) -> _Ranking:
    """Rank positives against negatives; both are sorted in ascending order and neither is empty."""
    return _Ranking(
        found=len(positives) - np.searchsorted(positives, positives, side="left"),
        alarms=len(negatives) - np.searchsorted(negatives, positives, side="left"),
        alarms_above=len(negatives) - np.searchsorted(negatives, positives, side="right"),
        negatives=len(negatives),
    )


def _auroc(ranking: _Ranking) -> float:
    """The share of (positive, negative) pairs in the right order; a tie counts half."""
    pairs = 2 * ranking.positives * ranking.negatives
    wrong = int(ranking.alarms.sum()) + int(ranking.alarms_above.sum())
    return (pairs - wrong) / pairs


def _average_precision(ranking: _Ranking) -> float:
    """Σ (recall gained at a threshold) · (precision there); a positive gains 1/p at its own score."""
    return float(np.mean(ranking.found / (ranking.found + ranking.alarms)))


def _f1max(ranking: _Ranking) -> float:
    return float(np.max(2 * ranking.found / (ranking.found + ranking.alarms + ranking.positives)))


def _fpr95(ranking: _Ranking) -> float:
    """False-positive rate at the largest threshold whose recall is at least 95%."""
    enough = 20 * ranking.found >= 19 * ranking.positives  # in integers: 0.95 has no exact float
    return float(ranking.alarms[enough][-1] / ranking.negatives)


def _aupro(ranking: _PixelRanking) -> float:
    """The mean share of each component that is found, averaged over false-positive rates in [0, 0.3] (PRO).

    The curve is the sum of one ramp per positive: its weight 1 / (size of its component · components) is gained
    while the false-positive rate rises from a (negatives above its score) to b (those tied with it, too).
    Each ramp is integrated in closed form.
    """
    a = ranking.alarms_above / ranking.negatives
    b = ranking.alarms / ranking.negatives
    reached = PRO_LIMIT - (a + b) / 2
    cut = b > PRO_LIMIT  # the limit lies on the ramp, or before it
    reached[cut] = np.maximum(PRO_LIMIT - a[cut], 0) ** 2 / np.maximum(2 * (b[cut] - a[cut]), 1e-300)
    return min(float(ranking.weights @ reached) / PRO_LIMIT, 1.0)  # rounding alone could exceed 1


class Metric(NamedTuple):
    """A metric's title and the function that computes it."""

    title: str
    """The head of its column in a table, as the field writes it."""
    function: Callable[[Any], float]
    """Takes the ranking: a ``_Ranking`` of images, or a ``_PixelRanking``."""


IMAGE_METRICS: Final[Mapping[str, Metric]] = {
    "image_auroc": Metric("image\nAUROC", _auroc),
    "image_ap": Metric("image\nAP", _average_precision),
    "image_f1max": Metric("image\nF1-max", _f1max),
    "image_fpr95": Metric("image\nFPR95", _fpr95),
}
PIXEL_METRICS: Final[Mapping[str, Metric]] = {
    "pixel_auroc": Metric("pixel\nAUROC", _auroc),
    "pixel_ap": Metric("pixel\nAP", _average_precision),
    "pixel_aupro": Metric("pixel\nAUPRO", _aupro),
}
METRICS: Final[Mapping[str, Metric]] = {**IMAGE_METRICS, **PIXEL_METRICS}
"""Every metric by its name, in the order in which a report and a table show them."""


def _component_sizes(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Find the size of the 8-connected component of each pixel of ``mask[mask]``, and the number of components."""
    from skimage.measure import label  # slow to import, and only needed where there is an anomaly

    named: tuple[NDArray[np.intp], int] = label(  # type: ignore[no-untyped-call]
        mask, return_num=True, connectivity=2
    )
    names, components = named
    sizes = np.bincount(names.ravel()).astype(np.int32)
    return sizes[names[mask]], components


class _Growing:
    """Floats appended to one array that is enlarged in place, since joining a list of chunks would hold them twice."""

    def __init__(self) -> None:
        self._room = np.empty(0, dtype=np.float32)
        self._used = 0

    def append(self, values: NDArray[np.float32]) -> None:
        end = self._used + len(values)
        if end > len(self._room):
            # An eighth to spare, so that many small batches are not copied each time. No view outlives compute.
            self._room.resize(end + end // 8, refcheck=False)
        self._room[self._used : end] = values
        self._used = end

    @property
    def values(self) -> NDArray[np.float32]:
        return self._room[: self._used]


def _require_finite(values: Scores, where: str, what: str, first: int = 0) -> None:
    """Raise UserError, naming the first image (counted from 1) with a value that is inf or nan."""
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argwhere(~finite)[0][0])
        found = values[index][~finite[index]].ravel()[0] if values.ndim > 1 else values[index]
        raise UserError(
            f"{where}: expected finite scores, found {found} in {what} of image {first + index + 1}: "
            "look for inf or nan in its features"
        )
