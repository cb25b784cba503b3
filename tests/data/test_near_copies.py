"""Near copies: the chance of a near neighbor, when the test speaks, and what it says and shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from adkit.data.contact_sheet import MOST, contact_sheet
from adkit.data.near_copies import (
    NearCopyCollector,
    find_near_copies,
    near_copies_warning,
    neighbors,
    tolerated,
    whitened,
)
from adkit.data.samples import ArrayFile, ArrayItem, Sample


def drawn(n: int, c: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, c))


def photographed(parts: int, times: int, noise: float = 0.05, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Ids such as p003_1 and features of parts that were photographed so many times, each with a little noise."""
    features = np.repeat(drawn(parts, seed=seed), times, axis=0)
    ids = [f"p{part:03d}_{photo}.png" for part in range(parts) for photo in range(times)]
    return ids, features + noise * drawn(len(ids), seed=seed + 1)


def split(ids: list[str], features: np.ndarray, held_out: np.ndarray):
    training = np.setdiff1d(np.arange(len(ids)), held_out)
    return find_near_copies(
        [ids[row] for row in training], features[training], [ids[row] for row in held_out], features[held_out]
    )


def at_random(ids: list[str], features: np.ndarray, seed: int = 0):
    return split(ids, features, np.random.default_rng(seed).permutation(len(ids))[: len(ids) // 5])


# The chance of a near neighbor


def test_distances_on_a_line():
    found = neighbors(np.array([[0.0]]), np.array([[3.0], [1.0], [-2.0], [10.0]]), itself=False)
    assert found.nearest.tolist() == [1]
    np.testing.assert_allclose(np.exp(found.logs[0]), [1, 2, 3, 10])


def test_a_point_is_not_its_own_neighbor():
    points = np.array([[0.0], [1.0], [4.0], [5.0], [9.0]])
    assert neighbors(points, points, itself=True).nearest.tolist() == [1, 0, 3, 2, 3]


def test_chance_on_a_line_by_hand():
    # K is 2, a third of 6 neighbors. Distances double from the second on, so that the gaps j · log(r_{j + 1} / r_j),
    # j from 2 to 5, are (2 + 3 + 4 + 5) log 2 / 4 = 3.5 log 2 on average. So d is 1 / (3.5 log 2), and the chance of
    # K − 1 = 1 uniform below (1 / 8)^d is exp(-3 / 3.5).
    found = neighbors(np.array([[0.0]]), np.array([[1.0], [8], [16], [32], [64], [128]]), itself=False)
    assert found.ratios(8) == pytest.approx([1 / 8])
    assert found.chances(8) == pytest.approx([np.exp(-3 / 3.5)])


@pytest.mark.parametrize("scale", [8, 20])
def test_chances_of_a_uniform_cloud_are_uniform(scale):
    # On a torus there are no edges: the law holds but for the estimate of d.
    angles = 2 * np.pi * np.random.default_rng(0).uniform(size=(3000, 2))
    points = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    chances = neighbors(points, points, itself=True).chances(scale)
    for level in (0.1, 0.5, 0.9):
        assert np.mean(chances <= level) == pytest.approx(level, abs=0.04)


def test_whitened_components_have_variance_1_and_no_correlation():
    points = whitened(drawn(200, 8) * np.arange(1, 9) @ drawn(8, 8, seed=3))
    np.testing.assert_allclose(points.T @ points / 200, np.eye(8), atol=1e-9)


def test_distances_are_the_same_whichever_side_of_the_matrix_is_longer():
    features = drawn(30, 25)
    tall, wide = whitened(features), whitened(np.concatenate([features, np.zeros((30, 10))], 1))
    assert tall.shape == wide.shape == (30, 15)
    np.testing.assert_allclose(tall @ tall.T, wide @ wide.T, atol=1e-9)


def test_tolerated_is_above_the_level():
    assert all(level < tolerated(level) < tolerated(10 * level) for level in (1e-8, 1e-5, 1e-2))
    assert tolerated(1e-2) == pytest.approx(0.1197, abs=1e-4)  # 0.6 · 0.01^0.35


# When it speaks


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_silent_on_independent_images(n):
    assert at_random([f"{number}.png" for number in range(n)], drawn(n)) is None


def test_silent_on_few_sorts_of_images():
    sorts = np.repeat(5 * drawn(4, seed=7), 100, axis=0)
    assert at_random([f"{number}.png" for number in range(400)], sorts + drawn(400)) is None


@pytest.mark.parametrize("times", [2, 3, 6, 15])
def test_speaks_whatever_the_size_of_groups(times):
    found = at_random(*photographed(300 // times, times))
    assert found is not None
    assert all(pair.held_out[:4] == pair.training[:4] for pair in found.pairs)


def test_speaks_where_a_fifth_of_the_parts_was_photographed_twice():
    ids, features = photographed(100, 2)
    kept = [row for row, id in enumerate(ids) if row % 2 == 0 or row < 40]
    assert at_random([ids[row] for row in kept], features[kept]) is not None


def test_silent_where_parts_are_kept_together():
    ids, features = photographed(100, 4)
    assert split(ids, features, np.arange(80)) is None  # 20 parts held out


def test_speaks_where_a_second_photo_of_every_part_is_held_out():
    ids, features = photographed(60, 2)
    found = split(ids, features, np.arange(1, 120, 2))
    assert found is not None and len(found.pairs) == 60


def test_silent_on_equal_images_within_training():
    features = np.concatenate([drawn(100)] * 3)
    features = np.concatenate([features, drawn(50, seed=9)])
    assert split([f"{number}.png" for number in range(350)], features, np.arange(300, 350)) is None


@pytest.mark.parametrize(("n", "held_out"), [(39, 10), (200, 4)])
def test_silent_where_there_is_too_little_to_tell(n, held_out):
    ids, features = photographed(n, 2)
    assert split(ids[:n], features[:n], np.arange(held_out)) is None


def test_silent_on_features_that_are_all_equal():
    assert at_random([f"{number}.png" for number in range(100)], np.ones((100, 8))) is None


def test_scale_and_shift_of_channels_change_nothing():
    ids, features = photographed(100, 2)
    found, moved = at_random(ids, features), at_random(ids, 5 + features * np.arange(1, 17))
    assert [(pair.held_out, pair.training) for pair in found.pairs] == [
        (pair.held_out, pair.training) for pair in moved.pairs
    ]


def test_pairs_are_in_the_order_of_their_chance():
    chances = [pair.chance for pair in at_random(*photographed(100, 2)).pairs]
    assert chances == sorted(chances)


# The collector


def test_collector_finds_what_the_function_finds():
    ids, features = photographed(100, 2)
    features = features.astype(np.float32)
    held_out = np.random.default_rng(0).permutation(200)[:40]
    collector = NearCopyCollector({"training": 1000, "test": 1000})
    for start in range(0, 200, 7):
        rows = np.arange(start, min(start + 7, 200))
        for side, chosen in (("training", np.setdiff1d(rows, held_out)), ("test", np.intersect1d(rows, held_out))):
            collector.add(side, [ids[row] for row in chosen], features[chosen])
    assert collector.find("test") == split(ids, features, np.sort(held_out))


def test_collector_is_bounded_and_takes_an_image_once():
    collector = NearCopyCollector({"training": 3})
    collector.add("training", ["a", "b", "a"], np.zeros((3, 2)))
    assert not collector.wants("training", "a") and collector.wants("training", "c")
    collector.add("training", ["c", "d"], np.zeros((2, 2)))
    assert not collector.wants("training", "d")


# The warning and the contact sheet


def test_warning_names_pairs_and_a_value_for_toml():
    text = near_copies_warning("tile", "calibration", at_random(*photographed(100, 2)), "near-copies.png")
    assert re.match(
        r"tile: expected calibration images of other parts than the training images, found \d+ of 40 ", text
    )
    assert text.count(" ~ ") == 3 and "look at near-copies.png" in text
    assert tomllib.loads(re.search(r"group = \".*?\"(?=,)", text)[0]) == {"group": r"(p\d+)_"}


def test_warning_without_a_suggestion():
    _, features = photographed(100, 2)
    anonymous = [f"{number * 7919 % 100003}.png" for number in range(200)]
    text = near_copies_warning("tile", "test", at_random(anonymous, features), "near-copies.png")
    assert "name the part of each image by [data] group (no expression or folder that was tried" in text


@pytest.mark.parametrize(("pairs", "rows"), [(1, 1), (4, 2), (MOST + 5, MOST // 3)])
def test_contact_sheet_has_as_many_rows_as_it_needs(pairs, rows):
    samples = [Sample(f"good/{'long' * 40}_{n}.png", _item(n), 0, "good") for n in range(2)]
    sheet, one = contact_sheet([(samples[0], samples[1])] * pairs), contact_sheet([(samples[0], samples[1])])
    assert sheet.height == rows * one.height
    assert sheet.width == min(pairs, 3) * one.width


def test_contact_sheet_shows_the_held_out_image_on_the_left():
    black, white = (Sample(f"{value}.png", _item(value), 0, "good") for value in (0, 255))
    sheet = contact_sheet([(black, white)])
    assert sheet.getpixel((sheet.width // 4, 100)) == (0, 0, 0)
    assert sheet.getpixel((3 * sheet.width // 4, 100)) == (255, 255, 255)


def test_contact_sheet_of_an_image_that_is_gone(tmp_path):
    gone = Sample("gone.png", tmp_path / "gone.png", 0, "good")
    assert contact_sheet([(gone, gone)]).getpixel((100, 100)) == (192, 192, 192)


def _item(value: int) -> ArrayItem:
    return ArrayItem(ArrayFile(Path("images.npz"), "images", np.full((1, 8, 8), value, np.uint8)), 0)
