"""The error of a difference of two AUROCs on the same images, without resampling.

Source: DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated Receiver Operating
Characteristic Curves (1988), with the placements by ranks of Sun and Xu (2014).
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Scores = NDArray[np.floating[Any]]


def difference(
    one: Scores, other: Scores, labels: NDArray[np.integer[Any]], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The AUROC of ``one`` less that of ``other``, and the ends of its interval.

    Args:
        one: (n,) scores of a detector.
        other: (n,) scores of another one for the same images.
        labels: (n,) 0 normal, 1 anomalous; at least two of each.
    """
    # Of an anomalous image the share of normal ones below it, and of a normal one the share of anomalous ones above it.
    first, second = _placements(one, labels), _placements(other, labels)
    apart = [ours - theirs for ours, theirs in zip(first, second, strict=True)]
    center = float(apart[0].mean())
    error = sqrt(sum(float(values.var(ddof=1)) / len(values) for values in apart))
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    return center, center - reach, center + reach


def _placements(scores: Scores, labels: NDArray[np.integer[Any]]) -> tuple[Scores, Scores]:
    scores = np.asarray(scores, np.float64)
    anomalous = labels == 1
    ranks = rankdata(scores)
    found = (ranks[anomalous] - rankdata(scores[anomalous])) / (~anomalous).sum()
    spared = 1 - (ranks[~anomalous] - rankdata(scores[~anomalous])) / anomalous.sum()
    return found, spared
