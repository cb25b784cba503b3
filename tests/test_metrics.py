"""Exact metrics against scikit-learn, a brute-force PRO and numbers worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from adkit.errors import UserError
from adkit.metrics import PixelMetrics, image_metrics, mean_and_sem


def pixel_metrics(maps, masks, batch=None):
    metrics = PixelMetrics()
    for start in range(0, len(maps), batch or len(maps)):
        end = start + (batch or len(maps))
        metrics.add(maps[start:end], masks[start:end])
    return metrics.compute()


def brute_force_pro(maps, masks):
    """The curve at every distinct score, one threshold after another, joined by straight lines."""
    components = []
    for image, mask in enumerate(masks):
        names, number = label(mask, return_num=True, connectivity=2)
        components += [(image, names == name) for name in range(1, number + 1)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        share = np.mean([found[image][component].mean() for image, component in components])
        curve.append((found[~masks].mean(), share))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        end = min(x1, 0.3)
        if end > x0:
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / 0.3


def random_images(seed, images=4):
    """Small maps and masks with several components each; odd seeds have heavy ties."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(images, 11, 11))
    masks = rng.random((images, 11, 11)) < rng.uniform(0.05, 0.35)
    masks[0] = False
    maps += masks * rng.uniform(0, 3)
    return (np.rint(maps * 2) if seed % 2 else maps).astype(np.float32), masks


def random_scores(seed):
    """Scores and labels of both classes; odd seeds have heavy ties."""
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, rng.integers(1, 60))]
    scores = rng.normal(size=len(labels)) + labels * rng.uniform(-0.5, 2)
    return np.rint(scores * 2) if seed % 2 else scores, labels


@pytest.mark.parametrize("seed", range(40))
def test_image_metrics_equal_scikit_learn(seed):
    scores, labels = random_scores(seed)
    metrics = image_metrics(scores, labels)
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics["image_f1max"] == pytest.approx(f1.max(), abs=1e-12)
    rates, recalls, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert metrics["image_fpr95"] == pytest.approx(rates[recalls >= 0.95][0], abs=1e-12)


def test_image_metrics_by_hand():
    scores = np.array([1.0, 2.0, 2.0, 3.0, 0.0])
    labels = np.array([0, 1, 0, 1, 0])
    # Pairs: 3.0 wins three, 2.0 wins two and ties one: 5.5 of 6. At 3: precision 1; at 2: 2/3.
    assert image_metrics(scores, labels) == {
        "image_auroc": pytest.approx(5.5 / 6),
        "image_ap": pytest.approx((1 + 2 / 3) / 2),
        "image_f1max": pytest.approx(0.8),
        "image_fpr95": pytest.approx(1 / 3),
    }


