"""Conformal thresholds, p-values and Wilson intervals against numbers worked out by hand."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest

from adkit.errors import UserError
from adkit.threshold import Threshold, by_hand, conformal, highest_per_group, p_values, promise, wilson_interval


def test_19_scores_support_one_in_twenty():
    # ⌈20 · 0.95⌉ = 19: the largest of 19.
    scores = np.arange(1.0, 20.0)[::-1]
    threshold = conformal(scores, 0.05)
    assert threshold == Threshold(value=19.0, groups=19, asked=0.05, supported=0.05)
    assert threshold.kept


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


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_calibration_score_that_is_not_finite_is_found_among_others(place, value):
    scores = np.arange(5.0)
    scores[place] = value
    with pytest.raises(UserError, match=f"the threshold: expected finite scores of held-out .* images, found {value}"):
        conformal(scores, 0.05)
    with pytest.raises(UserError, match=f"p-values: expected finite scores of held-out normal images, found {value}"):
        p_values(np.zeros(1), scores)


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
        p_values(np.array([0.0, math.inf, 1.0]), np.array([1.0]))


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (3, 7), (7, 7), (15, 300), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_equals_scipy(successes, n, confidence):
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_is_at_95_percent_unless_said_otherwise():
    # z = 1.959964: the center of 1 of 2 is its share, and half = z / √(2 + z²) / 2 = 0.405469.
    low, high = wilson_interval(1, 2)
    assert (low, high) == pytest.approx((0.5 - 0.4054688, 0.5 + 0.4054688), abs=1e-7)
    assert (low, high) == wilson_interval(1, 2, 0.95)


def test_wilson_ends_are_exact_where_none_or_all_succeed():
    assert {wilson_interval(0, n)[0] for n in range(1, 200)} == {0.0}
    assert {wilson_interval(n, n)[1] for n in range(1, 200)} == {1.0}


def test_wilson_of_nothing_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0)])
def test_wilson_of_impossible_counts(successes, n, confidence):
    with pytest.raises(UserError, match=f"found {successes} of {n} at confidence {confidence}"):
        wilson_interval(successes, n, confidence)


# Groups ------------------------------------------------------------------------------------------------


def by_definition(scores, groups, rate):
    """The smallest score above which at most ``rate`` of the weight lies, in fractions."""
    sizes = Counter(groups)
    total = len(sizes) + 1
    weights = [Fraction(1, total * sizes[group]) for group in groups]
    for value in sorted(scores):
        above = Fraction(1, total) + sum((w for s, w in zip(scores, weights, strict=True) if s > value), Fraction(0))
        if above <= Fraction(str(rate)):
            return value
    return max(scores)


def p_by_definition(score, scores, groups):
    sizes = Counter(groups)
    total = len(sizes) + 1
    found = sum(
        (Fraction(1, total * sizes[g]) for s, g in zip(scores, groups, strict=True) if s >= score), Fraction(1, total)
    )
    return float(found)


def test_images_of_a_group_share_its_weight():
    # Groups of 1, 2 and 3 images: weights of 1/4, 1/8 and 1/12, and 1/4 at infinity.
    scores, groups = np.array([1.0, 2, 5, 3, 4, 6]), np.array([0, 1, 1, 2, 2, 2])
    # Above 6: 1/4. At or above 6: 1/4 + 1/12 = 1/3; 5: 11/24; 4: 13/24; 3: 15/24; 2: 18/24; 1: 1.
    assert p_values(np.array([7.0, 6, 5, 4, 3, 2, 1]), scores, groups).tolist() == [
        0.25,
        1 / 3,
        11 / 24,
        13 / 24,
        15 / 24,
        18 / 24,
        1,
    ]
    assert conformal(scores, 0.25, groups).value == 6
    assert conformal(scores, 0.4, groups).value == 5  # above 5 lie 1/3, above 4 lie 11/24
    assert conformal(scores, 0.2, groups) == Threshold(value=6, groups=3, asked=0.2, supported=0.25)


@pytest.mark.parametrize("seed", range(40))
def test_thresholds_of_groups_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    groups = rng.integers(0, int(rng.integers(1, 15)), count)
    scores = rng.integers(0, 12, count).astype(np.float32)  # with ties
    rate = float(rng.choice([0.03, 0.05, 0.1, 0.29, 0.5, 0.9]))
    found = conformal(scores, rate, groups)
    assert found.value == by_definition(scores.tolist(), groups.tolist(), rate)
    new = np.arange(-1, 14, dtype=np.float32)
    ps = p_values(new, scores, groups)
    assert ps.tolist() == [p_by_definition(score, scores.tolist(), groups.tolist()) for score in new.tolist()]
    if found.kept:
        assert ((new > found.value) == (ps <= rate)).all()


def test_groups_of_one_image_are_ordinary_split_conformal():
    scores = np.random.default_rng(0).normal(size=57)
    assert conformal(scores, 0.1, np.arange(57)) == conformal(scores, 0.1)
    assert p_values(scores, scores, np.arange(57)).tolist() == p_values(scores, scores).tolist()


def test_the_highest_of_each_group():
    scores, groups = np.array([1.0, 7, 3, -2, 5]), np.array([4, 9, 4, 2, 9])
    highest, numbers = highest_per_group(scores, groups)
    assert highest.tolist() == [-2, 3, 7]
    assert numbers.tolist() == [2, 4, 9]


@pytest.mark.parametrize("how", ["one per group", "hierarchical", "per part"])
def test_of_new_groups_no_more_are_called_than_promised(how):
    """1,500 draws of 30 groups of 1 to 6 images with an effect each, at a rate of 0.1."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(1500):

        def drawn(count):
            groups = np.repeat(np.arange(count), rng.integers(1, 7, count))
            return rng.normal(size=count)[groups] + 0.3 * rng.normal(size=len(groups)), groups

        (scores, groups), (new, new_groups) = drawn(30), drawn(20)
        if how == "per part":
            above = highest_per_group(new, new_groups)[0] > conformal(highest_per_group(scores, groups)[0], 0.1).value
            rates.append(above.mean())
            continue
        if how == "one per group":
            value = conformal(np.array([rng.choice(scores[groups == g]) for g in range(30)]), 0.1).value
        else:
            value = conformal(scores, 0.1, groups).value
        rates.append(np.mean([(new[new_groups == g] > value).mean() for g in range(20)]))
    mean, error = np.mean(rates), np.std(rates) / math.sqrt(len(rates))
    promised = 3 / 31  # ⌊31 · 0.1⌋ / 31
    assert mean < promised + 3 * error
    if how != "hierarchical":
        assert mean > promised - 3 * error


