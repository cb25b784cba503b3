"""Conformal thresholds: from which score on an image counts as anomalous, at a stated rate of false alarms.

Images of one part (a tile photographed six times) are alike, so what is exchangeable is parts and not images: the
held-out parts and the parts to come, of which the held-out ones were used for nothing else. The promise is about those:
**of a new part, one image drawn at random is called anomalous with a chance of at most α** or, where a part is called
when any of its images is, **a new part is called anomalous with a chance of at most α**. Where no groups are named each
image is a part of its own.

One rule carries every method. Of G groups, each of the n images of a group weighs 1 / ((G + 1) · n), and a weight of
1 / (G + 1) lies at infinity, for the new group itself. A score's p-value is the weight at or above it. What the methods
differ in is the scores they give to this rule:

- ``split``: one image drawn from each group: G exchangeable scores, ordinary split conformal, exact (single
  subsampling: Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer hierarchical models, arXiv
  1809.07441).
- ``hierarchical``: every image with its group: guaranteed, and conservative where there are few groups (Lee, Barber and
  Willett, Distribution-free inference with hierarchical data, arXiv 2306.06342).
- ``pooled``: every image as a group of its own, as if images of one part were not alike: approximate.
- ``cross``: the same with scores from folds, none of which separates a group (cross-conformal): approximate, too. Each
  score comes from the members that had not seen the image's group, while a new image is scored by the mean of all. No
  theorem covers that exactly; the closest, for comparisons fold by fold, promises twice the rate (Barber et al.,
  Predictive inference with the jackknife+, Annals of Statistics 2021).
- per part: the highest score of each group: G exchangeable scores, exact.

``docs/results.md`` has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import lcm, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adkit.errors import UserError
from adkit.utils.text import counted

Scores = NDArray[np.floating[Any]]
Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Threshold:
    """A threshold on raw scores: an image is anomalous where its score is above ``value``."""

    value: float
    groups: int
    """Number G of groups among the held-out normal images; without groups, the number of images."""
    asked: float | None
    """The false-alarm rate α that was asked for; None where the value was set by hand."""
    supported: float | None
    """The false-alarm rate that it keeps: j / (G + 1) for the largest whole j that is at most α·(G + 1); α where
    groups weigh in with several images; and ``smallest``, which is above ``asked``, where G is too small for α.

    Of a value set by hand, which keeps none, the rate that the held-out images let expect; None where there are none.
    """

    @property
    def smallest(self) -> float:
        """The smallest false-alarm rate that G groups support, 1 / (G + 1)."""
        return 1 / (self.groups + 1)

    @property
    def kept(self) -> bool:
        """Whether there were enough held-out groups for the rate asked for; False where none was."""
        return self.asked is not None and self.supported is not None and self.supported <= self.asked


def alike(scores: Scores) -> bool:
    """Whether several scores are all the same: what cannot tell images apart has no threshold."""
    return len(scores) > 1 and float(np.ptp(scores)) == 0


def conformal(scores: Scores, false_positive_rate: float, groups: Groups | None = None) -> Threshold:
    """Compute the conformal threshold: the smallest score above which at most α of the weight lies.

    Without groups that is split conformal: the ⌈(m + 1)(1 − α)⌉-th smallest of m scores. Of the normal images to come,
    a share of at most ``supported`` scores higher on average over held-out sets, and exactly that share where no two
    scores tie. With fewer than 1/α − 1 groups it is the largest.

    Args:
        scores: (m,) raw scores of the held-out normal images.
        false_positive_rate: the rate of false alarms to allow, α in (0, 1).
        groups: (m,) equal numbers for images of one group; None: each image is its own.

    Raises:
        UserError: no scores, a score that is not finite, or a rate outside (0, 1).
    """
    held_out = _checked(scores, "the threshold")
    if not 0 < false_positive_rate < 1:
        raise UserError(
            f"threshold.false_positive_rate: expected a number between 0 and 1, both excluded, found "
            f"{false_positive_rate}: 0.05 lets one normal image in twenty raise a false alarm"
        )
    weighed = _weighed(held_out, groups)
    # As the decimal that was asked for: in floats, ⌊100 · 0.29⌋ is 28.
    alpha = Fraction(repr(float(false_positive_rate)))
    allowed = int(alpha * weighed.total)
    # above[i] is the weight of all that is higher than scores[i], which falls as i rises.
    above = [weighed.at_least[end] for end in np.searchsorted(weighed.scores, weighed.scores, side="right")]
    value = next((float(s) for s, w in zip(weighed.scores, above, strict=True) if w <= allowed), None)
    count = weighed.groups
    if value is None:
        return Threshold(float(weighed.scores[-1]), count, float(false_positive_rate), 1 / (count + 1))
    supported = int(alpha * (count + 1)) / (count + 1) if count == len(held_out) else float(false_positive_rate)
    return Threshold(value, count, float(false_positive_rate), supported)


def by_hand(value: float, scores: Scores, groups: Groups | None = None) -> Threshold:
    """The threshold ``value``, which somebody set, with the rate of false alarms that held-out images let expect.

    Of m of them without groups, that is (1 + those above) / (m + 1): more than was seen, since m images say little.

    Args:
        scores: (m,) raw scores of the held-out normal images; none will do.
        groups: (m,) equal numbers for images of one group; None: each is its own.

    Raises:
        UserError: a score that is not finite.
    """
    if not len(scores):
        return Threshold(value, 0, None, None)
    weighed = _weighed(_checked(scores, "the threshold"), groups)
    # In the precision of scores, as they are compared with it.
    above = np.searchsorted(weighed.scores, np.asarray(value, weighed.scores.dtype), side="right")
    return Threshold(value, weighed.groups, None, weighed.at_least[int(above)] / weighed.total)


def promise(
    threshold: Threshold,
    per: Literal["image", "part"],
    *,
    approximate: bool = False,
    grouped: bool = False,
    pixel: bool = False,
) -> str:
    """What a threshold promises, as a sentence.

    Args:
        per: what is promised few false alarms: an image drawn from a new part, or a new part as a whole.
        approximate: whether no theorem covers it.
        grouped: whether the data says which images show one part; otherwise each image is a part of its own.
        pixel: whether the threshold is one on the values of maps.
    """
    subject = "of a new normal part, one image drawn at random" if grouped else "a new normal image"
    if per == "part":
        subject = "a new normal part"
    called = "has a pixel that is called anomalous" if pixel else "is called anomalous"
    if threshold.asked is None or threshold.supported is None:
        found = "there are no calibration images to say how often that is"
        if threshold.supported is not None:
            scores = counted(threshold.groups, "calibration group" if grouped else "calibration score")
            found = f"by {scores}, expect a chance of about {threshold.supported:.3g}"
        who = subject.replace("of a new normal part, one image drawn at random", "one image of a new normal part")
        return f"nothing is promised about how often {who} {called}, for the value was set by hand; {found}"
    rate = max(threshold.supported, threshold.asked)
    return f"{subject} {called} with a chance of {'approximately' if approximate else 'at most'} {rate:.3g}"


def p_values(scores: Scores, calibration: Scores, groups: Groups | None = None) -> NDArray[np.float64]:
    """Compute the conformal p-value of each score: the weight of held-out scores at least as high, and that at
    infinity.

    Without groups that is (1 + held-out scores at least as high) / (m + 1).

    Args:
        scores: (n,) raw scores.
        calibration: (m,) raw scores of the held-out normal images.
        groups: (m,) equal numbers for held-out images of one group; None: each image is its own.

    Returns:
        (n,) float64 in [1 / (G + 1), 1].

    Raises:
        UserError: no calibration scores, or a score that is not finite.
    """
    weighed = _weighed(_checked(calibration, "p-values"), groups)
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise UserError(
            f"p-values: expected finite scores, found {scores[~np.isfinite(scores)][0]}: "
            "look for inf or nan in the features"
        )
    table = np.array([weight / weighed.total for weight in weighed.at_least], np.float64)
    return np.asarray(table[np.searchsorted(weighed.scores, scores, side="left")])


@dataclass(frozen=True)
class _Weighed:
    """Held-out scores in ascending order with whole numbers as weights, in which nothing is rounded."""

    scores: Scores
    at_least: Sequence[int]
    """(m + 1,) the weight of the scores from each one on, with that at infinity, which is the last."""
    total: int
    groups: int


def _weighed(scores: Scores, groups: Groups | None) -> _Weighed:
    sizes = [1] * len(scores)
    count = len(scores)
    if groups is not None:
        _, index, members = np.unique(groups, return_inverse=True, return_counts=True)
        sizes, count = members[index].tolist(), len(members)
    unit = lcm(*set(sizes))  # the weight of a group
    order = np.argsort(scores, kind="stable")
    weights = [unit // sizes[place] for place in order[::-1]]
    at_least = list(accumulate(weights, initial=unit))[::-1]
    return _Weighed(scores[order], at_least, unit * (count + 1), count)


def highest_per_group(scores: Scores, groups: Groups) -> tuple[Scores, Groups]:
    """Find the highest score of each group: what a part is called by when it is called for any of its images.

    Args:
        scores: (m,) raw scores.
        groups: (m,) equal numbers for images of one group.

    Returns:
        (G,) the highest scores and (G,) the numbers of their groups, ascending.
    """
    numbers, index = np.unique(groups, return_inverse=True)
    highest = np.full(len(numbers), -np.inf, scores.dtype)
    np.maximum.at(highest, index, scores)
    return highest, numbers


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a share counted as ``successes`` out of ``n``; (0, 1) where n is 0.

    Where each of the n is a group of which a share counts, ``successes`` is the sum of those shares, and the interval
    is wider than it need be: no share in [0, 1] varies more than one that is always 0 or 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927).

    Raises:
        UserError: a count or the confidence is out of range.
    """
    if not 0 <= successes <= n or not 0 < confidence < 1:
        raise UserError(
            f"wilson interval: expected 0 <= successes <= n and 0 < confidence < 1, found {successes} of {n} "
            f"at confidence {confidence}: check the counts"
        )
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0 and n successes one end is 0 or 1 exactly; rounding must not move it inside or out.
    low = 0.0 if successes == 0 else center - half
    return low, 1.0 if successes == n else center + half


def _checked(scores: Scores, what: str) -> Scores:
    scores = np.asarray(scores)
    if scores.ndim != 1 or not len(scores):
        raise UserError(
            f"{what}: expected at least one score of a held-out normal image, found an array of shape "
            f"{scores.shape}: raise data.calibration, or add normal images"
        )
    if not np.isfinite(scores).all():
        raise UserError(
            f"{what}: expected finite scores of held-out normal images, found "
            f"{scores[~np.isfinite(scores)][0]}: look for inf or nan in their features"
        )
    return scores
