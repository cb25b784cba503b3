"""Conformal thresholds, p-values and Wilson intervals against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from adkit.errors import UserError
from adkit.threshold import Threshold, conformal, p_values, wilson_interval


def test_19_scores_support_one_in_twenty():
    # ⌈20 · 0.95⌉ = 19: the largest of 19.
    scores = np.arange(1.0, 20.0)[::-1]
    assert conformal(scores, 0.05) == Threshold(value=19.0, groups=19, asked=0.05, supported=0.05)


def test_39_scores_spare_two_in_forty():
    # ⌈40 · 0.95⌉ = 38: the second largest of 39.
    assert conformal(np.arange(1.0, 40.0), 0.05).value == 38.0


def test_between_two_ranks_the_rate_is_rounded_down():
    # ⌈31 · 0.9⌉ = 28; 3 of 31 places lie above it.
    threshold = conformal(np.arange(1.0, 31.0), 0.1)
    assert (threshold.value, threshold.supported) == (28.0, 3 / 31)
    assert threshold.kept


def test_too_few_scores_give_the_largest_and_say_what_it_supports():
    threshold = conformal(np.array([3.0, 1.0, 2.0]), 0.05)
    assert (threshold.value, threshold.asked, threshold.supported) == (3.0, 0.05, 0.25)
    assert not threshold.kept


@pytest.mark.parametrize("hundredths", range(1, 100))
def test_no_rank_is_lost_to_rounding(hundredths):
    # 99 scores: exactly `hundredths` of 100 places lie above the (100 - hundredths)-th smallest.
    threshold = conformal(np.arange(1.0, 100.0), hundredths / 100)
    assert threshold.value == 100 - hundredths
    assert threshold.supported == hundredths / 100


@pytest.mark.parametrize(("m", "rate"), [(40, 0.05), (12, 0.2), (5, 0.05)])
def test_coverage_is_what_it_states(m, rate):
    draws = 20_000
    scores = np.random.default_rng(0).normal(size=(draws, m + 1))
    thresholds = [conformal(row[:m], rate) for row in scores]
    alarms = np.mean([row[m] > threshold.value for row, threshold in zip(scores, thresholds, strict=True)])
    stated = thresholds[0].supported
    assert alarms == pytest.approx(stated, abs=4 * math.sqrt(stated * (1 - stated) / draws))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_rates_outside_0_and_1(rate):
    with pytest.raises(UserError, match=r"threshold.false_positive_rate: expected a number between 0 and 1"):
        conformal(np.arange(3.0), rate)


def test_no_scores_to_calibrate_on():
    with pytest.raises(UserError, match="expected at least one score of a held-out normal image"):
        conformal(np.array([]), 0.05)


def test_calibration_scores_that_are_not_finite():
    with pytest.raises(UserError, match="expected finite scores of held-out normal images, found nan"):
        conformal(np.array([0.0, math.nan]), 0.05)


def test_p_values_count_ties_as_at_least_as_high():
    held_out = np.array([3.0, 1.0, 2.0])
    assert p_values(np.array([0.0, 1.0, 2.0, 2.5, 9.0]), held_out).tolist() == [1.0, 1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25])
def test_anomalous_is_where_the_p_value_is_at_most_the_rate(rate):
    rng = np.random.default_rng(0)
    held_out, scores = rng.integers(0, 30, 59).astype(float), rng.integers(0, 40, 200).astype(float)
    anomalous = scores > conformal(held_out, rate).value
    assert np.array_equal(anomalous, p_values(scores, held_out) <= rate)


def test_p_values_of_scores_that_are_not_finite():
    with pytest.raises(UserError, match="p-values: expected finite scores, found inf"):
        p_values(np.array([math.inf]), np.array([1.0]))


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 7), (7, 7), (15, 300), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_equals_scipy(successes, n, confidence):
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0)])
def test_wilson_of_impossible_counts(successes, n, confidence):
    with pytest.raises(UserError, match=f"found {successes} of {n} at confidence {confidence}"):
        wilson_interval(successes, n, confidence)
