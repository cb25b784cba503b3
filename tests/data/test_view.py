from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from adkit.data.formats.base import Resize
from adkit.data.formats.folder import FolderTable
from adkit.data.view import View


def ramp(height: int, width: int, axis: int) -> Image.Image:
    """Each pixel's value is its center's y (axis 0) or x (axis 1)."""
    along = np.arange((height, width)[axis], dtype=np.float32) + 0.5
    return Image.fromarray(np.broadcast_to(along[:, None] if axis == 0 else along, (height, width)).copy())


def test_size_without_crop() -> None:
    assert View.of(FolderTable(root=".", image_size=64)).size == (64, 64)


def test_size_with_crop() -> None:
    assert View.of(FolderTable(root=".", image_size=64, crop=48)).size == (48, 48)


def test_size_of_short_side_is_square() -> None:
    view = View.of(FolderTable(root=".", resize="short_side", image_size=64))
    assert view.input(Image.new("L", (200, 100))).shape == (64, 64)


@pytest.mark.parametrize("crop", [48, 64])
@pytest.mark.parametrize("resize", ["squash", "short_side", "pad"])
def test_what_shows_all_of_an_image_sees_it_to_its_ends(resize: Resize, crop: int) -> None:
    view, size = View(resize, 64, crop), (90, 200)
    whole = all(axis.seen == pytest.approx((0, axis.length)) for axis in view.axes(size))
    assert view.shows_all == whole


def test_squash_equals_pillow() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(View("squash", 32, 32).input(image), expected)


def test_crop_equals_resizing_and_cropping() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))[8:56, 8:56].astype(int)
    found = View("squash", 64, 48).input(image).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_short_side_equals_resizing_and_cropping() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150), dtype=np.uint8))
    expected = np.asarray(image.resize((96, 64), Image.Resampling.BILINEAR))[8:56, 24:72].astype(int)
    found = View("short_side", 64, 48).input(image).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_pad_centers_the_image() -> None:
    view = View("pad", 64, 64)
    assert view.region((25, 100)) == (24, 0, 40, 64)
    assert view.region((100, 25)) == (0, 24, 64, 40)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ((54, 100), (14, 49)),  # 54 · 64 / 100 = 34.56 is 35 rows; 29 are left, 14 of them above
        ((53, 100), (15, 49)),  # 33.92: 34 rows
        ((52, 100), (15, 48)),  # 33.28: 33 rows; 31 are left, 15 of them above
        ((1, 100), (31, 32)),  # 0.64: 1 row
        ((1, 200), (31, 32)),  # 0.32: a row is left of anything
    ],
)
def test_pad_rounds_to_whole_rows_and_the_odd_one_is_below(size: tuple[int, int], rows: tuple[int, int]) -> None:
    view = View("pad", 64, 64)
    assert view.region(size) == (rows[0], 0, rows[1], 64)
    assert view.region(size[::-1]) == (0, rows[0], 64, rows[1])


def test_pad_fills_with_the_nearest_whole_color() -> None:
    pixels = np.zeros((2, 4), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0] = 3, 2, 2  # a mean of 7/8
    assert View("pad", 4, 4).input(Image.fromarray(pixels))[0].tolist() == [1, 1, 1, 1]


def test_pad_fills_with_the_mean_color() -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = (200, 100, 0)
    image = View("pad", 64, 64).input(Image.fromarray(pixels))
    assert image[0, 0].tolist() == [100, 50, 0]
    np.testing.assert_array_equal(image[16:48], pixels)


def test_pad_then_crop_shows_the_middle() -> None:
    view = View("pad", 64, 48)
    assert view.region((64, 64)) == (0, 0, 48, 48)
    assert view.region((25, 100)) == (16, 0, 32, 48)


def test_squash_and_short_side_fill_the_image() -> None:
    assert View("squash", 64, 48).region((10, 90)) == (0, 0, 48, 48)
    assert View("short_side", 64, 48).region((10, 90)) == (0, 0, 48, 48)


@pytest.mark.parametrize("resize", ["squash", "short_side", "pad"])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_agree_with_the_resampling(resize: str, axis: int) -> None:
    # A ramp keeps its value under linear resampling, so every image pixel tells where it was read.
    view = View(resize, 64, 40)  # type: ignore[arg-type]
    size = (90, 150)
    image = view.input(ramp(*size, axis))
    y, x = view.axes(size)
    along = (y, x)[axis]
    rows = np.arange(along.start + 3, along.stop - 3)  # the kernel is cut off at the image's edge
    expected = along.to_image(rows + 0.5)
    line = image[:, 20] if axis == 0 else image[20]
    np.testing.assert_allclose(line[rows], expected, atol=0.1)  # in pixels of the image


