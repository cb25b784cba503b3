from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.data.dataset import open_dataset
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.images import ImageError
from adkit.data.masks import read_mask
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
