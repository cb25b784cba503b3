"""Conformal thresholds: from which score on an image counts as anomalous, at a stated rate of false alarms.

Everything here rests on one assumption: the held-out normal images and the normal images to come are
exchangeable, and the held-out ones were used for nothing else. Scores from folds (cross-conformal) meet it only
roughly: each comes from the members that had not seen the image, while a new image is scored by the mean of all.
No theorem covers that exactly; the closest, for comparisons fold by fold, promises twice the rate (Barber et al.,
Predictive inference with the jackknife+, Annals of Statistics 2021). ``docs/results.md`` has the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adkit.errors import UserError

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Threshold:
    """A threshold on raw scores: an image is anomalous where its score is above ``value``."""

    value: float
    calibration: int
    """Number m of held-out normal images that it was computed from."""
    asked: float
    """The false-alarm rate α that was asked for."""
    supported: float
    """The false-alarm rate that it keeps: j / (m + 1) for the largest whole j that is at most α·(m + 1), and
    1 / (m + 1), which is above ``asked``, where m is too small for α."""

    @property
    def kept(self) -> bool:
        """Whether there were enough held-out images for the rate asked for."""
        return self.supported <= self.asked


def conformal(scores: Scores, false_positive_rate: float) -> Threshold:
    """Compute the split-conformal threshold: the ⌈(m + 1)(1 − α)⌉-th smallest of m held-out normal scores.

    Of the normal images to come, a share of at most ``supported`` scores higher on average over held-out
    sets, and exactly that share where no two scores tie. With fewer than 1/α − 1 scores it is the largest.

    Args:
        scores: (m,) raw scores of the held-out normal images.
        false_positive_rate: the rate of false alarms to allow, α in (0, 1).

    Raises:
        UserError: no scores, a score that is not finite, or a rate outside (0, 1).
    """
    held_out = _checked(scores, "the threshold")
    if not 0 < false_positive_rate < 1:
        raise UserError(
            f"threshold.false_positive_rate: expected a number between 0 and 1, both excluded, found "
            f"{false_positive_rate}: 0.05 lets one normal image in twenty raise a false alarm"
        )
    m = len(held_out)
    # As the decimal that was asked for: in floats, ⌊100 · 0.29⌋ is 28.
    alpha = Fraction(repr(float(false_positive_rate)))
    above = max(int((m + 1) * alpha), 1)  # ⌈(m + 1)(1 − α)⌉ = m + 1 − ⌊(m + 1)α⌋
    value = float(np.partition(held_out, m - above)[m - above])
    return Threshold(value, calibration=m, asked=float(false_positive_rate), supported=above / (m + 1))


def p_values(scores: Scores, calibration: Scores) -> NDArray[np.float64]:
    """Compute the conformal p-value of each score: (1 + held-out scores at least as high) / (m + 1).

    Args:
        scores: (n,) raw scores.
        calibration: (m,) raw scores of the held-out normal images.

    Returns:
        (n,) float64 in [1 / (m + 1), 1].

    Raises:
        UserError: no calibration scores, or a score that is not finite.
    """
    held_out = np.sort(_checked(calibration, "p-values"))
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise UserError(
            f"p-values: expected finite scores, found {scores[~np.isfinite(scores)][0]}: "
            "look for inf or nan in the features"
        )
    m = len(held_out)
    at_least = m - np.searchsorted(held_out, scores, side="left")  # (n,)
    return np.asarray((1 + at_least) / (m + 1), dtype=np.float64)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a share counted as ``successes`` out of ``n``; (0, 1) where n is 0.

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
