"""Which scores of held-out images a threshold comes from, and what it promises, with numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adkit.data.samples import Sample
from adkit.recipe.tables import ThresholdTable
from adkit.runner.evaluate import Evaluation
from adkit.runner.thresholds import HeldOut
from adkit.threshold import Threshold, promise

# Three parts of one, two and three images. Peaks rank the images of a part in another order than scores do.
GROUPS = {"1.png": "b", "2.png": "b", "3.png": "c", "4.png": "c", "5.png": "c"}  # 0.png is a part of its own
SCORES = np.array([3.0, 1, 2, 4, 6, 5], np.float32)
PEAKS = np.array([70.0, 50, 40, 30, 20, 60], np.float32)


def held_out(seed: int = 0, scores: np.ndarray = SCORES, **keys: object) -> HeldOut:
    samples = [Sample(f"{number}.png", Path(f"{number}.png"), 0, "good") for number in range(6)]
    found = Evaluation(samples, scores, scores[:, None], PEAKS)
    return HeldOut.of(found, GROUPS, ThresholdTable.model_validate(keys), seed)


def test_split_takes_one_image_of_each_part_by_score_and_peak_alike():
    pairs = dict(zip(SCORES.tolist(), PEAKS.tolist(), strict=True))
    for seed in range(20):
        found = held_out(seed)
        one, two, three = found.scores.tolist()
        assert (one == 3) and two in (1, 2) and three in (4, 5, 6)
        assert found.peaks is not None
        assert found.peaks.tolist() == [pairs[one], pairs[two], pairs[three]]
        assert found.groups is None


def test_the_draw_depends_on_the_seed_and_not_on_scores():
    drawn = [tuple(held_out(seed).scores.tolist()) for seed in range(40)]
    assert set(drawn) == {(3, two, three) for two in (1, 2) for three in (4, 5, 6)}
    # Scores that fall where they rose: the same images are drawn.
    assert [tuple((-held_out(seed, -SCORES).scores).tolist()) for seed in range(40)] == drawn


def test_per_part_takes_the_highest_score_and_the_highest_peak():
    found = held_out(per="part", false_positive_rate=0.25)
    assert found.scores.tolist() == [3, 2, 6]
    assert found.peaks is not None
    assert found.peaks.tolist() == [70, 50, 60]  # not those of the images with the highest scores
    assert found.threshold is not None and found.pixel_threshold is not None
    assert (found.threshold.value, found.pixel_threshold.value) == (6, 70)


def test_cross_per_part_takes_them_too():
    assert held_out(per="part", method="cross").scores.tolist() == [3, 2, 6]


@pytest.mark.parametrize("method", ["pooled", "cross"])
def test_pooled_and_cross_count_each_image(method):
    found = held_out(method=method, false_positive_rate=0.3)
    assert found.scores.tolist() == SCORES.tolist()
    assert found.threshold is not None
    # ⌊7 · 0.3⌋ = 2 of 7 places lie above the fifth of six: one score, and that of the new image.
    assert (found.threshold.value, found.threshold.groups) == (5, 6)
    assert found.p_values(np.array([5.5, 1])).tolist() == [2 / 7, 1]


def test_hierarchical_weighs_scores_and_peaks_by_their_parts():
    found = held_out(method="hierarchical", false_positive_rate=0.42)
    assert found.threshold is not None and found.pixel_threshold is not None
    # Weights of 1/4, 1/8 and 1/12, and 1/4 at infinity. Above 5: 1/4 + 1/12; above 4: 1/4 + 2/12 = 5/12.
    assert (found.threshold.value, found.threshold.groups) == (4, 3)
    assert found.p_values(np.array([5.5])).tolist() == [1 / 3]
    # Peaks: above 70 lies 1/4, above 60 a half.
    assert found.pixel_threshold.value == 70


@pytest.mark.parametrize("method", ["split", "hierarchical", "pooled", "cross"])
def test_without_held_out_images_there_is_no_threshold(method):
    none = Evaluation([], np.zeros(0, np.float32), np.zeros((0, 1), np.float32))
    assert HeldOut.of(none, {}, ThresholdTable(method=method), 0).threshold is None


@pytest.mark.parametrize(
    ("per", "approximate", "grouped", "pixel", "sentence"),
    [
        ("image", False, False, False, "a new normal image is called anomalous with a chance of at most 0.05"),
        (
            "image",
            False,
            True,
            True,
            "of a new normal part, one image drawn at random has a pixel that is called anomalous with a chance of at "
            "most 0.05",
        ),
        ("part", True, True, False, "a new normal part is called anomalous with a chance of approximately 0.05"),
    ],
)
def test_the_promise_in_words(per, approximate, grouped, pixel, sentence):
    threshold = Threshold(1.0, 19, 0.05, 0.05)
    assert promise(threshold, per, approximate=approximate, grouped=grouped, pixel=pixel) == sentence


def test_a_value_set_by_hand_is_the_threshold_of_scores_alone():
    found = held_out(method="pooled", value=4.5, false_positive_rate=0.3)
    # Of six scores, 5 and 6 are above it: (1 + 2) / (6 + 1).
    assert found.threshold == Threshold(4.5, 6, None, 3 / 7)
    assert found.pixel_threshold is not None
    assert (found.pixel_threshold.value, found.pixel_threshold.asked) == (60, 0.3)


def test_a_value_set_by_hand_needs_no_calibration_images():
    none = Evaluation([], np.zeros(0, np.float32), np.zeros((0, 1), np.float32))
    found = HeldOut.of(none, {}, ThresholdTable(value=13.6), 0)
    assert found.threshold == Threshold(13.6, 0, None, None)