@pytest.mark.parametrize("resize", ["squash", "short_side", "pad"])
def test_there_and_back(resize: str) -> None:
    for axis in View(resize, 64, 40).axes((90, 150)):  # type: ignore[arg-type]
        positions = np.linspace(0, 90, 7)
        np.testing.assert_allclose(axis.to_image(axis.to_input(positions)), positions, atol=1e-9)


def test_mask_of_equal_size_is_itself() -> None:
    mask = np.random.default_rng(0).random((64, 64)) > 0.5
    np.testing.assert_array_equal(View("squash", 64, 64).mask(mask, 64), mask)


def test_mask_is_read_at_the_centers() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[1, 1] = mask[5, 7] = True  # 4 × 4 centers of 2 × 2 pixels read the pixel below and right of them
    assert np.argwhere(View("squash", 64, 64).mask(mask, 4)).tolist() == [[0, 0], [2, 3]]


@pytest.mark.parametrize(("resize", "size"), [("squash", (90, 150)), ("short_side", (90, 150)), ("pad", (150, 90))])
def test_mask_by_area_is_anomalous_where_any_point_of_a_cell_is(resize: str, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(3).random(size) > 0.98
    view = View(resize, 48, 40)  # type: ignore[arg-type]
    points = view.mask(mask, 20 * 64).reshape(20, 64, 20, 64).any((1, 3))
    np.testing.assert_array_equal(view.mask(mask, 20, "area"), points)


def test_mask_by_area_by_hand() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[0, 0] = mask[5, 3] = True  # cells of 2 × 2 pixels; nearest would read neither of these pixels
    assert np.argwhere(View("squash", 64, 64).mask(mask, 4, "area")).tolist() == [[0, 0], [2, 1]]
    assert not View("squash", 64, 64).mask(mask, 4).any(axis=1)[0]


def test_mask_by_area_where_cells_cut_pixels() -> None:
    mask = np.zeros((3, 3), np.bool_)
    mask[1, 1] = True  # two cells of 1.5 pixels each cover half of it
    assert View("squash", 64, 64).mask(mask, 2, "area").all()
    mask = np.eye(3, dtype=np.bool_) & (np.arange(3) == 0)
    assert np.argwhere(View("squash", 64, 64).mask(mask, 3, "area")).tolist() == [[0, 0]]


@pytest.mark.parametrize(("side", "crop"), [(5, 28), (9, 12), (9, 21)])
def test_mask_by_area_on_a_grid_of_its_own_pixels_is_itself(side: int, crop: int) -> None:
    # 28 / 5 divides badly: the edges of cells miss those of pixels by the last bit and do not touch the next pixel.
    mask = np.eye(side, dtype=np.bool_)
    np.testing.assert_array_equal(View("squash", crop, crop).mask(mask, side, "area"), mask)


def test_mask_does_not_pass_through_the_image() -> None:
    mask = np.zeros((512, 512), np.bool_)
    mask[100, :] = True  # a scratch one pixel wide would be lost in an image of 64
    assert View("squash", 64, 64).mask(mask, 512).sum() == 512


@pytest.mark.parametrize("resize", ["squash", "short_side", "pad"])
@pytest.mark.parametrize("crop", [64, 44])
def test_mask_lies_where_the_image_does(resize: str, crop: int) -> None:
    drawn = np.zeros((90, 150), np.bool_)
    drawn[30:60, 60:105] = True
    view = View(resize, 64, crop)  # type: ignore[arg-type]
    image = view.input(Image.fromarray(drawn.astype(np.uint8) * 255))
    seen = np.zeros((crop, crop), np.bool_)
    top, left, bottom, right = view.region(drawn.shape)
    seen[top:bottom, left:right] = image[top:bottom, left:right] > 127
    differ = seen ^ view.mask(drawn, crop)
    assert differ.sum() <= 2  # corners, where half a pixel decides


def test_no_mask_in_the_padding() -> None:
    mask = View("pad", 64, 64).mask(np.ones((16, 64), np.bool_), 128)
    assert np.argwhere(mask.any(axis=1)).ravel().tolist() == list(range(48, 80))


def test_restore_undoes_squashing() -> None:
    image = ramp(40, 80, 1)
    view = View("squash", 160, 160)
    restored = view.restore(view.input(image), (40, 80))
    np.testing.assert_allclose(restored[:, 4:-4], np.asarray(image)[:, 4:-4], atol=0.01)


def test_restore_takes_maps_of_any_size() -> None:
    restored = View("squash", 64, 64).restore(np.array([[0, 1]], np.float32), (1, 4))
    np.testing.assert_allclose(restored, [[0, 0.25, 0.75, 1]])


def test_restore_says_nothing_of_what_was_cropped() -> None:
    restored = View("short_side", 32, 32).restore(np.zeros((32, 32), np.float32), (32, 64))
    assert np.isnan(restored).sum(axis=1).tolist() == [32] * 32
    assert not np.isnan(restored[:, 16:48]).any()
