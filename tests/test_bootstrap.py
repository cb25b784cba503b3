"""Intervals by resamples of whole groups, against literally repeated images and simulations whose truth is known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from adkit.bootstrap import Tested, _image_metrics, intervals, paired_difference, resamples
from adkit.metrics import PixelMetrics, image_metrics


def simulated(seed: int, parts: int = 60, images: int = 6, shift: float = 1.0, noise: float = 0.5) -> Tested:
    """Half of the parts are anomalous; an image's score is its part's effect and noise."""
    rng = np.random.default_rng(seed)
    anomalous = np.repeat(np.arange(parts) >= parts // 2, images)
    scores = np.repeat(rng.normal(size=parts), images) + noise * rng.normal(size=parts * images) + shift * anomalous
    groups = [f"part {number // images}" for number in range(parts * images)]
    return Tested(scores.astype(np.float32), anomalous.astype(np.int64), groups)


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_as_if_images_were_repeated(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 8, 40).astype(np.float32), rng.integers(0, 2, 40)  # with many ties
    times = rng.integers(0, 4, (3, 40))
    auroc, ap = _image_metrics(Tested(scores, labels, [""] * 40), times.astype(np.float64))
    for row in range(3):
        exact = image_metrics(np.repeat(scores, times[row]), np.repeat(labels, times[row]))
        assert auroc[row] == pytest.approx(exact["image_auroc"], abs=1e-12)
        assert ap[row] == pytest.approx(exact["image_ap"], abs=1e-12)


def test_an_interval_of_groups_is_wider_than_one_of_images():
    one = simulated(0)
    alone = Tested(one.scores, one.labels, [str(number) for number in range(len(one.scores))])
    (low, high), (low_alone, high_alone) = (
        intervals([each], each.metrics(), 0).values["image_auroc"] for each in (one, alone)
    )
    assert high - low > 1.8 * (high_alone - low_alone)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth = NormalDist().cdf(1 / np.sqrt(2 * 1.25))  # of a difference with variance 2 · (1 + 0.5²)
    covered = 0
    for seed in range(60):
        one = simulated(seed)
        low, high = intervals([one], one.metrics(), 0).values["image_auroc"]
        covered += low <= truth <= high
    assert covered >= 50  # 57 expected; below 50 in 1 of 2,500 where it is 95%


def test_fewer_than_ten_groups_give_no_interval_but_the_reason():
    one = simulated(0, parts=19)
    found = intervals([one], one.metrics(), 0)
    assert not found.values
    assert found.missing == "an interval takes 10 groups on either side of the test, found 9 of normal images"


def test_the_same_seed_gives_the_same_interval():
    one = simulated(3)
    assert intervals([one], one.metrics(), 7) == intervals([one], one.metrics(), 7)
    assert intervals([one], one.metrics(), 7) != intervals([one], one.metrics(), 8)


def test_a_fold_that_a_resample_leaves_without_a_side_is_left_out_of_its_mean():
    one = simulated(5)
    half = np.arange(len(one.scores)) % 180 < 6  # of either side one part: many resamples have none of them
    fold = Tested(one.scores[half], one.labels[half], [one.groups[number] for number in np.flatnonzero(half)])
    low, high = intervals([one, fold], one.metrics(), 0).values["image_auroc"]
    assert np.isfinite((low, high)).all() and low < high


def test_groups_with_images_of_both_sides_are_drawn_apart():
    # Ten parts of two normal images, ten with one of each, ten of two anomalous ones.
    labels = np.concatenate([np.zeros(20), np.tile([0, 1], 10), np.ones(20)]).astype(np.int64)
    groups = [f"part {number // 2:02}" for number in range(60)]
    names, times = resamples([Tested(np.arange(60, dtype=np.float32), labels, groups)], 0)
    assert names == groups[::2]
    assert (times.reshape(-1, 3, 10).sum(2) == 10).all()


def test_resamples_are_drawn_a_few_at_a_time(monkeypatch):
    labels = np.repeat([0, 1], 30)
    tested = [Tested(np.arange(60, dtype=np.float32), labels, [str(number) for number in range(60)])]
    _, at_once = resamples(tested, 0)
    monkeypatch.setattr("adkit.bootstrap.CHUNK", 7 * 60)
    np.testing.assert_array_equal(resamples(tested, 0)[1], at_once)


def test_folds_that_were_tested_on_the_same_images_are_as_uncertain_as_one():
    one = simulated(1)
    three, single = (intervals(tests, one.metrics(), 0).values["image_auroc"] for tests in ([one] * 3, [one]))
    assert three == pytest.approx(single, abs=1e-12)


def test_a_detector_does_not_differ_from_itself():
    one = simulated(2)
    assert paired_difference([one], [one])["image_auroc"] == (0, 0, 0)


def test_a_difference_in_pairs_is_surer_than_the_figures_are():
    one, noise = simulated(4), np.random.default_rng(0).normal(0, 0.1, 360)
    other = Tested((one.scores + noise - 0.5 * one.labels).astype(np.float32), one.labels, one.groups)
    difference, low, high = paired_difference([one], [other])["image_auroc"]
    assert 0 < low < difference < high
    own = intervals([one], one.metrics(), 0).values["image_auroc"]
    assert high - low < own[1] - own[0]


def test_other_images_cannot_be_compared():
    with pytest.raises(ValueError, match="the same images"):
        paired_difference([simulated(0)], [simulated(0, images=5)])


def pixels(images: int = 30, side: int = 24, seed: int = 0) -> tuple[PixelMetrics, Tested]:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(images, side, side)).astype(np.float32)
    masks = np.zeros(maps.shape, np.bool_)
    for number in range(images // 2):
        top, left = rng.integers(0, side - 8, 2)
        masks[number, top : top + 8, left : left + rng.integers(2, 8)] = True
        masks[number, -2:, -2:] = True
    maps[masks] += 1.5
    found = PixelMetrics()
    found.add(maps, masks)
    counts = found.counts()
    labels = masks.any((1, 2)).astype(np.int64)
    return found, Tested(maps.max((1, 2)), labels, [str(number) for number in range(images)], counts)


def test_pixel_metrics_by_a_thousand_thresholds_are_close_to_the_exact_ones():
    found, one = pixels()
    exact, binned = found.compute(), one.metrics()
    for name, value in exact.items():
        assert binned[name] == pytest.approx(value, abs=2e-3)


def test_pixels_of_images_that_count_twice_are_there_twice():
    times = np.array([[2.0, 0, 1, 1, 0, 3, 1, 1]])
    rng = np.random.default_rng(0)
    whole = PixelMetrics()
    maps = rng.normal(size=(8, 24, 24)).astype(np.float32)
    masks = np.zeros(maps.shape, np.bool_)
    masks[:4, :6, :6] = True
    maps[masks] += 1
    whole.add(maps, masks)
    counts = whole.counts()
    repeated = PixelMetrics()
    index = np.repeat(np.arange(8), times[0].astype(int))
    repeated.add(maps[index], masks[index])
    exact = repeated.compute()
    for name, values in counts.metrics(times).items():
        assert values[0] == pytest.approx(exact[name], abs=3e-3)


def test_the_intervals_of_pixel_metrics_lie_around_the_exact_ones():
    found, one = pixels()
    exact = {**image_metrics(one.scores, one.labels), **found.compute()}
    values = intervals([one], exact, 0).values
    assert set(values) == {"image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro"}
    for name, (low, high) in values.items():
        assert low < exact[name] < high
        assert high - low < 0.5


def test_pixels_are_not_told_apart_once_they_are_sorted():
    found, _ = pixels()
    found.compute()
    with pytest.raises(RuntimeError, match="before compute"):
        found.counts()
