from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath

import pytest

from adkit.data.pairing import Neighbors, Pairs, neighbors, pair

IMAGES, MASKS = Path("bad"), Path("masks")
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


def pairs(images: list[str], masks: list[str], folder: Path = MASKS) -> Pairs:
    return pair({IMAGES / name: PurePath(name) for name in images}, [folder / name for name in masks], folder)


def named(found: Pairs) -> dict[str, str]:
    return {str(image.relative_to(IMAGES)): str(mask.relative_to(MASKS)) for image, mask in found.masks.items()}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("x.png", "x.png"),
        ("x.png", "x_mask.png"),
        ("x.png", "mask_x.png"),
        ("x.png", "x-mask.png"),
        ("x.png", "x_mask1.png"),
        ("x.png", "x_MASK.PNG"),
        ("x.png", "x_seg.png"),
        ("x.png", "x_gt.png"),
        ("x.jpg", "x_label.bmp"),
        ("x.jpg", "x_ground_truth.png"),
        ("x.jpg", "x.jpg.png"),
        ("x.jpg", "x.jpg_mask.png"),
        ("x.jpg", "x_mask.jpg.png"),
        ("IMG.JPG", "img.png"),
        ("7.png", "007.png"),
        ("part 7.png", "part 07_GT.png"),
        (f"{COMPOSED}.png", f"{DECOMPOSED}_mask.png"),
        ("dent/x.png", "x.png"),
        ("dent/x.png", "x_mask.png"),
        ("dent/x.png", "Dent/x_mask.png"),
    ],
)
def test_naming_habits(image: str, mask: str) -> None:
    assert named(pairs([image], [mask])) == {image: mask}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["x.jpg", "x.png"], ["x.jpg.png", "x.png.png"]),
        (["7.png", "007.png"], ["7.png", "007.png"]),
        (["a.png", "a_label.png"], ["a.png", "a_label.png"]),
        (["a.png", "A.png"], ["a_mask.png", "A_mask.png"]),
        ([f"{COMPOSED}.png", f"{DECOMPOSED}.png"], [f"{COMPOSED}.png", f"{DECOMPOSED}.png"]),
        (["dent/0.png", "hole/0.png"], ["dent/0.png", "hole/0.png"]),
    ],
)
def test_names_as_they_are_come_before_names_that_are_alike(images: list[str], masks: list[str]) -> None:
    found = pairs(images, masks)
    assert named(found) == dict(zip(images, masks, strict=True))
    assert not found.problems


@pytest.mark.parametrize(
    ("images", "mask"),
    [
        (["x.jpg", "x.png"], "x_mask.png"),
        (["7.png", "007.png"], "07.png"),
        (["dent/0.png", "hole/0.png"], "0.png"),
    ],
)
def test_two_images_of_one_mask_are_named(images: list[str], mask: str) -> None:
    found = pairs(images, [mask])
    assert found.problems == [
        f"masks/{mask}: expected the mask of one image, found bad/{images[0]} and bad/{images[1]} of that name: "
        "give each a mask that is called like it in full, folder and extension included"
    ]
    assert not found.masks


@pytest.mark.parametrize(
    "masks", [["x.png", "x_mask.png"], ["x_gt.png", "x_mask.png"], ["x_mask1.png", "x_mask2.png"], ["x.bmp", "x.png"]]
)
def test_two_masks_of_one_image_are_named(masks: list[str]) -> None:
    assert pairs(["x.png"], masks).problems == [
        f"bad/x.png: expected one mask, found masks/{masks[0]} and masks/{masks[1]}: keep one, or put them into a "
        "folder x beside the other masks, where all of them count"
    ]


def test_mask_of_no_image_is_left() -> None:
    found = pairs(["x.png"], ["x.png", "y.png"])
    assert found.unpaired == [MASKS / "y.png"]
    assert not found.problems


def test_folder_of_masks(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    found = pairs(["x.png"], ["x/000.png", "x/001.png"], tmp_path)
    assert found.masks == {IMAGES / "x.png": tmp_path / "x"}
    assert not found.unpaired


def test_folder_of_masks_and_a_mask(tmp_path: Path) -> None:
    (problem,) = pairs(["x.png"], ["x.png", "x/000.png"], tmp_path).problems
    assert f"expected one mask, found {tmp_path}/x.png and {tmp_path}/x/000.png" in problem


def test_neighbors_by_name() -> None:
    names = ("0.png", "1.jpg", "1_label.bmp", "2.jpg", "2.jpg.png", "3.jpg", "3.png", "4_label.png", "good.png")
    three, other = Path("a/3.jpg"), Path("a/3.png")
    found = list(neighbors(Path("a", name) for name in names))
    assert [(n.mask.name, n.image.name) for n in found if not n.either] == [
        ("1_label.bmp", "1.jpg"),
        ("2.jpg.png", "2.jpg"),
    ]
    assert Neighbors(other, three, True) in found
    assert Neighbors(three, other, True) in found


def test_neighbors_lie_in_one_folder() -> None:
    assert not list(neighbors([Path("a/1.jpg"), Path("b/1_label.bmp")]))