def test_a_value_set_by_hand_lets_expect_what_was_above_it_and_one_more():
    scores = np.arange(1, 20, dtype=np.float32)
    assert by_hand(19.0, scores) == Threshold(19.0, 19, None, 1 / 20)
    assert by_hand(16.0, scores) == Threshold(16.0, 19, None, 4 / 20)
    assert by_hand(-1.0, scores) == Threshold(-1.0, 19, None, 1.0)
    assert by_hand(1.0, np.zeros(0)) == Threshold(1.0, 0, None, None)


def test_a_value_set_by_hand_is_compared_as_scores_are():
    """13.6 is no float32, and the nearest one is above it; a score of that is not above the threshold."""
    scores = np.array([13.6], np.float32)
    assert float(scores[0]) > 13.6
    assert not (scores > 13.6).any()
    assert by_hand(13.6, scores).supported == 1 / 2


def test_groups_weigh_in_by_hand():
    # One group of the scores 1 and 3, another of 2: 3 and infinity weigh 1 / 6 and 1 / 3.
    scores, groups = np.array([1.0, 3, 2], np.float32), np.array([0, 0, 1])
    assert by_hand(2.5, scores, groups) == Threshold(2.5, 2, None, 0.5)


@pytest.mark.parametrize(
    ("threshold", "sentence"),
    [
        (
            Threshold(13.6, 19, None, 0.2),
            "nothing is promised about how often a new normal image is called anomalous, for the value was set by "
            "hand; by 19 calibration scores, expect a chance of about 0.2",
        ),
        (
            Threshold(13.6, 0, None, None),
            "nothing is promised about how often a new normal image is called anomalous, for the value was set by "
            "hand; there are no calibration images to say how often that is",
        ),
    ],
)
def test_nothing_is_promised_of_a_value_set_by_hand(threshold, sentence):
    assert promise(threshold, "image") == sentence
    assert not threshold.kept
