from __future__ import annotations

import os
from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.folder import FolderTable
from adkit.data.samples import Category
from adkit.errors import UserError
from tests.data.image_files import save, square


def parts(root: Path) -> None:
    for number in range(10):
        save(root / "good" / f"{number}.png", number)
    for number in range(2):
        save(root / "bad" / f"{number}.png", 20 + number)
        save(root / "masks" / f"{number}.png", square((8, 8), 0, number, 2))


def only(table: FolderTable, seed: int = 0) -> Category:
    (category,) = open_dataset(table, seed).categories
    return category


def problems(table: FolderTable) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        open_dataset(table, 0)
    return caught.value.problems


def test_normal_only(tmp_path: Path) -> None:
    parts(tmp_path)
    category = only(FolderTable(root=str(tmp_path)))
    assert category.name == tmp_path.name
    assert (len(category.train), len(category.calibration), len(category.test)) == (8, 2, 0)


def test_a_share_of_the_normal_images_is_tested_on(tmp_path: Path) -> None:
    parts(tmp_path)
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", test_share=0.3, calibration=0))
    assert [(sample.label, sample.kind) for sample in category.test] == [(0, "good")] * 3 + [(1, "bad")] * 2
    assert len(category.train) == 7
    assert not {s.id for s in category.train} & {s.id for s in category.test}


def test_normal_test_images_of_their_own(tmp_path: Path) -> None:
    parts(tmp_path)
    save(tmp_path / "fine" / "0.png", 90)
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", test_normal="fine", calibration=0))
    assert [sample.id for sample in category.test] == ["fine/0.png", "bad/0.png", "bad/1.png"]
    assert len(category.train) == 10


def test_masks(tmp_path: Path) -> None:
    parts(tmp_path)
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", masks="masks"))
    assert [sample.mask for sample in category.test if sample.label] == [
        tmp_path / "masks" / "0.png",
        tmp_path / "masks" / "1.png",
    ]


def test_subfolders_say_the_kind(tmp_path: Path) -> None:
    parts(tmp_path)
    save(tmp_path / "bad" / "dent" / "deep" / "0.png", 70)
    save(tmp_path / "good" / "monday" / "0.png", 71)
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", calibration=0, test_share=0))
    assert [sample.kind for sample in category.test] == ["bad", "bad", "dent"]
    assert category.train[-1].id == "good/monday/0.png"


def test_images_in_the_root_itself(tmp_path: Path) -> None:
    parts(tmp_path)
    save(tmp_path / "0.png", 90)
    table = FolderTable(root=str(tmp_path), normal=".", anomalous="bad", masks="masks", test_share=0, calibration=0)
    assert [sample.id for sample in only(table).train] == ["0.png", *(f"good/{n}.png" for n in range(10))]


def test_masks_below_the_anomalous_images_are_no_images(tmp_path: Path) -> None:
    parts(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "bad" / "masks")
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", masks="bad/masks", test_share=0))
    assert [sample.id for sample in category.test] == ["bad/0.png", "bad/1.png"]


def test_missing_root(tmp_path: Path) -> None:
    assert problems(FolderTable(root=str(tmp_path / "x"))) == (
        f"root: expected a folder of images at {tmp_path / 'x'}, found no such folder; check the path",
    )


def test_every_missing_subfolder_is_named(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    table = FolderTable(root=str(tmp_path), anomalous="bad", masks="masks", test_normal="fine")
    assert problems(table) == (
        f"anomalous: expected images in {tmp_path / 'bad'}, found no such folder; check the name",
        f"masks: expected images in {tmp_path / 'masks'}, found no such folder; check the name",
        f"test_normal: expected images in {tmp_path / 'fine'}, found no such folder; check the name",
        f"{tmp_path.name}: expected normal training images in {tmp_path / 'good'}, found an empty folder",
    )


def test_masks_without_anomalous_images(tmp_path: Path) -> None:
    parts(tmp_path)
    assert problems(FolderTable(root=str(tmp_path), masks="masks")) == (
        "masks: expected the key anomalous, too, found none; masks are of anomalous images",
    )


def test_masks_of_which_none_has_the_name_of_an_image(tmp_path: Path) -> None:
    parts(tmp_path)
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(mask.with_name(f"defect{mask.name}"))
    assert problems(FolderTable(root=str(tmp_path), anomalous="bad", masks="masks")) == (
        f"masks: expected x.png, x_mask.png or mask_x.png in {tmp_path / 'masks'} for bad/x.png, found 2 images, named "
        "defect0.png, defect1.png; rename the masks after their images",
    )


def test_masks_named_before_their_images(tmp_path: Path) -> None:
    parts(tmp_path)
    for mask in (tmp_path / "masks").iterdir():
        mask.rename(mask.with_name(f"mask_{mask.name}"))
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", masks="masks"))
    assert [s.mask for s in category.test if s.label] == [tmp_path / f"masks/mask_{number}.png" for number in range(2)]


def test_masks_in_the_root_among_everything(tmp_path: Path) -> None:
    parts(tmp_path)
    for number in range(2):
        (tmp_path / f"masks/{number}.png").rename(tmp_path / f"{number}_mask.png")
    category = only(FolderTable(root=str(tmp_path), anomalous="bad", masks="."))
    assert [s.mask for s in category.test if s.label] == [tmp_path / f"{number}_mask.png" for number in range(2)]


def test_masks_of_no_image_are_counted(tmp_path: Path) -> None:
    parts(tmp_path)
    save(tmp_path / "masks/7.png", 0)
    dataset = open_dataset(FolderTable(root=str(tmp_path), anomalous="bad", masks="masks"), 0)
    assert dataset.passed_over == {"mask of no image": 1}


@pytest.mark.parametrize("extension", ["jfif", "jpe", "dib", "pnm"])
def test_images_of_every_extension_are_fitted_on(tmp_path: Path, extension: str) -> None:
    for number in range(4):
        save(tmp_path / "good" / f"{number}.{'png' if number < 2 else extension}", 10 + number)
    assert len(only(FolderTable(root=str(tmp_path), calibration=0)).train) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need privileges there")
def test_folder_of_images_that_is_linked_into_that_of_normal_images(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"batches/monday/{number}.png", number)
    (tmp_path / "parts/good").mkdir(parents=True)
    (tmp_path / "parts/good/monday").symlink_to("../../batches/monday")
    category = only(FolderTable(root=str(tmp_path / "parts"), calibration=0))
    assert [sample.id for sample in category.train] == [f"good/monday/{number}.png" for number in range(4)]
