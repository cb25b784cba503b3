"""Which value of [data] group is suggested for pairs of near copies."""

from __future__ import annotations

import random

import pytest

from adkit.data.groups import keys_by
from adkit.data.suggested_group import suggest_group

TILES = [
    f"train/good/t{tile:03d}_exp{photo}_num_{tile * 997 + photo * 31}.jpg" for tile in range(40) for photo in range(4)
]
FOLDERS = [f"good/part{part}/{photo}.png" for part in range(40) for photo in range(4)]
CAMERAS = [f"camera{photo}/part-{part:03d}-side{photo}.png" for part in range(40) for photo in range(4)]
LOTS = [f"lot{part}/{photo}/image.png" for part in range(40) for photo in range(4)]
INSIDE = [f"s{photo}_{part:02d}_{photo}x.png" for part in range(40) for photo in range(4)]


def of_fours(ids: list[str]) -> list[tuple[str, str]]:
    """Two of every four ids."""
    return [(ids[first], ids[first + 2]) for first in range(0, len(ids), 4)]


@pytest.mark.parametrize(
    ("ids", "group"),
    [
        (TILES, r"(t\d+)_"),
        (FOLDERS, "folder"),
        (CAMERAS, r"(part-\d+)-"),
        (LOTS, "folder:1"),
        (INSIDE, r"_(\d+)_"),
    ],
    ids=["first part of the name", "folder", "camera a folder", "level of the path", "second part of the name"],
)
def test_the_pattern_that_tells_parts_apart(ids, group):
    found = suggest_group(ids, of_fours(ids))
    assert (found.group, found.together, found.groups) == (group, 1, 40)


def test_numbers_of_consecutive_frames():
    ids = [f"frame_{number:05d}.png" for number in range(2000)]
    found = suggest_group(ids, [(ids[row], ids[row + 1]) for row in range(0, 1999, 3)])
    key = keys_by(found.group)
    assert found.together > 0.98
    assert key(ids[100]) == key(ids[101]) != key(ids[900])


def test_names_of_several_forms():
    ids = [f"part{part}{'-again' if photo else ''}_{photo}.png" for part in range(40) for photo in range(4)]
    found = suggest_group(ids, of_fours(ids))
    key = keys_by(found.group)
    assert len({key(id) for id in ids}) == found.groups == 40


def test_none_where_names_say_nothing():
    ids = [f"{number}.png" for number in random.Random(0).sample(range(10**9), 160)]
    assert suggest_group(ids, of_fours(ids)) is None


def test_none_where_all_would_be_one_group():
    ids = [f"good/{name}.png" for name in random.Random(0).sample(range(10**9), 160)]
    assert suggest_group(ids, of_fours(ids)) is None


def test_none_without_pairs():
    assert suggest_group(TILES, []) is None


def test_only_the_surer_half_counts():
    wrong = [(TILES[row], TILES[row + 4]) for row in range(0, 80, 4)]
    assert suggest_group(TILES, [*of_fours(TILES), *wrong]).group == r"(t\d+)_"
