"""Near copies: held-out normal images of which a training image shows the same part, found by their features alone.

A part that was photographed several times, overlapping frames of a web and neighboring frames of a film make a
random split leak: what is held out was, nearly, trained on. ``find_near_copies`` says whether that is so,
``suggest_group`` which value of ``[data] group`` would keep such images together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from adkit.data.suggested_group import SuggestedGroup, suggest_group
from adkit.utils.text import counted, some, toml_value

Floats = npt.NDArray[np.float64]

SMALLEST: Final = 40
"""Images below which nothing is said: too few to tell what distance is usual."""
FEWEST_HELD_OUT: Final = 5
COMPONENTS: Final = 64
"""Principal components that distances are measured in, at most; no more than half as many as there are images."""
SCALES: Final = (8, 20, 50, 100)
"""Ranks K of the neighbor that the nearest one is compared with, tried in turn: groups must be smaller than one."""
LEVELS: Final = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
"""Chances at which images are counted."""
LISTED: Final = 1e-3
"""The chance below which a pair is listed, at least, once there are near copies at all."""
SIGNIFICANCE: Final = 0.01
"""The chance of a false alarm on data whose share of chance neighbors is as large as ``tolerated`` says."""


@dataclass(frozen=True, slots=True)
class NearPair:
    """A held-out image and the training image that is much closer to it than others are."""

    held_out: str
    training: str
    ratio: float
    """Its distance over that to the K-th nearest training image; 0: no difference at all, 1: nothing special."""
    chance: float
    """How probable so near a neighbor is among independent images of the same local dimension."""


@dataclass(frozen=True)
class NearCopies:
    """The finding that held-out images have near copies among the training images."""

    pairs: tuple[NearPair, ...]
    """The pairs of held-out and training images, the most suspicious first."""
    alike: tuple[tuple[str, str], ...]
    """All pairs of images that are suspiciously near, of either side, to choose a group by; most suspicious first."""
    held_out: int
    """The number of held-out images that were looked at."""
    suggestion: SuggestedGroup | None
    """The value of ``[data] group`` that would keep these copies together; None where no tried one does."""


class NearCopyCollector:
    """A collector of pooled features that pass by in a run, of at most so many images of each side.

    The first images are kept, in the order in which they come. That is mostly the order of their ids, by which a part's
    images are kept or left out together; a random choice would tear them apart.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        """
        Args:
            most: name of each side, of which ``training`` is one, and the number of its images that are kept.
        """
        self._most = dict(most)
        self._rows: dict[str, dict[str, npt.NDArray[np.float32]]] = {side: {} for side in most}

    def wants(self, side: str, id: str) -> bool:
        """Whether an image is new to the side and there is room for it."""
        return len(self._rows[side]) < self._most[side] and id not in self._rows[side]

    def add(self, side: str, ids: Sequence[str], pooled: npt.NDArray[np.floating]) -> None:
        """Take the images of a batch that are wanted, with their features (b, c)."""
        for id, row in zip(ids, pooled, strict=True):
            if self.wants(side, id):
                self._rows[side][id] = np.array(row, dtype=np.float32)

    def find(self, side: str) -> NearCopies | None:
        """Look for near copies of training images on another side; see ``find_near_copies``."""
        training, held_out = self._rows["training"], self._rows[side]
        if not training or not held_out:
            return None
        return find_near_copies(
            [*training], np.stack([*training.values()]), [*held_out], np.stack([*held_out.values()])
        )


