"""Which scores of held-out images a threshold comes from, and what it promises, with numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adkit.data.samples import Category, Sample
from adkit.inference.pipeline import Pipeline
from adkit.recipe.reader import read_recipe
from adkit.recipe.tables import ThresholdTable
from adkit.runner.evaluate import Evaluation
from adkit.runner.fit import Calibrated
from adkit.runner.thresholds import HeldOut, Trial, too_few
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


def told(images: int, *, parts: int | None = None, folds: int = 1, **threshold: object) -> list[str]:
    """What is said of a threshold by so many calibration images, of so many parts if the data says which."""
    of = images if parts is None else parts
    samples = [
        Sample(f"{n}.png", Path(f"{n}.png"), 0, "good", group=None if parts is None else f"{n % of}")
        for n in range(images)
    ]
    groups = {} if parts is None else {sample.id: str(sample.group) for sample in samples}
    recipe = read_recipe(
        {
            "data": {"format": "folder", "root": "."},
            "scorer": {"use": "knn"},
            "threshold": threshold,
            "run": {"folds": folds},
        }
    )
    scores = np.arange(images, dtype=np.float32)
    found = Evaluation(samples, scores, scores[:, None])
    held_out = HeldOut.of(found, groups, recipe.threshold, 0)
    fitted = Calibrated(Pipeline([], None), found, [], [], [])
    trial = Trial(fitted, held_out, held_out.threshold, None, Evaluation([], scores[:0], scores[:0, None]))
    return list(too_few(Category("a", (), tuple(samples), (), groups=groups), trial, recipe))


def test_18_images_cannot_promise_one_in_twenty_and_19_can() -> None:
    assert told(18, false_positive_rate=0.05) == [
        "18 calibration images cannot promise a false-positive rate of 0.05; the threshold keeps 0.0526, the smallest "
        "that so few support. It takes 19 images: add normal images, raise data.calibration or set threshold.method = "
        '"cross"'
    ]
    assert told(19, false_positive_rate=0.05) == []


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.5, 1), (0.34, 2), (1 / 3, 2), (0.3, 3), (0.25, 3), (0.1, 9), (0.07, 14), (0.01, 99)]
)
def test_it_takes_the_fewest_images_that_support_the_rate(rate: float, needed: int) -> None:
    # m images support 1 / (m + 1).
    assert told(needed, false_positive_rate=rate) == []
    if needed > 1:
        (sentence,) = told(needed - 1, false_positive_rate=rate)
        assert f"It takes {needed} images: " in sentence


def test_parts_count_where_the_data_names_them() -> None:
    (sentence,) = told(36, parts=18, false_positive_rate=0.05)
    assert sentence.startswith(
        "18 calibration groups cannot promise a false-positive rate of 0.05; the threshold keeps"
    )
    assert "It takes 19 groups: add normal parts, raise data.calibration or set" in sentence
    assert told(38, parts=19, false_positive_rate=0.05) == []


def test_pooled_images_are_more_than_their_parts() -> None:
    (sentence,) = told(36, parts=18, method="pooled", false_positive_rate=0.05)
    assert sentence.startswith("18 calibration groups cannot support a false-positive rate of 0.05, only 0.0526; the ")
    assert "It takes 19 groups: " in sentence


def test_what_cannot_be_changed_is_not_advised() -> None:
    (sentence,) = told(18, method="cross")
    assert sentence.endswith("It takes 19 images: add normal images")
    (sentence,) = told(18, folds=3)
    assert sentence.endswith("It takes 19 images: add normal images, raise data.calibration")


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