def test_perfect_scores_are_perfect():
    metrics = image_metrics(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert list(metrics.values()) == [1.0, 1.0, 1.0, 0.0]


def test_recall_of_exactly_19_of_20_is_enough():
    scores = np.r_[np.arange(1.0, 21.0), 1.5]  # the negative lies between the lowest positive and the next
    assert image_metrics(scores, np.r_[np.ones(20), 0])["image_fpr95"] == 0.0


def test_recall_of_18_of_19_is_not_enough():
    scores = np.r_[np.arange(1.0, 20.0), 1.5]
    assert image_metrics(scores, np.r_[np.ones(19), 0])["image_fpr95"] == 1.0


def test_labels_may_be_bool():
    assert image_metrics(np.array([0.0, 1.0]), np.array([False, True]))["image_auroc"] == 1.0


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_a_missing_class_gives_no_image_metrics(labels):
    metrics = image_metrics(np.arange(len(labels), dtype=float), np.array(labels))
    assert metrics == dict.fromkeys(["image_auroc", "image_ap", "image_f1max", "image_fpr95"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_image_scores_that_are_not_finite_are_named(bad):
    with pytest.raises(UserError, match=f"expected finite scores, found {bad} in the score of image 2:"):
        image_metrics(np.array([0.0, bad]), np.array([0, 1]))


def test_scores_and_labels_of_other_lengths():
    with pytest.raises(UserError, match=r"found scores of shape \(3,\) and labels of shape \(2,\)"):
        image_metrics(np.zeros(3), np.zeros(2))


def test_labels_other_than_0_and_1():
    with pytest.raises(UserError, match=r"expected labels of 0 \(normal\) and 1 \(anomalous\), found 2"):
        image_metrics(np.zeros(2), np.array([0, 2]))


@pytest.mark.parametrize("seed", range(20))
def test_pixel_ranking_equals_scikit_learn(seed):
    maps, masks = random_images(seed)
    metrics = pixel_metrics(maps, masks)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    reference = average_precision_score(masks.ravel(), maps.ravel())
    assert metrics["pixel_ap"] == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_pro_equals_brute_force(seed):
    maps, masks = random_images(seed)
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(brute_force_pro(maps, masks), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_that_are_ranked_a_few_at_a_time_have_the_same_metrics(seed, monkeypatch):
    maps, masks = random_images(seed)
    at_once = pixel_metrics(maps, masks)
    monkeypatch.setattr("adkit.metrics.PART", 7)
    assert pixel_metrics(maps, masks) == pytest.approx(at_once, rel=1e-14)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batching_gives_identical_values(seed, batch):
    maps, masks = random_images(seed)
    assert pixel_metrics(maps, masks, batch) == pixel_metrics(maps, masks)


@pytest.mark.parametrize("seed", range(10))
def test_increasing_affine_maps_change_nothing(seed):
    maps, masks = random_images(seed)
    maps = np.rint(maps * 64).astype(np.float32)  # so that the sums below are exact in float32
    assert pixel_metrics(maps * 4 - 1000, masks) == pixel_metrics(maps, masks)


def test_a_perfect_map_is_perfect():
    _, masks = random_images(0)
    metrics = pixel_metrics(masks.astype(np.float32), masks)
    assert metrics == {"pixel_auroc": 1.0, "pixel_ap": 1.0, "pixel_aupro": pytest.approx(1.0)}
    assert metrics["pixel_aupro"] <= 1.0


def test_a_constant_map_finds_everything_and_raises_every_alarm_at_once():
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, 0, :5] = True
    # One threshold, so both curves are the diagonal: ∫ x dx from 0 to 0.3 is 0.045, and 0.045 / 0.3 = 0.15.
    assert pixel_metrics(np.zeros((1, 10, 10), dtype=np.float32), masks) == {
        "pixel_auroc": 0.5,
        "pixel_ap": 0.05,
        "pixel_aupro": pytest.approx(0.15),
    }


def test_a_reversed_map_is_worthless():
    _, masks = random_images(0)
    metrics = pixel_metrics(-masks.astype(np.float32), masks)
    assert (metrics["pixel_auroc"], metrics["pixel_aupro"]) == (0.0, 0.0)


def test_pixels_that_touch_at_a_corner_are_one_component():
    masks = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]], dtype=bool)
    maps = np.array([[[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 2]]], dtype=np.float32)
    # The pair is never found before every normal pixel is, the single pixel before any: 1 of 2 components.
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.5)


def test_components_count_alike_whatever_their_size():
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, 0, 0] = masks[1, :2] = True  # 1 pixel, 8 pixels
    maps = np.zeros((2, 4, 4), dtype=np.float32)
    maps[0, 0, 0], maps[1, :1], maps[1, 1] = 2, 2, -1  # all of the first, half of the second
    maps[1, 2:] = maps[0, 1:] = 1
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.75)


def test_images_can_be_added_after_computing():
    maps, masks = random_images(0)
    metrics = PixelMetrics()
    metrics.add(maps[:2], masks[:2])
    metrics.compute()
    metrics.add(maps[2:], masks[2:])
    assert metrics.compute() == pixel_metrics(maps, masks)


