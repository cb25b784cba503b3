from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.formats.textures import TexturesTable
from adkit.data.samples import Category, Dataset
from adkit.errors import UserError
from tests.data.image_files import mvtec, save, square


def opened(root: Path, category: str | tuple[str, ...] = "*", calibration: float = 0) -> Dataset:
    return open_dataset(MvtecTable(root=str(root), category=category, calibration=calibration), 0)


def only(root: Path, calibration: float = 0) -> Category:
    (category,) = opened(root, calibration=calibration).categories
    return category


def problems(root: Path | str, category: str | tuple[str, ...] = "*") -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        open_dataset(MvtecTable(root=str(root), category=category), 0)
    return caught.value.problems


def test_a_category(tmp_path: Path) -> None:
    mvtec(tmp_path)
    category = only(tmp_path)
    assert category.name == "tile"
    assert [sample.id for sample in category.train] == [f"tile/train/good/{n}.png" for n in range(3)]
    assert [(sample.id, sample.label, sample.kind) for sample in category.test] == [
        ("tile/test/crack/0.png", 1, "crack"),
        ("tile/test/crack/1.png", 1, "crack"),
        ("tile/test/good/0.png", 0, "good"),
    ]
    assert category.test[0].mask == tmp_path / "tile/ground_truth/crack/0_mask.png"
    assert category.test[2].mask is None


def test_every_category_sorted(tmp_path: Path) -> None:
    for name in ("wood", "bottle"):
        mvtec(tmp_path, name)
    dataset = opened(tmp_path)
    assert [category.name for category in dataset.categories] == ["bottle", "wood"]
    assert not dataset.shared


def test_listed_categories_in_their_order(tmp_path: Path) -> None:
    for name in ("bottle", "tile", "wood"):
        mvtec(tmp_path, name)
    assert [c.name for c in opened(tmp_path, ("wood", "tile")).categories] == ["wood", "tile"]


@pytest.mark.parametrize("category", ["*", "tile"])
def test_root_that_is_a_category(tmp_path: Path, category: str) -> None:
    (found,) = opened(mvtec(tmp_path), category).categories
    assert found.name == "tile"
    assert found.train[0].id == "train/good/0.png"


@pytest.mark.parametrize(("normal", "anomalous"), [("ok", "ko"), ("OK", "KO"), ("Good", "Bad"), ("normal", "x")])
def test_other_names_of_folders(tmp_path: Path, normal: str, anomalous: str) -> None:
    category = mvtec(tmp_path, kind=anomalous)
    for half in ("train", "test"):
        shutil.move(category / half / "good", category / half / "moved")
        shutil.move(category / half / "moved", category / half / normal)
    found = only(tmp_path)
    assert len(found.train) == 3
    assert {(sample.kind, sample.label) for sample in found.test} == {("good", 0), (anomalous, 1)}


@pytest.mark.parametrize("suffix", ["", "_mask", "_GT", "_label"])
def test_names_of_masks(tmp_path: Path, suffix: str) -> None:
    mvtec(tmp_path, suffix=suffix)
    assert only(tmp_path).test[1].mask == tmp_path / f"tile/ground_truth/crack/1{suffix}.png"


def test_masks_of_all_kinds_in_one_folder(tmp_path: Path) -> None:
    truth = mvtec(tmp_path) / "ground_truth"
    for number in range(2):
        (truth / f"crack/{number}_mask.png").rename(truth / f"{number}_mask.png")
    assert [s.mask for s in only(tmp_path).test if s.label] == [truth / f"{number}_mask.png" for number in range(2)]


def test_mask_of_another_extension(tmp_path: Path) -> None:
    truth = mvtec(tmp_path) / "ground_truth" / "crack"
    (truth / "0_mask.png").unlink()
    mask = save(truth / "0_mask.bmp", square((8, 8), 0, 0, 2))
    assert only(tmp_path).test[0].mask == mask


def test_folder_of_masks_for_an_image(tmp_path: Path) -> None:
    truth = mvtec(tmp_path) / "ground_truth" / "crack"
    (truth / "0_mask.png").unlink()
    save(truth / "0" / "000.png", square((8, 8), 0, 0, 2))
    assert only(tmp_path).test[0].mask == truth / "0"


@pytest.mark.parametrize("name", [".hidden.png", "._0.png", "Thumbs.db", "notes.txt", ".git/0.png"])
def test_what_is_no_image_is_passed_over(tmp_path: Path, name: str) -> None:
    path = mvtec(tmp_path) / "train" / "good" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    assert len(only(tmp_path).train) == 3


def test_validation_folder_is_the_calibration(tmp_path: Path) -> None:
    save(mvtec(tmp_path) / "validation" / "good" / "0.png", 90)
    category = only(tmp_path, calibration=0.5)
    assert [sample.id for sample in category.calibration] == ["tile/validation/good/0.png"]
    assert len(category.train) == 3


