"""Masks that lie among the images of which they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.data.dataset import open_dataset
from adkit.data.formats.classes import ClassesTable
from adkit.data.formats.csv_list import CsvTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.samples import Category, Dataset
from adkit.errors import UserError
from tests.data.image_files import mvtec, save, square


def photograph(seed: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 190, size, dtype=np.uint8)


def kolektor(root: Path, name: str = "{}_label.bmp", extension: str = "jpg") -> None:
    """Ten good and three bad images, each with its mask beside it, which is black where the image is good."""
    for number in range(10):
        save(root / f"good/{number}.{extension}", photograph(number))
        save(root / "good" / name.format(number), 0, (16, 16))
    for number in range(3):
        save(root / f"bad/{number}.{extension}", photograph(10 + number))
        save(root / "bad" / name.format(number), square((16, 16), 2, number, 3))


def opened(root: Path, masks: str | None = None) -> Dataset:
    table = FolderTable(root=str(root), anomalous="bad", masks=masks, calibration=0, test_share=0)
    return open_dataset(table, 0)


def ids(category: Category) -> list[str]:
    return [sample.id for sample in (*category.train, *category.test)]


def problems(root: Path, masks: str | None = None) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        opened(root, masks)
    return caught.value.problems


@pytest.mark.parametrize("masks", [None, "bad"])
@pytest.mark.parametrize(
    "name", ["{}_label.bmp", "{}_mask.png", "{}.jpg.png", "{}.png", "{}_GT.PNG", "mask_{}.png"], ids=str
)
def test_masks_beside_images_are_their_masks(tmp_path: Path, name: str, masks: str | None) -> None:
    kolektor(tmp_path, name)
    (category,) = opened(tmp_path, masks).categories
    assert ids(category) == [f"good/{n}.jpg" for n in range(10)] + [f"bad/{n}.jpg" for n in range(3)]
    assert [sample.mask for sample in category.test] == [tmp_path / "bad" / name.format(n) for n in range(3)]


def test_masks_beside_images_are_counted_and_some_named(tmp_path: Path) -> None:
    kolektor(tmp_path)
    good = tmp_path / "good"
    assert opened(tmp_path).warnings == (
        f"{tmp_path.name}: 13 masks lie beside the images and are taken as such, not as images: {good}/0_label.bmp of "
        f"0.jpg, {good}/1_label.bmp of 1.jpg, {good}/2_label.bmp of 2.jpg and 10 more",
    )


def test_layout_of_magnetic_tiles_as_published(tmp_path: Path) -> None:
    kolektor(tmp_path, "{}.png")
    for old, new in (("good", "MT_Free"), ("bad", "MT_Blowhole")):
        (tmp_path / new).mkdir()
        (tmp_path / old).rename(tmp_path / new / "Imgs")
    table = FolderTable(
        root=str(tmp_path), normal="MT_Free/Imgs", anomalous="MT_Blowhole/Imgs", masks="MT_Blowhole/Imgs"
    )
    (category,) = open_dataset(table, 0).categories
    assert len(category.normal) == 10
    assert {sample.mask for sample in category.test if sample.label} == {
        tmp_path / f"MT_Blowhole/Imgs/{number}.png" for number in range(3)
    }


def test_masks_beside_test_images_of_mvtec(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for mask in (category / "ground_truth/crack").iterdir():
        mask.rename(category / "test/crack" / mask.name)
    shutil.rmtree(category / "ground_truth")
    (found,) = open_dataset(MvtecTable(root=str(tmp_path)), 0).categories
    assert [(s.id, s.mask) for s in found.test if s.label] == [
        (f"tile/test/crack/{n}.png", category / f"test/crack/{n}_mask.png") for n in range(2)
    ]


def test_masks_that_a_list_has_as_images(tmp_path: Path) -> None:
    kolektor(tmp_path)
    lines = [f"good/{n}{end},good,train" for n in range(10) for end in (".jpg", "_label.bmp")]
    lines += [f"bad/{n}{end},bad,test" for n in range(3) for end in (".jpg", "_label.bmp")]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    (category,) = open_dataset(CsvTable(root=str(tmp_path / "list.csv"), calibration=0), 0).categories
    assert (len(category.train), len(category.test)) == (10, 3)


def test_masks_are_left_out_of_classes(tmp_path: Path) -> None:
    kolektor(tmp_path)
    for half in ("train", "test"):
        shutil.copytree(tmp_path / "bad", tmp_path / "classes" / half / "bad")
    dataset = open_dataset(ClassesTable(root=str(tmp_path / "classes"), normal="bad", calibration=0), 0)
    assert [sample.mask for sample in (*dataset.categories[0].train, *dataset.categories[0].test)] == [None] * 6
    assert dataset.warnings[0].startswith(
        "bad: 6 masks lie beside the images and are left out, as this format has no masks: "
    )


def test_photographs_whose_names_end_like_those_of_masks_are_images(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / f"good/{number}_label.png", photograph(number))
    dataset = open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0)
    assert len(dataset.categories[0].train) == 6
    assert not dataset.warnings


def test_photographs_that_are_named_like_masks_of_others_are_images_with_a_warning(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / f"good/{number}.png", photograph(number))
        save(tmp_path / f"good/{number}_label.png", photograph(20 + number))
    dataset = open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0)
    assert len(dataset.categories[0].train) == 12
    good = tmp_path / "good"
    assert dataset.warnings == (
        f"{tmp_path.name}: 6 images have the name of a mask of another ({good}/0_label.png of 0.png, "
        f"{good}/1_label.png of 1.png, {good}/2_label.png of 2.png and 3 more), but count as images, because only one "
        "of the two must look like a mask: move masks into a folder of their own",
    )


def test_photographs_in_two_formats_are_images(tmp_path: Path) -> None:
    for number in range(3):
        for extension in ("png", "bmp"):
            save(tmp_path / f"good/{number}.{extension}", photograph(number))
    assert len(open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0).categories[0].train) == 6


def test_images_in_black_and_white_are_images(tmp_path: Path) -> None:
    for number in range(3):
        for name in (f"{number}.png", f"{number}_label.png"):
            save(tmp_path / "good" / name, (photograph(number) > 120).astype(np.uint8) * 255)
    assert len(open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0).categories[0].train) == 6


def test_a_mask_of_another_size_is_an_image(tmp_path: Path) -> None:
    save(tmp_path / "good/0.png", photograph(0))
    save(tmp_path / "good/0_label.png", square((8, 8), 0, 0, 2))
    assert len(open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0).categories[0].train) == 2


def test_jpeg_masks_beside_images(tmp_path: Path) -> None:
    kolektor(tmp_path)
    for mask in tmp_path.rglob("*_label.bmp"):
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=75)
        mask.unlink()
    assert len(opened(tmp_path).categories[0].samples) == 13


def test_mask_beside_a_good_image_that_has_a_defect(tmp_path: Path) -> None:
    kolektor(tmp_path)
    mask = save(tmp_path / "good/0_label.bmp", square((16, 16), 2, 2, 3))
    assert problems(tmp_path) == (
        f"{mask}: expected no anomalous pixel in the mask of a good image ({tmp_path}/good/0.jpg), found 9; empty the "
        "mask, or put the image among the anomalous ones",
    )


def test_mask_beside_the_image_and_another_in_the_folder_of_masks(tmp_path: Path) -> None:
    kolektor(tmp_path)
    for number in range(3):
        save(tmp_path / f"masks/{number}.png", square((16, 16), 5, number, 3))
    assert problems(tmp_path, "masks")[0] == (
        f"{tmp_path}/bad/0.jpg: expected one mask, found {tmp_path}/masks/0.png and {tmp_path}/bad/0_label.bmp: keep "
        "one, or put them into a folder 0 beside the other masks, where all of them count"
    )


def test_one_mask_beside_two_images_of_its_name(tmp_path: Path) -> None:
    kolektor(tmp_path)
    save(tmp_path / "bad/0.png", photograph(99))
    assert problems(tmp_path)[0] == (
        f"{tmp_path}/bad/0_label.bmp: expected the mask of one image, found {tmp_path}/bad/0.jpg and "
        f"{tmp_path}/bad/0.png of that name: give each a mask that is called like it in full, folder and extension "
        "included"
    )


def test_folder_of_masks_that_is_that_of_the_images_and_has_none(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"good/{number}.png", photograph(number))
        save(tmp_path / f"bad/{number}.png", photograph(9 + number))
    assert problems(tmp_path, "bad") == (
        f"masks: expected x.png, x_mask.png or mask_x.png in {tmp_path}/bad for bad/x.png, found 4 images, named "
        "0.png, 1.png, 2.png and 1 more; rename the masks after their images",
    )


@pytest.mark.parametrize(
    "layout", [("{}.png", "masks/{}.png"), ("images/{}.png", "masks/{}_mask.png"), ("rgb/{}.png", "gt/{}.png")], ids=str
)
def test_masks_in_a_subfolder_of_the_images(tmp_path: Path, layout: tuple[str, str]) -> None:
    image, mask = layout
    for number in range(3):
        save(tmp_path / "good" / f"{number}.png", photograph(number))
        save(tmp_path / "bad" / image.format(number), photograph(9 + number))
        save(tmp_path / "bad" / mask.format(number), square((16, 16), 2, number, 3))
    (category,) = opened(tmp_path).categories
    assert [(s.source, s.mask) for s in category.test] == [
        (tmp_path / "bad" / image.format(number), tmp_path / "bad" / mask.format(number)) for number in range(3)
    ]


def test_masks_of_dark_images(tmp_path: Path) -> None:
    kolektor(tmp_path, "{}.png", "bmp")
    for path in tmp_path.rglob("*.bmp"):
        save(path, (photograph(int(path.stem)) - 60) // 5)  # 0 to 25: nearly black throughout
    assert len(opened(tmp_path).categories[0].samples) == 13


def test_truncated_mask_beside_its_image(tmp_path: Path) -> None:
    kolektor(tmp_path, "{}_mask.png")
    mask = tmp_path / "bad/1_mask.png"
    mask.write_bytes(mask.read_bytes()[:50])
    dataset = opened(tmp_path)
    assert [(s.id, s.mask is None) for s in dataset.categories[0].test] == [
        ("bad/0.jpg", False),
        ("bad/1.jpg", True),
        ("bad/2.jpg", False),
    ]
    assert "1 anomalous image has a mask that cannot be read" in dataset.warnings[1]


def test_masks_beside_images_of_classes_are_told_of_once(tmp_path: Path) -> None:
    kolektor(tmp_path)
    for half in ("train", "test"):
        for name in ("good", "bad"):
            shutil.copytree(tmp_path / name, tmp_path / "classes" / half / name)
    dataset = open_dataset(ClassesTable(root=str(tmp_path / "classes"), normal="*", calibration=0), 0)
    assert [len(category.test) for category in dataset.categories] == [13, 13]
    (warning,) = (text for text in dataset.warnings if "masks lie" in text)
    assert warning.startswith(f"{tmp_path / 'classes'}: 26 masks lie beside the images and are left out, as ")