def find_near_copies(
    training_ids: Sequence[str],
    training: npt.NDArray[np.floating],
    held_out_ids: Sequence[str],
    held_out: npt.NDArray[np.floating],
) -> NearCopies | None:
    """Say whether held-out images have near copies among the training images, and which; None: no sign of it.

    1. Distances are measured on whitened principal components of all images, where what most images share (lighting,
       say) weighs no more than the rest (Jégou and Chum, ECCV 2012, who match images of one object so).
    2. Around an image, independent points of local dimension d have (r₁ / r_K)^d distributed as the least of K − 1
       uniforms, where r_j is the distance to the j-th nearest. So near a neighbor has the chance
       1 − (1 − (r₁ / r_K)^d)^(K − 1), whatever the size of groups, as long as it is below K. The gaps
       j · log(r_{j + 1} / r_j) are independent with mean 1 / d (Rényi 1953; Levina and Bickel, NeurIPS 2004), and 1 / d
       is half the mean of those from K to 3K, which near copies do not touch, and half the median of these means.
       Each K of ``SCALES`` up to a sixth of the images is tried.
    3. Images whose chance is at most 10^-1, …, 10^-8 are counted. Photographs are no uniform cloud: some are alike by
       chance. So the share that is ``tolerated`` at each level is above the level itself. The counts are compared with
       it by binomial tests at a total of ``SIGNIFICANCE``, whose sum over few levels stands for higher criticism
       (Donoho and Jin 2004). Near neighbors come in twos, so two images count as one.
    4. What is found could be groups on one side of a split that keeps them together. So at least half as many of
       the near pairs must lie across the split as would if it were random.

    The constants were fixed on development data; ``benchmarks/near_copies.py`` says which, and measures on the rest.
    Images of equal features on one side count once.

    Args:
        training_ids: names of the m training images.
        training: their pooled features (m, c).
        held_out_ids: names of the k held-out normal images.
        held_out: their pooled features (k, c).

    Returns:
        None also where there are fewer than ``SMALLEST`` images, or fewer than ``FEWEST_HELD_OUT`` held out.
    """
    kept, kept_held_out = _distinct(training), _distinct(held_out)
    m, k = len(kept), len(kept_held_out)
    if m + k < SMALLEST or m < SMALLEST // 2 or k < FEWEST_HELD_OUT:
        return None
    ids = [*(training_ids[row] for row in kept), *(held_out_ids[row] for row in kept_held_out)]
    points = whitened(np.concatenate([training[kept], held_out[kept_held_out]]).astype(np.float64))
    everyone = neighbors(points, points, itself=True)
    noticed = _noticed(everyone)
    if noticed is None:
        return None
    scale, level = noticed
    chances = everyone.chances(scale)
    near = chances <= level
    across = near & ((np.arange(m + k) < m) != (everyone.nearest < m))
    if across.sum() < near.sum() * m * k / ((m + k) * (m + k - 1)):
        return None
    sides = neighbors(points[m:], points[:m], itself=False)
    chances_held_out, ratios = sides.chances(scale), sides.ratios(scale)
    pairs = tuple(
        NearPair(ids[m + row], ids[sides.nearest[row]], float(ratios[row]), float(chances_held_out[row]))
        for row in np.lexsort((ratios, chances_held_out))
        if chances_held_out[row] <= max(level, LISTED)
    )
    if not pairs:
        return None
    alike = dict.fromkeys(
        (ids[min(row, everyone.nearest[row])], ids[max(row, everyone.nearest[row])])
        for row in np.argsort(chances, kind="stable")
        if near[row]
    )
    return NearCopies(pairs, tuple(alike), k, suggest_group([*training_ids, *held_out_ids], [*alike]))


def near_copies_warning(name: str, side: str, found: NearCopies, sheet: str) -> str:
    """The sentence on held-out images that have a near copy among the training images.

    Args:
        name: the category.
        side: what the held-out images are for: ``calibration`` or ``test``.
        sheet: where pairs are shown.
    """
    count = len(found.pairs)
    pairs = some([f"{pair.held_out} ~ {pair.training}" for pair in found.pairs], 3)
    if found.suggestion is None:
        advice = "name the part of each image by [data] group (no expression or folder that was tried tells them apart)"
    else:
        put = f"{found.suggestion.together:.0%} of the surest near copies"
        groups = counted(found.suggestion.groups, "group")
        advice = f"set [data] group = {toml_value(found.suggestion.group)}, which puts {put} together, in {groups}"
    harm = "scores will be worse than reported" if side == "test" else "more false alarms will be raised than promised"
    return (
        f"{name}: expected {side} images of other parts than the training images, found {count:,} of "
        f"{found.held_out:,} normal ones with a training image much closer than others ({pairs}; look at {sheet}): if "
        f"they show the same parts, {harm} on new parts: {advice}"
    )


def tolerated(level: float) -> float:
    """The share of images of clean data whose nearest neighbor may be as near as has this chance.

    Above ``level`` itself, as images are no uniform cloud: an envelope of what development data without copies showed.
    """
    return min(1.0, 0.6 * math.pow(level, 0.35))


