"""Exact ranking metrics on raw scores: every distinct score is a threshold, nothing is binned or rescaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
PART = 2**18
"""Number of anomalous pixels that are ranked at a time, for which some 100 bytes each are needed."""


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
    ranking = _rank([np.sort(scores[~anomalous])], np.sort(scores[anomalous]))
    return {name: metric.function(ranking) for name, metric in IMAGE_METRICS.items()}


_MIXED: Final = "pixels are known by their image before compute(), which sorts them, and not after it"


class PixelMetrics:
    """Metrics over the pixels of all test images together, which are added batch by batch.

    Every pixel's score is kept, because exact metrics need them all: 4 to 4.5 bytes per normal pixel and 8 per
    anomalous one. ``counts`` sorts the normal ones of each image in place, and ``compute`` those of each kind, where
    its images were added one after the other; it needs some 20 bytes more for each anomalous one, and for each of the
    kind that is ranked meanwhile. More images can be added after it.
    """

    def __init__(self) -> None:
        self._normal = _Growing()
        self._normal_pixels: list[int] = []
        """Of each image, how many of the values in ``_normal`` are its own, as long as those are not sorted."""
        self._sorted = False
        self._anomalous: list[NDArray[np.float32]] = []
        self._sizes: list[NDArray[np.int32]] = []
        self._components: list[int] = []

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
        _require_finite(maps, "pixel metrics", "the map", first=len(self._components))
        for scores, mask in zip(maps, masks, strict=True):
            anomalous = bool(mask.any())
            sizes, components = _component_sizes(mask) if anomalous else (np.zeros(0, np.int32), 0)
            self._normal.append(scores[~mask] if anomalous else scores.ravel())  # (normal pixels,)
            self._normal_pixels.append(mask.size - len(sizes))
            self._anomalous.append(scores[mask] if anomalous else np.zeros(0, np.float32))
            self._sizes.append(sizes)
            self._components.append(components)

    def compute(self) -> dict[str, float | None]:
        """Compute ROC AUC, average precision and PRO; each is ``None`` where normal or anomalous pixels are missing."""
        return self.compute_by_kind([""] * len(self._components))[0]

    def compute_by_kind(
        self, kinds: Sequence[str]
    ) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
        """Compute the metrics of all images, and for each kind those of its images and the normal ones.

        The normal pixels are sorted once for all of them, kind by kind: ranks among several sorted arrays add up.

        Args:
            kinds: (images,) kind of each anomalous image, in the order in which they were added; empty for normal ones.

        Raises:
            RuntimeError: there are kinds, and metrics were computed before.
        """
        several = sorted({kind for kind in kinds if kind})
        if several and self._sorted:
            raise RuntimeError(_MIXED)
        numbers = {kind: [at for at, own in enumerate(kinds) if own == kind] for kind in ("", *several)}
        normal = {kind: self._normal_of(at) for kind, at in numbers.items()}
        self._sorted = True
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(np.ndarray.sort, normal.values()))
            whole = threads.submit(self._metrics, list(normal.values()), range(len(kinds)))
            found = {
                kind: threads.submit(self._metrics, [normal[""], normal[kind]], (*numbers[""], *numbers[kind]))
                for kind in several
            }
        return whole.result(), {kind: one.result() for kind, one in found.items()}

    def _normal_of(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """The normal pixels of the images of these numbers: a view where they are one after the other, else a copy."""
        if numbers and numbers[-1] - numbers[0] + 1 == len(numbers):
            start = sum(self._normal_pixels[: numbers[0]])
            return self._normal.values[start : start + sum(self._normal_pixels[numbers[0] : numbers[-1] + 1])]
        each = list(self._normal_of_each())
        return np.concatenate([np.zeros(0, np.float32), *(each[number] for number in numbers)])

    def _metrics(self, normal: Sequence[Scores], numbers: Sequence[int]) -> dict[str, float | None]:
        """The metrics of the images of these numbers, whose normal pixels are those of some sorted arrays."""
        components = sum(self._components[number] for number in numbers)
        if not sum(map(len, normal)) or not components:
            return dict.fromkeys(PIXEL_METRICS)
        anomalous = np.concatenate([self._anomalous[number] for number in numbers])
        sizes = np.concatenate([self._sizes[number] for number in numbers])
        order = np.argsort(anomalous, kind="stable")
        ranked = anomalous[order]
        found = dict.fromkeys(PIXEL_METRICS, 0.0)
        for first in range(0, len(order), PART):
            part = slice(first, first + PART)
            weights = 1 / (sizes[order[part]] * np.float64(components))
            ranking = _PixelRanking(**vars(_rank(normal, ranked, part)), weights=weights)
            found = {name: one + PIXEL_METRICS[name].function(ranking) for name, one in found.items()}
        return {name: min(one, 1.0) for name, one in found.items()}  # which rounding alone could exceed

    def counts(self) -> PixelCounts | None:
        """Count the pixels of each image at some thresholds; None where either side is missing.

        It is asked once: of pixels that it has sorted, other thresholds would be chosen.

        Raises:
            RuntimeError: ``compute`` was called before.
        """
        normal = self._normal.values
        if not len(normal) or not sum(self._components):
            return None
        thresholds = _thresholds(normal, np.concatenate(self._anomalous))
        normal_counts, anomalous, shares = np.empty((3, len(self._components), len(thresholds) + 1))

        def count(number: int, values: NDArray[np.float32]) -> None:
            own, sizes = self._anomalous[number], self._sizes[number]
            values.sort()  # in a third of the time that it takes to find each of them among the thresholds
            below = np.searchsorted(values, thresholds, side="left")
            normal_counts[number] = len(values) - np.concatenate([[0], below])
            anomalous[number] = _at_or_above(own, thresholds)
            shares[number] = _at_or_above(own, thresholds, 1 / np.maximum(sizes, 1))

        with ThreadPoolExecutor(2) as threads:  # NumPy lets others work while it sorts and searches
            list(threads.map(count, range(len(self._components)), self._normal_of_each()))
        return PixelCounts(thresholds, normal_counts, anomalous, shares, np.array(self._components, np.float64))

    def _normal_of_each(self) -> Iterator[NDArray[np.float32]]:
        if self._sorted:
            raise RuntimeError(_MIXED)
        ends = np.cumsum(self._normal_pixels)
        yield from np.split(self._normal.values, ends[:-1])


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """How many pixels of each of n images lie at or above each of t thresholds, which rise, and below all of them.

    What is needed of the pixels to compute metrics where images count several times or not at all. Column 0 has all.
    """

    thresholds: NDArray[np.floating[Any]]
    """(t,) ascending."""
    normal: NDArray[np.float64]
    """(n, t + 1) normal pixels."""
    anomalous: NDArray[np.float64]
    """(n, t + 1) anomalous pixels."""
    shares: NDArray[np.float64]
    """(n, t + 1) the sum over the image's components of the share of each."""
    components: NDArray[np.float64]
    """(n,) components."""

    def pro_curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The PRO curve of all images: at each of ``thresholds``, what lies at or above it.

        Returns:
            (t,) the false-positive rate of pixels and (t,) the mean share of each component that is found.
        """
        normal, shares = self.normal.sum(0), self.shares.sum(0)
        return normal[1:] / normal[0], shares[1:] / self.components.sum()

    def metrics(self, times: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Compute the pixel metrics by these thresholds, of images that count ``times`` (r, n) each.

        Returns:
            Metric → (r,) its values; nan where normal or anomalous pixels are missing. With a thousand thresholds they
            differ from exact ones in the fourth decimal or so.
        """
        # From the highest threshold down, with a column of nothing before: curves begin at 0.
        normal, anomalous, shares = (
            np.concatenate([np.zeros((len(times), 1)), (times @ one)[:, ::-1]], 1)
            for one in (self.normal, self.anomalous, self.shares)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            alarms, found = normal / normal[:, -1:], anomalous / anomalous[:, -1:]
            regions = shares / (times @ self.components)[:, None]
            precision = np.nan_to_num(anomalous / (anomalous + normal))
            auroc = _area(alarms, found)
            ap = (np.diff(found, axis=1) * precision[:, 1:]).sum(1)
            aupro = _area(alarms, regions, PRO_LIMIT) / PRO_LIMIT
        ap[normal[:, -1] == 0] = np.nan
        return {"pixel_auroc": auroc, "pixel_ap": ap, "pixel_aupro": aupro}


def _thresholds(normal: Scores, anomalous: Scores) -> Scores:
    """Choose a thousand scores, where either side has its own, densely at the highest of the normal ones."""
    every = normal[:: max(len(normal) // 1_000_000, 1)]
    levels = np.concatenate([np.linspace(0, 1, 300), 1 - np.geomspace(1e-6, PRO_LIMIT, 300)])
    return np.unique(
        np.concatenate([np.quantile(every, levels), np.quantile(anomalous, np.linspace(0, 1, 400))]).astype(np.float32)
    )


def _at_or_above(values: Scores, thresholds: Scores, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(t + 1,) the weight of all ``values``, and of those at or above each threshold."""
    passed = np.searchsorted(thresholds, values, side="right")
    weight = np.bincount(passed, weights, minlength=len(thresholds) + 1)
    return np.asarray(np.cumsum(weight[::-1])[::-1], np.float64)


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float = 1.0) -> NDArray[np.float64]:
    """(r,) the areas under curves of straight pieces (r, t), whose x rise from 0, up to x = ``limit``."""
    left, right = np.minimum(x[:, :-1], limit), np.minimum(x[:, 1:], limit)
    step = np.diff(x, axis=1)
    slope = np.divide(np.diff(y, axis=1), step, out=np.zeros_like(step), where=step > 0)
    mean = y[:, :-1] + slope * ((left + right) / 2 - x[:, :-1])
    return np.asarray(((right - left) * mean).sum(1), np.float64)


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
    """What the score of each of p positives, taken as the threshold, would find; positives in ascending order.

    No metric here changes at a threshold that is a negative's score alone, so the positives' are enough. Where the p
    are a part of all positives, the metrics that are means give the part's share of them: those of all parts add up.
    """

    found: Counts
    """(p,) number of all positives that score at least as high as each of these."""
    alarms: Counts
    """(p,) number of negatives that score at least as high."""
    alarms_above: Counts
    """(p,) number of negatives that score higher."""
    negatives: int
    """Number of all negatives."""
    positives: int
    """Number of all positives."""


@dataclass(frozen=True)
class _PixelRanking(_Ranking):
    """A ranking of pixels that also says how much each anomalous one counts for its connected component."""

    weights: NDArray[np.float64]
    """(p,) 1 / (size of the pixel's component · components); the sum of those of all pixels is 1."""


def _rank(negatives: Sequence[Scores], positives: Scores, part: slice = slice(None)) -> _Ranking:
    """Rank a part of the positives; all arrays are sorted in ascending order, and neither side is empty."""
    ranked = positives[part]
    below, upto = np.zeros((2, len(ranked)), np.int64)
    for some in negatives:
        lower = np.searchsorted(some, ranked, side="left")
        below += lower
        upto += lower
        within = np.flatnonzero(lower < len(some))
        tied = within[some[lower[within]] == ranked[within]]
        upto[tied] += np.searchsorted(some, ranked[tied], side="right") - lower[tied]
    count = sum(map(len, negatives))
    return _Ranking(
        found=len(positives) - np.searchsorted(positives, ranked, side="left"),
        alarms=count - below,
        alarms_above=count - upto,
        negatives=count,
        positives=len(positives),
    )


def _auroc(ranking: _Ranking) -> float:
    """The share of (positive, negative) pairs in the right order; a tie counts half."""
    wrong = int(ranking.alarms.sum()) + int(ranking.alarms_above.sum())
    return (2 * len(ranking.found) * ranking.negatives - wrong) / (2 * ranking.positives * ranking.negatives)


def _average_precision(ranking: _Ranking) -> float:
    """Average precision, Σ (recall gained at a threshold) · (precision there); a positive gains 1/p at its score."""
    return float(np.sum(ranking.found / (ranking.found + ranking.alarms))) / ranking.positives


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
    return float(ranking.weights @ reached) / PRO_LIMIT


class Metric(NamedTuple):
    """A metric's title and the function that computes it."""

    title: str
    """The head of its column in a table, as the field writes it."""
    meaning: str
    """What it is a measure of, as a sentence for who reads a report."""
    function: Callable[[Any], float]
    """Takes the ranking: a ``_Ranking`` of images, or a ``_PixelRanking``."""


IMAGE_METRICS: Final[Mapping[str, Metric]] = {
    "image_auroc": Metric(
        "image\nAUROC", "How often an anomalous image scores higher than a normal one; chance is 0.5.", _auroc
    ),
    "image_ap": Metric(
        "image\nAP", "The precision of what is called anomalous, averaged over all recalls.", _average_precision
    ),
    "image_f1max": Metric(
        "image\nF1-max", "The best balance of precision and recall that any threshold reaches on these images.", _f1max
    ),
    "image_fpr95": Metric(
        "image\nFPR95", "The share of normal images called anomalous where 95% of the others are found.", _fpr95
    ),
}
PIXEL_METRICS: Final[Mapping[str, Metric]] = {
    "pixel_auroc": Metric(
        "pixel\nAUROC", "How often an anomalous pixel has a higher value than a normal one; chance is 0.5.", _auroc
    ),
    "pixel_ap": Metric(
        "pixel\nAP", "The precision among the pixels called anomalous, averaged over all recalls.", _average_precision
    ),
    "pixel_aupro": Metric(
        "pixel\nAUPRO",
        "How much of each defect is found, large or small, at up to 30% false alarms of pixels.",
        _aupro,
    ),
}
"""Means over anomalous pixels, so that the shares of parts of these add up."""
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