@pytest.mark.parametrize(
    "kinds",
    [["", "", "hole", "hole", "scratch", "scratch"], ["hole", "", "scratch", "hole", "", "scratch"]],
    ids=["one after the other", "mixed"],
)
def test_a_kind_has_the_metrics_of_its_images_and_the_normal_ones_alone(kinds):
    maps, masks = random_images(5, images=6)
    masks &= np.array(kinds)[:, None, None] != ""
    metrics = PixelMetrics()
    metrics.add(maps, masks)
    whole, found = metrics.compute_by_kind(kinds)
    assert whole == pixel_metrics(maps, masks)
    for kind in ("hole", "scratch"):
        chosen = np.isin(kinds, ("", kind))
        assert found[kind] == pytest.approx(pixel_metrics(maps[chosen], masks[chosen]), rel=1e-12)


def test_kinds_are_not_told_apart_once_pixels_are_sorted():
    maps, masks = random_images(0)
    metrics = PixelMetrics()
    metrics.add(maps, masks)
    metrics.compute()
    with pytest.raises(RuntimeError, match="before compute"):
        metrics.compute_by_kind(["hole"] * len(maps))


def test_what_was_added_is_left_as_it_was():
    maps, masks = random_images(0)
    before = maps.copy(), masks.copy()
    pixel_metrics(maps, masks)
    assert np.array_equal(maps, before[0])
    assert np.array_equal(masks, before[1])


@pytest.mark.parametrize("mask", [True, False])
def test_a_missing_class_gives_no_pixel_metrics(mask):
    maps = np.zeros((1, 2, 2), dtype=np.float32)
    expected = dict.fromkeys(["pixel_auroc", "pixel_ap", "pixel_aupro"])
    assert pixel_metrics(maps, np.full((1, 2, 2), mask)) == expected


def test_nothing_added_gives_no_pixel_metrics():
    assert PixelMetrics().compute() == dict.fromkeys(["pixel_auroc", "pixel_ap", "pixel_aupro"])


def test_maps_that_are_not_finite_are_named_by_image():
    metrics = PixelMetrics()
    metrics.add(np.zeros((2, 2, 2), dtype=np.float32), np.zeros((2, 2, 2), dtype=bool))
    maps = np.array([[[0, 0], [0, 0]], [[0, np.nan], [0, 0]]], dtype=np.float32)
    with pytest.raises(UserError, match="expected finite scores, found nan in the map of image 4:"):
        metrics.add(maps, np.zeros((2, 2, 2), dtype=bool))


def test_masks_of_another_size():
    with pytest.raises(UserError, match=r"maps of shape \(1, 2, 2\) and bool masks of shape \(1, 3, 3\)"):
        PixelMetrics().add(np.zeros((1, 2, 2), dtype=np.float32), np.zeros((1, 3, 3), dtype=bool))


def test_float64_maps_are_not_rounded_in_silence():
    with pytest.raises(UserError, match="found float64 maps"):
        PixelMetrics().add(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), dtype=bool))


def test_mean_and_standard_error():
    # Deviations -1, 0, 1: the standard deviation is 1 and the standard error 1 / √3.
    assert mean_and_sem([1.0, None, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))


@pytest.mark.parametrize(("values", "expected"), [([], (None, None)), ([None], (None, None)), ([0.5], (0.5, None))])
def test_too_few_values_for_a_standard_error(values, expected):
    assert mean_and_sem(values) == expected


def test_the_pro_curve_by_hand():
    # A component of two pixels (8 and 4) in the first image, and one of a single pixel (6) in the second.
    maps = np.array([[[8, 4, 7], [5, 1, 6]], [[6, 6, 6], [6, 6, 6]]], np.float32)
    masks = np.array([[[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], bool)
    metrics = PixelMetrics()
    metrics.add(maps, masks)
    counts = metrics.counts()
    alarms, found = counts.pro_curve()
    at = dict(zip(counts.thresholds.tolist(), zip(alarms.tolist(), found.tolist(), strict=True), strict=True))
    # Normal: 7, 5, 1, 6 of the first image and five times 6 of the second.
    assert at[8.0] == pytest.approx((0, (0.5 + 0) / 2))
    assert at[6.0] == pytest.approx((7 / 9, (0.5 + 1) / 2))
    assert at[4.0] == pytest.approx((8 / 9, 1))