def whitened(features: Floats) -> Floats:
    """Project n features (n, c) onto their first principal components, each scaled to variance 1.

    Returns:
        (n, q) with q = min(``COMPONENTS``, n / 2, the rank).
    """
    centered = features - features.mean(axis=0)
    n, c = centered.shape
    gram = centered @ centered.T if n < c else centered.T @ centered
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > values[0] * 1e-10).sum()) if values[0] > 0 else 0
    q = min(COMPONENTS, n // 2, rank)
    if n < c:
        return np.ascontiguousarray(vectors[:, :q]) * math.sqrt(n)
    components: Floats = centered @ (vectors[:, :q] / np.sqrt(values[:q] / n))
    return components


@dataclass(frozen=True)
class Neighbors:
    """The nearest points of each query, and how far away they are."""

    nearest: npt.NDArray[np.intp]
    """The number of the nearest point (k,)."""
    logs: Floats
    """Logarithms of the distances to the nearest points, the nearest first (k, j)."""

    def ratios(self, scale: int) -> Floats:
        """The distance to the nearest point over that to the ``scale``-th nearest (k,), from 0 to 1."""
        ratios: Floats = np.exp(self.logs[:, 0] - self.logs[:, self._near(scale) - 1])
        return ratios

    def chances(self, scale: int) -> Floats:
        """How probable so near a nearest point is, compared with the ``scale``-th nearest (k,)."""
        near = self._near(scale)
        logs = self.logs[:, : 3 * near]
        gaps: Floats = np.arange(near, logs.shape[1]) * (logs[:, near:] - logs[:, near - 1 : -1])
        inverse = gaps.mean(axis=1)
        inverse = np.maximum((inverse + np.median(inverse)) / 2, 1e-9)
        within = np.exp((logs[:, 0] - logs[:, near - 1]) / inverse)
        chances: Floats = -np.expm1((near - 1) * np.log1p(-np.minimum(within, 1 - 1e-15)))
        return chances

    def _near(self, scale: int) -> int:
        """The rank itself, or a third of the neighbors where there are too few."""
        return min(scale, max(2, int(self.logs.shape[1]) // 3))


def neighbors(queries: Floats, points: Floats, *, itself: bool) -> Neighbors:
    """Find the nearest points of each query.

    Args:
        queries: (k, q).
        points: (m, q), at least 3.
        itself: whether the queries are the points, each of which is left out of its own neighbors.
    """
    count = min(3 * SCALES[-1], len(points) - itself)
    squares = (points**2).sum(axis=1)
    nearest, distances = [], []
    for first in range(0, len(queries), 512):
        rows = queries[first : first + 512]
        squared = np.maximum((rows**2).sum(axis=1)[:, None] + squares - 2 * rows @ points.T, 0)
        if itself:
            squared[np.arange(len(rows)), first + np.arange(len(rows))] = np.inf
        nearest.append(squared.argmin(axis=1))
        distances.append(np.sqrt(np.sort(np.partition(squared, count - 1, axis=1)[:, :count], axis=1)))
    return Neighbors(np.concatenate(nearest), np.log(np.maximum(np.concatenate(distances), np.finfo(np.float64).tiny)))


def _noticed(everyone: Neighbors) -> tuple[int, float] | None:
    """The scale and level at which most images are nearer than is tolerated, where that is significant."""
    images = len(everyone.nearest)
    scales = [scale for scale in SCALES if scale == SCALES[0] or scale <= images / 6]
    tails = {}
    for scale in scales:
        chances = everyone.chances(scale)
        for level in LEVELS:
            count = int((chances <= level).sum())
            tails[scale, level] = _log_binomial_tail(count // 2, images // 2, tolerated(level))
    best = min(tails, key=tails.__getitem__)
    return best if tails[best] <= math.log(SIGNIFICANCE / len(tails)) else None


def _log_binomial_tail(successes: int, trials: int, probability: float) -> float:
    """The logarithm of the chance of at least so many successes."""
    if successes <= 0:
        return 0.0
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
        for count in range(successes, trials + 1)
    ]
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


def _distinct(features: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """The rows that equal none before them, in order."""
    return np.sort(np.unique(features, axis=0, return_index=True)[1])
