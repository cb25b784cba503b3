from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adkit.data.dataset import open_dataset
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.images import ImageError
from adkit.data.masks import read_mask
from adkit.data.samples import Dataset
from adkit.errors import UserError
from tests.data.image_files import mvtec, save, square

SQUARE = square((8, 8), 1, 2, 3)


def problems(root: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        open_dataset(MvtecTable(root=str(root)), 0)
    return caught.value.problems


def as_palette() -> Image.Image:
    mask = Image.fromarray(SQUARE // 255)
    mask.putpalette([0, 0, 0, 255, 0, 0])
    return mask


def as_palette_that_begins_with_red() -> Image.Image:
    """Index 0, red, where it is anomalous, and index 1, black, elsewhere: colors count, not numbers."""
    mask = Image.fromarray(1 - SQUARE // 255)
    mask.putpalette([255, 0, 0, 0, 0, 0])
    return mask


def as_transparent_palette() -> Image.Image:
    """Index 2, red, where it is anomalous; elsewhere index 1, red as well, which is transparent."""
    mask = Image.fromarray(1 + SQUARE // 255)
    mask.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0])
    mask.info["transparency"] = 1
    return mask


def as_opaque_black() -> Image.Image:
    """Opaque everywhere, gray where it is anomalous and black elsewhere."""
    return Image.merge("LA", [Image.fromarray(SQUARE), Image.new("L", (8, 8), 255)])


def as_rgba() -> Image.Image:
    """Red where it is anomalous, and transparent red elsewhere."""
    red = np.zeros((8, 8, 4), np.uint8)
    red[..., 0], red[..., 3] = 255, SQUARE
    return Image.fromarray(red)


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(SQUARE),
        Image.fromarray(SQUARE // 255),
        Image.fromarray(SQUARE > 0),
        Image.fromarray(SQUARE.astype(np.uint16)),
        Image.fromarray(np.stack([SQUARE, 0 * SQUARE, 0 * SQUARE], axis=-1)),
        as_palette(),
        as_palette_that_begins_with_red(),
        as_transparent_palette(),
        as_opaque_black(),
        as_rgba(),
    ],
    ids=[
        "gray",
        "ones",
        "one bit",
        "sixteen bits",
        "rgb",
        "palette",
        "palette of colors",
        "transparent index",
        "gray and alpha",
        "rgba",
    ],
)
def test_anomalous_where_above_zero(tmp_path: Path, mask: Image.Image) -> None:
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), SQUARE > 0)


def test_union_of_a_folder(tmp_path: Path) -> None:
    for number, left in enumerate((0, 5)):
        save(tmp_path / f"{number}.png", square((8, 8), 0, left, 2))
    assert read_mask(tmp_path)[0].tolist() == [True, True, False, False, False, True, True, False]


def test_folder_of_several_sizes(tmp_path: Path) -> None:
    save(tmp_path / "0.png", 0, (8, 8))
    save(tmp_path / "1.png", 0, (8, 9))
    with pytest.raises(ImageError, match="are of several sizes"):
        read_mask(tmp_path)


def test_mask_of_another_size(tmp_path: Path) -> None:
    mask = save(mvtec(tmp_path) / "ground_truth/crack/1_mask.png", square((6, 4), 0, 0, 2))
    assert problems(tmp_path) == (
        f"{mask}: expected a mask of its image's size, 8 × 8 pixels (width × height, "
        f"{tmp_path / 'tile/test/crack/1.png'}), found 4 × 6; export the mask at the size of the image",
    )


