"""DeLong's interval: by hand, by its definition over all pairs, and by the error of one AUROC."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from adkit.report.compare.delong import difference


def by_definition(one, other, labels):
    """The difference and its standard error from the kernel of each pair of an anomalous and a normal image."""
    components = []
    for scores in (one, other):
        pairs = scores[labels == 1][:, None] - scores[labels == 0]
        kernel = (pairs > 0) + (pairs == 0) / 2
        components.append((kernel.mean(1), kernel.mean(0)))
    found, spared = (np.stack(sides) for sides in zip(*components, strict=True))
    covariance = np.cov(found) / found.shape[1] + np.cov(spared) / spared.shape[1]
    contrast = np.array([1, -1])
    return contrast @ found.mean(1), np.sqrt(contrast @ covariance @ contrast)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_its_definition_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0] * 13 + [1] * 9)
    one = rng.integers(0, 6, 22) + labels
    other = rng.integers(0, 6, 22) + 2 * labels
    value, low, high = difference(one, other, labels)
    expected, error = by_definition(one, other, labels)
    assert value == pytest.approx(expected)
    assert value == pytest.approx(roc_auc_score(labels, one) - roc_auc_score(labels, other))
    assert (value - low, high - value) == (pytest.approx(1.959964 * error), pytest.approx(1.959964 * error))


def test_by_hand():
    """Both normal images lie below one anomalous one and, for ``other``, above the second one."""
    labels = np.array([0, 0, 1, 1])
    value, low, high = difference(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 3]), labels)
    assert value == 0.5
    # Of the anomalous images the differences are 1 and 0, of variance 1/2 and over 2 images 1/4; of the normal ones ½.
    assert high - low == pytest.approx(2 * 1.959964 * 0.5)


def test_a_run_is_no_better_than_itself():
    labels = np.array([0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.5, 0.4, 0.8, 0.9])
    assert difference(scores, 2 * scores + 1, labels) == (0, 0, 0)


@pytest.mark.slow
def test_it_covers_a_difference_of_nothing_in_19_of_20_samples():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [60, 40])
    covered = 0
    for _ in range(1000):
        part = rng.normal(size=100) + labels
        _, low, high = difference(part + rng.normal(size=100), part + rng.normal(size=100), labels)
        covered += low <= 0 <= high
    assert 925 <= covered <= 975
