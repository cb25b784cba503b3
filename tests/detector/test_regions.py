"""Boxes of the image around what the map of its image has above the threshold."""

import time
import tracemalloc

import numpy as np
import pytest

from adkit.data.view import View
from adkit.detector.regions import Region, find_regions

SAME = View("squash", 8, 8)
FRINGE = 3
"""Pixels of an image of 90 × 67 that a pixel of an image of 32 covers, rounded up."""


def drawn(side=8, **pixels):
    """A map of zeros but for boxes: name=(top, left, bottom, right, value)."""
    values = np.zeros((side, side), np.float32)
    for top, left, bottom, right, value in pixels.values():
        values[top:bottom, left:right] = value
    return values


def test_a_box_is_half_open_and_has_the_peak():
    values = drawn(a=(2, 3, 5, 7, 1.5))
    values[4, 4] = 2.25
    assert find_regions(values, 1.0, SAME, (8, 8)) == (Region(x=3, y=2, width=4, height=3, peak=2.25),)


def test_a_value_at_the_threshold_is_not_above_it():
    assert find_regions(drawn(a=(0, 0, 1, 1, 1.0)), 1.0, SAME, (8, 8)) == ()


def test_pixels_that_touch_at_a_corner_are_one_region():
    values = drawn(a=(1, 1, 2, 2, 2), b=(2, 2, 3, 3, 2))
    assert find_regions(values, 1.0, SAME, (8, 8)) == (Region(1, 1, 2, 2, 2.0),)


def test_the_highest_peak_comes_first():
    values = drawn(a=(0, 0, 1, 1, 2), b=(4, 4, 5, 5, 4), c=(7, 0, 8, 1, 3))
    assert [region.peak for region in find_regions(values, 1.0, SAME, (8, 8))] == [4.0, 3.0, 2.0]


def test_a_larger_image_has_larger_boxes():
    values = drawn(a=(2, 3, 5, 7, 2))
    assert find_regions(values, 1.0, SAME, (80, 160)) == (Region(x=60, y=20, width=80, height=30, peak=2.0),)


def test_a_smaller_image_has_boxes_of_a_pixel_at_least():
    values = drawn(a=(5, 5, 6, 6, 2))  # in the image from 1.25 to 1.5
    assert find_regions(values, 1.0, SAME, (2, 2)) == (Region(1, 1, 1, 1, 2.0),)


def test_edges_that_divide_badly_lie_on_whole_pixels():
    view = View("squash", 7, 7)
    for size in range(7, 700, 7):  # every pixel of the image is a whole number of those of the image
        (region,) = find_regions(drawn(7, a=(3, 3, 4, 4, 2)), 1.0, view, (size, size))
        assert (region.x, region.width) == (3 * size // 7, size // 7)


def test_padding_counts_for_nothing():
    view = View("pad", 8, 8)  # an image twice as wide as high lies in rows 2 to 6
    values = drawn(a=(0, 0, 3, 8, 2), b=(7, 0, 8, 8, 9))
    assert find_regions(values, 1.0, view, (40, 80)) == (Region(x=0, y=0, width=80, height=10, peak=2.0),)


def test_a_crop_lies_in_the_middle_of_the_image():
    view = View("crop", 16, 8)  # the image's middle: pixels 4 to 12 of 16
    assert find_regions(drawn(a=(0, 0, 1, 2, 2)), 1.0, view, (16, 16)) == (Region(4, 4, 2, 1, 2.0),)


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("crop", [32, 24])
def test_boxes_hold_what_the_restored_map_shows(resize, crop):
    """The map as it is laid over the image is above nowhere else, but for the fringe that its smoothing adds."""
    view, size = View(resize, 32, crop), (90, 67)
    values = np.random.default_rng(0).random((crop, crop)).astype(np.float32)
    within = np.zeros(size, bool)
    for region in find_regions(values, 0.9, view, size):
        assert region.x >= 0 and region.x + region.width <= size[1]
        assert region.y >= 0 and region.y + region.height <= size[0]
        top, left = max(region.y - FRINGE, 0), max(region.x - FRINGE, 0)
        within[top : region.y + region.height + FRINGE, left : region.x + region.width + FRINGE] = True
    with np.errstate(invalid="ignore"):
        assert not (view.restore(values, size) > 0.9)[~within].any()


def test_boxes_are_those_of_a_flood_fill():
    values = np.random.default_rng(1).random((24, 24)).astype(np.float32)
    left, expected = {tuple(place) for place in np.argwhere(values > 0.7)}, set()
    while left:
        todo, region = [left.pop()], []
        while todo:
            row, column = todo.pop()
            region.append((row, column))
            near = {(row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1)} & left
            left -= near
            todo += near
        rows, columns = zip(*region, strict=True)
        expected.add((min(columns), min(rows), max(columns) + 1, max(rows) + 1, max(values[r, c] for r, c in region)))
    found = find_regions(values, 0.7, View("squash", 24, 24), (24, 24))
    assert {(r.x, r.y, r.x + r.width, r.y + r.height, np.float32(r.peak)) for r in found} == expected


def test_a_huge_image_costs_no_more_than_a_small_one():
    values = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    view = View("squash", 224, 224)
    find_regions(values, 0.5, view, (224, 224))  # imports
    tracemalloc.start()
    begun = time.process_time()  # of this process alone, however busy the machine is
    assert find_regions(values, 0.9, view, (6000, 8000))
    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