def rotated(category: Path, mask: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # 8 × 16 stored, 16 × 8 seen (height × width)
    (category / "test/crack/1.png").unlink()
    Image.new("L", (16, 8)).save(category / "test/crack/1.jpg", exif=exif)
    save(category / "ground_truth/crack/1_mask.png", mask)


def test_mask_of_a_rotated_image_as_it_is_seen(tmp_path: Path) -> None:
    rotated(mvtec(tmp_path), square((16, 8), 0, 0, 2))
    assert len(open_dataset(MvtecTable(root=str(tmp_path)), 0).categories[0].test) == 3


def test_mask_of_a_rotated_image_as_it_is_stored(tmp_path: Path) -> None:
    rotated(mvtec(tmp_path), square((8, 16), 0, 0, 2))
    assert "8 × 16 pixels (width × height, " in problems(tmp_path)[0]


def test_empty_mask_of_a_good_image_is_welcome(tmp_path: Path) -> None:
    save(mvtec(tmp_path) / "ground_truth/good/0_mask.png", 0)
    (category,) = open_dataset(MvtecTable(root=str(tmp_path)), 0).categories
    assert [sample.mask for sample in category.test if not sample.label] == [None]


def test_mask_of_a_good_image(tmp_path: Path) -> None:
    mask = save(mvtec(tmp_path) / "ground_truth/good/0_mask.png", square((8, 8), 0, 0, 3))
    assert problems(tmp_path) == (
        f"{mask}: expected no anomalous pixel in the mask of a good image "
        f"({tmp_path / 'tile/test/good/0.png'}), found 9; empty the mask, or put the image among the "
        "anomalous ones",
    )


def test_anomalous_image_without_mask_beside_others_that_have_one(tmp_path: Path) -> None:
    (mvtec(tmp_path) / "ground_truth/crack/1_mask.png").unlink()
    assert problems(tmp_path) == (
        "tile: 1 of 2 anomalous images has no mask: tile/test/crack/1.png; add the missing masks, or remove all "
        "masks to do without pixel metrics",
    )


def test_no_masks_at_all(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for number in range(2):
        (category / f"ground_truth/crack/{number}_mask.png").unlink()
    (found,) = open_dataset(MvtecTable(root=str(tmp_path)), 0).categories
    assert {sample.mask for sample in found.test} == {None}


def test_unreadable_image_with_a_mask_is_left_to_the_loader(tmp_path: Path) -> None:
    (mvtec(tmp_path) / "test/crack/1.png").write_bytes(b"")
    assert len(open_dataset(MvtecTable(root=str(tmp_path)), 0).categories[0].test) == 3


def test_an_unreadable_mask_of_a_good_image_is_reported_and_left_out(tmp_path: Path) -> None:
    mvtec(tmp_path)
    mask = tmp_path / "tile" / "ground_truth" / "good" / "0_mask.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"junk")
    dataset = open_dataset(MvtecTable(root=str(tmp_path)), 0)
    (warning,) = (text for text in dataset.warnings if "0_mask.png" in text)
    assert warning.startswith("tile: left out, the mask of a good image: ")
    assert all(sample.mask is None for sample in dataset.categories[0].test if not sample.label)


# What a mask can be. Images have values of 60 to 190, so that none of them looks like a mask.


def inspected(root: Path, masks: list[np.ndarray | Image.Image], name: str = "{}.png", **table: Any) -> Dataset:
    """Four good images, and as many bad ones as there are masks, of 32 × 32 pixels."""
    random = np.random.default_rng(0)
    for number in range(4):
        save(root / f"good/{number}.png", random.integers(60, 190, (32, 32), dtype=np.uint8))
    (root / "masks").mkdir()
    for number, mask in enumerate(masks):
        save(root / f"bad/{number}.png", random.integers(60, 190, (32, 32), dtype=np.uint8))
        image = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
        image.save(root / "masks" / name.format(number))
    return open_dataset(FolderTable(root=str(root), anomalous="bad", masks="masks", test_share=0, **table), 0)


def refused(root: Path, masks: list[np.ndarray | Image.Image], **table: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        inspected(root, masks, **table)
    return caught.value.problems


DEFECT = square((32, 32), 8, 8, 6)
"""36 of 1,024 pixels, 3.5%."""


def test_masks_that_are_right_are_not_spoken_of(tmp_path: Path) -> None:
    two, classes = DEFECT, np.where(DEFECT, 2, 0).astype(np.uint8)
    classes[20:24, 20:24] = 1
    assert not inspected(tmp_path, [two, classes, DEFECT > 0, two // 255]).warnings


def test_one_mask_of_a_large_defect_is_not_spoken_of(tmp_path: Path) -> None:
    assert not inspected(tmp_path, [DEFECT, DEFECT, square((32, 32), 0, 0, 28)]).warnings


def test_noise_of_jpeg_is_warned_of_with_both_shares(tmp_path: Path) -> None:
    dataset = inspected(tmp_path, [DEFECT] * 3, "{}.jpg")
    above = np.asarray(Image.open(tmp_path / "masks/0.jpg"))
    assert ((above > 0).sum(), (above > 127).sum()) == (47, 36)
    assert dataset.warnings[0] == (
        f"{tmp_path.name}: 3 masks have many values, as JPEG or smooth edges leave them, and all above 0 count as "
        f"anomalous: {(above > 0).mean():.1%} of {tmp_path}/masks/0.jpg, where {(above > 127).mean():.1%} are above "
        "127: save masks in black and white, or set data.mask_threshold = 127"
    )


def test_threshold_that_is_set_says_what_counts(tmp_path: Path) -> None:
    assert not inspected(tmp_path, [DEFECT] * 3, "{}.jpg", mask_threshold=127).warnings
    found = read_mask(tmp_path / "masks/0.jpg", 127)
    np.testing.assert_array_equal(found, DEFECT > 0)


def test_inverted_masks_are_warned_of(tmp_path: Path) -> None:
    assert inspected(tmp_path, [DEFECT, 255 - DEFECT]).warnings == (
        f"{tmp_path.name}: 1 of 2 masks marks more than half of the image ({tmp_path}/masks/1.png: 96.5%): black (0) "
        "is normal and all else anomalous, so invert masks that are the other way round",
    )


def test_masks_most_of_which_are_white_are_warned_of(tmp_path: Path) -> None:
    white = np.full((32, 32), 255, np.uint8)
    (warning,) = inspected(tmp_path, [white, white, DEFECT]).warnings
    assert "2 of 3 masks mark more than half of the image" in warning


def test_defect_painted_on_a_copy_of_the_image_is_refused(tmp_path: Path) -> None:
    inspected(tmp_path, [DEFECT] * 2)
    for number in range(2):
        painted = np.stack([np.asarray(Image.open(tmp_path / f"bad/{number}.png"))] * 3, axis=-1)
        painted[DEFECT > 0] = (255, 0, 0)
        save(tmp_path / f"masks/{number}.png", painted)
    table = FolderTable(root=str(tmp_path), anomalous="bad", masks="masks", test_share=0)
    with pytest.raises(UserError) as caught:
        open_dataset(table, 0)
    assert caught.value.problems == (
        f"{tmp_path}/masks/0.png, {tmp_path}/masks/1.png: expected a mask, which is black where its image is normal, "
        "found a copy of its image that a defect may be painted on: draw the defect alone, white on black",
    )


def test_gray_map_is_refused_unless_its_threshold_is_set(tmp_path: Path) -> None:
    slope = np.linspace(0, 255, 1024).astype(np.uint8).reshape(32, 32)
    assert refused(tmp_path / "a", [slope]) == (
        f"{tmp_path}/a/masks/0.png: expected a mask of two values, or of a few for classes, found many between black "
        "and white: save it in black and white, or set data.mask_threshold to the value above which a pixel is "
        "anomalous",
    )
    assert not inspected(tmp_path / "b", [slope], mask_threshold=200).warnings


def test_palette_with_a_white_ground_is_refused(tmp_path: Path) -> None:
    mask = Image.fromarray(DEFECT // 255)
    mask.putpalette([255, 255, 255, 255, 0, 0])
    assert refused(tmp_path, [mask]) == (
        f"{tmp_path}/masks/0.png: expected a mask, which is black (0) where its image is normal, found several colors "
        "and no black, so that all of the image would be anomalous: make the ground black, or set data.mask_threshold "
        "to the value of the ground",
    )


def test_ground_of_one_is_refused_unless_the_threshold_says_so(tmp_path: Path) -> None:
    mask = 1 + DEFECT // 255
    assert "found several colors and no black" in refused(tmp_path / "a", [mask])[0]
    assert not inspected(tmp_path / "b", [mask], mask_threshold=1).warnings
    assert "1 of 1 mask marks more than half" in inspected(tmp_path / "c", [mask], mask_threshold=0).warnings[0]
    np.testing.assert_array_equal(read_mask(tmp_path / "b/masks/0.png", 1), DEFECT > 0)


def test_black_paint_on_a_transparent_layer_counts(tmp_path: Path) -> None:
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[..., 3] = DEFECT
    assert not inspected(tmp_path, [layer]).warnings
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/0.png"), DEFECT > 0)


def test_colors_count_where_they_differ_on_a_layer(tmp_path: Path) -> None:
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[..., 3], layer[:4, :, 3] = 255, 0  # white on black with a transparent margin
    layer[..., :3] = DEFECT[..., None]
    Image.fromarray(layer).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), DEFECT > 0)


def test_transparent_color_of_a_palette_is_the_ground(tmp_path: Path) -> None:
    mask = Image.fromarray(DEFECT // 255)
    mask.putpalette([255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "mask.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), DEFECT > 0)


def test_empty_masks_are_named_as_such(tmp_path: Path) -> None:
    assert inspected(tmp_path, [DEFECT, 0 * DEFECT]).warnings == (
        f"{tmp_path.name}: 1 mask of anomalous images is empty: no value is above 0 ({tmp_path}/masks/1.png): draw the "
        "defects, or name other masks",
    )


def test_truncated_mask_is_named_as_such_and_its_image_stays(tmp_path: Path) -> None:
    inspected(tmp_path, [DEFECT] * 3)
    mask = save(tmp_path / "masks/1.png", np.random.default_rng(0).integers(0, 2, (32, 32), dtype=np.uint8) * 255)
    mask.write_bytes(mask.read_bytes()[:-60])
    table = FolderTable(root=str(tmp_path), anomalous="bad", masks="masks", test_share=0)
    dataset = open_dataset(table, 0)
    (warning,) = dataset.warnings
    assert warning.startswith(
        f"{tmp_path.name}: 1 anomalous image has a mask that cannot be read, and counts in the image metrics alone: "
        f"bad/1.png: its mask {mask}: the file is truncated ("
    )
    assert [sample.mask is None for sample in dataset.categories[0].test] == [False, True, False]