def test_validation_folder_joins_training_where_no_calibration_is_wanted(tmp_path: Path) -> None:
    save(mvtec(tmp_path) / "validation" / "good" / "0.png", 90)
    category = only(tmp_path, calibration=0)
    assert category.calibration == ()
    assert len(category.train) == 4


def test_without_test_images(tmp_path: Path) -> None:
    shutil.rmtree(mvtec(tmp_path) / "test")
    assert only(tmp_path).test == ()


def test_anomalous_images_in_train_are_left_out(tmp_path: Path) -> None:
    save(mvtec(tmp_path) / "train" / "crack" / "0.png")
    dataset = opened(tmp_path)
    assert len(dataset.categories[0].train) == 3
    assert dataset.warnings == (
        f"tile: left out of training, because only {tmp_path / 'tile/train/good'} is normal: crack",
    )


def test_loose_test_images_are_left_out(tmp_path: Path) -> None:
    save(mvtec(tmp_path) / "test" / "0.png")
    assert opened(tmp_path).warnings == (
        f"tile: left out, because they are in {tmp_path / 'tile/test'} itself and not in a folder that says "
        "their kind (good, crack, …): 0.png",
    )


def test_missing_root(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere") == (
        f"root: expected a folder of categories, each with train/good, at {tmp_path / 'nowhere'}, "
        "found no such folder; check the path",
    )


def test_missing_root_says_from_where_it_was_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"at data/mvtec (below {tmp_path}), found no such folder" in problems("data/mvtec")[0]


def test_root_that_is_a_file(tmp_path: Path) -> None:
    assert "found a file of that name" in problems(save(tmp_path / "a.png"))[0]


def test_empty_root(tmp_path: Path) -> None:
    assert problems(tmp_path) == (
        f"root: expected folders with train/good in them below {tmp_path}, found an empty folder; "
        "name the folder that holds the categories",
    )


def test_root_of_other_folders(tmp_path: Path) -> None:
    mvtec(tmp_path / "mvtec")
    assert "found mvtec; name the folder that holds the categories" in problems(tmp_path)[0]


def test_category_that_is_not_there(tmp_path: Path) -> None:
    for name in ("bottle", "tile", "wood"):
        mvtec(tmp_path, name)
    assert problems(tmp_path, ("tile", "botle", "xyz")) == (
        f"category: expected a folder botle with train/good in it below {tmp_path}, "
        "found bottle, tile, wood (did you mean bottle?)",
        f"category: expected a folder xyz with train/good in it below {tmp_path}, found bottle, tile, wood",
    )


def test_no_normal_images(tmp_path: Path) -> None:
    shutil.rmtree(mvtec(tmp_path) / "train" / "good")
    assert problems(tmp_path) == (
        f"tile: expected normal training images in {tmp_path / 'tile/train/good'} (or ok, normal), "
        "found no such folder",
    )


def test_empty_folder_of_normal_images(tmp_path: Path) -> None:
    good = mvtec(tmp_path) / "train" / "good"
    shutil.rmtree(good)
    good.mkdir()
    assert problems(tmp_path) == (
        f"tile: expected normal training images in {good} (or ok, normal), found an empty folder",
    )


def test_folder_of_files_that_are_no_images(tmp_path: Path) -> None:
    good = mvtec(tmp_path) / "train" / "good"
    for path in good.iterdir():
        path.rename(path.with_suffix(".dcm"))
    assert problems(tmp_path)[0].endswith(
        "found 3 files (.dcm), none of which is an image (PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000, AVIF, QOI, "
        "PCX, SGI, Sun, PSD, TGA)"
    )


def test_problems_of_all_categories_at_once(tmp_path: Path) -> None:
    for name in ("bottle", "tile"):
        shutil.rmtree(mvtec(tmp_path, name) / "train" / "good")
    assert len(problems(tmp_path)) == 2


def test_textures_are_read_where_they_lie_already(tmp_path: Path) -> None:
    mvtec(tmp_path)
    dataset = open_dataset(TexturesTable(root=str(tmp_path), calibration=0), 0)
    assert [category.name for category in dataset.categories] == ["tile"]


def test_linked_categories_are_called_as_they_lie_there(tmp_path: Path) -> None:
    """Both lead to a folder of the same name."""
    for number in ("a", "b"):
        mvtec(tmp_path / number, "tile")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"line-{number}").symlink_to(tmp_path / number / "tile")
    assert [one.name for one in opened(tmp_path / "data").categories] == ["line-a", "line-b"]
    assert [one.name for one in opened(tmp_path / "data", "line-b").categories] == ["line-b"]
