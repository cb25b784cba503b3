"""Overlays: where the colors lie, what they mean, and what their files are called."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit import UserError
from adkit.data.view import View
from adkit.detector.regions import Region
from adkit.predict.heatmaps import LONGEST, Heatmaps, overlay

SAME = View("squash", 64, 64)
GREY = Image.new("RGB", (64, 64), (100, 100, 100))


def bump(value, side=64):
    """Zeros, but for ``value`` in the upper left quarter."""
    values = np.zeros((side, side), np.float32)
    values[: side // 2, : side // 2] = value
    return values


def colored(drawn, image=GREY):
    return (np.asarray(drawn) != np.asarray(image.resize(drawn.size).convert("RGB"))).any(axis=2)


def test_what_lies_well_below_the_threshold_stays_as_it_is():
    assert not colored(overlay(GREY, bump(0.7), SAME, 1.0)).any()


def test_colors_lie_where_the_map_is_high():
    found = colored(overlay(GREY, bump(1.5), SAME, 1.0))
    assert found[:31, :31].all()
    assert not found[33:].any() and not found[:, 33:].any()


def test_one_value_has_one_color_in_all_images():
    alone, beside = bump(1.5), bump(1.5)
    beside[40:, 40:] = 9.0
    first, second = (np.asarray(overlay(GREY, values, SAME, 1.0))[8, 8] for values in (alone, beside))
    np.testing.assert_array_equal(first, second)


def test_colors_grow_up_to_twice_the_threshold():
    def shift(value):
        drawn = np.asarray(overlay(GREY, bump(value), SAME, 1.0)).astype(int)[8, 8]
        return np.abs(drawn - 100).sum()

    shifts = [shift(value) for value in (0.75, 0.9, 1.2, 1.6, 2.0, 5.0)]
    assert shifts[0] == 0
    assert shifts[:5] == sorted(set(shifts[:5]))
    assert shifts[5] == shifts[4]


@pytest.mark.parametrize("threshold", [-2.0, 0.0])
def test_scores_below_zero_have_colors_above_their_threshold(threshold):
    values = np.full((64, 64), threshold - 1, np.float32)
    values[:8, :8] = threshold + 0.5
    found = colored(overlay(GREY, values, SAME, threshold))
    assert found[:7, :7].all() and not found[9:].any()


def test_without_a_threshold_the_upper_half_of_the_range_is_colored():
    values = np.tile(np.linspace(3, 5, 64, dtype=np.float32), (64, 1))
    found = colored(overlay(GREY, values, SAME, None))
    assert not found[:, :32].any() and found[:, 34:].all()
    assert not colored(overlay(GREY, np.full((64, 64), 3, np.float32), SAME, None)).any()


def test_the_border_that_a_crop_leaves_out_stays_as_it_is():
    found = colored(overlay(GREY, np.full((32, 32), 9, np.float32), View("crop", 64, 32), 1.0))
    assert found[17:47, 17:47].all()
    assert not found[:16].any() and not found[:, 48:].any()


def test_lightness_rises_with_the_value():
    black = Image.new("RGB", (64, 64))
    light = [np.asarray(overlay(black, bump(value), SAME, 1.0).convert("L"))[8, 8] for value in np.linspace(0.8, 2, 9)]
    assert light == sorted(set(light))


def test_a_region_has_a_box_around_it():
    drawn = np.asarray(overlay(GREY, bump(0), SAME, 1.0, (Region(20, 30, 10, 5, 2.0),)))
    assert (drawn[30:35, 20:30] == 100).all()  # nothing is drawn over it
    assert (drawn[28, 18:32] == 255).all() and (drawn[36, 18:32] == 255).all()
    assert (drawn[28:37, 18] == 255).all() and (drawn[28:37, 31] == 255).all()


def test_a_box_at_the_edge_of_the_image_is_closed():
    drawn = np.asarray(overlay(GREY, bump(0), SAME, 1.0, (Region(0, 0, 64, 64, 2.0),)))
    assert (drawn[1, 1:63] == 255).all() and (drawn[62, 1:63] == 255).all()
    assert (drawn[1:63, 1] == 255).all() and (drawn[1:63, 62] == 255).all()


@pytest.mark.parametrize("side", [1, 2, 5])
def test_an_image_of_a_few_pixels_is_drawn(side):
    image = Image.new("L", (side, side))
    assert overlay(image, bump(2), SAME, 1.0, (Region(0, 0, side, side, 2.0),)).size == (side, side)


def test_a_large_image_is_drawn_smaller_with_its_boxes_in_place():
    image = Image.new("L", (2 * LONGEST, LONGEST), 100)
    drawn = overlay(image, bump(0), SAME, 1.0, (Region(1000, 1000, 400, 200, 2.0),))
    assert drawn.size == (LONGEST, LONGEST // 2)
    white = np.argwhere((np.asarray(drawn) == 255).all(axis=2))
    assert (white.min(axis=0) >= (488, 488)).all() and (white.max(axis=0) <= (611, 711)).all()


def test_a_sixteen_bit_image_is_drawn():
    image = Image.fromarray(np.full((64, 64), 100.4, np.float32))  # as read_image gives it
    assert np.asarray(overlay(image, bump(0), SAME, 1.0))[0, 0].tolist() == [100, 100, 100]


@pytest.fixture
def heatmaps(tmp_path):
    return Heatmaps(tmp_path / "out", tmp_path / "in", SAME, 1.0)


def test_every_image_has_a_heatmap_of_its_own(heatmaps, tmp_path):
    images = ["in/a/b/x.png", "in/c/x.png", "in/x.png", "in/x.jpg", "in/x.png.png", "x.png", "in/_/x.png"]
    paths = [heatmaps.path_of(tmp_path / image) for image in images]
    assert len(set(paths)) == len(images)
    assert all(path.is_relative_to(tmp_path / "out" / "heatmaps") and ".." not in path.parts for path in paths)
    assert paths[0] == tmp_path / "out" / "heatmaps" / "a" / "b" / "x.png.png"


def test_an_image_from_outside_of_the_base_keeps_its_whole_path(heatmaps, tmp_path):
    expected = tmp_path.joinpath("out", "heatmaps", "_", *(tmp_path / "x.png").parts[1:-1], "x.png.png")
    assert heatmaps.path_of(tmp_path / "in" / ".." / "x.png") == expected


def test_a_heatmap_is_a_png_of_the_images_size_and_nothing_else_is_left(heatmaps, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (50, 40)).save(tmp_path / "in" / "x.bmp")
    assert heatmaps.draw(tmp_path / "in" / "x.bmp", (40, 50), bump(2)) is None
    (file,) = (tmp_path / "out" / "heatmaps").iterdir()
    with Image.open(file) as drawn:
        assert (file.name, drawn.format, drawn.size) == ("x.bmp.png", "PNG", (50, 40))


def test_an_image_that_went_away_or_changed_is_told(heatmaps, tmp_path):
    assert heatmaps.draw(tmp_path / "gone.png", (40, 50), bump(2)) == "the file is not there"
    Image.new("L", (50, 40)).save(tmp_path / "x.bmp")
    assert heatmaps.draw(tmp_path / "x.bmp", (40, 60), bump(2)) == ("the image changed from 60 × 40 to 50 × 40 pixels")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "out").touch()
    Image.new("L", (50, 40)).save(tmp_path / "x.bmp")
    with pytest.raises(UserError, match=r"x\.bmp\.png: expected a heatmap that can be written, found: "):
        Heatmaps(Path(tmp_path / "out"), tmp_path, SAME, 1.0).draw(tmp_path / "x.bmp", (40, 50), bump(2))
