from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.data.dataset import open_dataset
from adkit.data.duplicates import equal_images
from adkit.data.formats.arrays import ArraysTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.samples import ArrayFile, ArrayItem, Sample
from tests.data.image_files import mvtec, save


def file_sample(path: Path) -> Sample:
    return Sample(path.name, path, 0, "good")


def array_samples(name: str, array: np.ndarray) -> list[Sample]:
    file = ArrayFile(Path("a.npz"), name, array)
    return [Sample(f"{name}#{row}", ArrayItem(file, row), 0, "0") for row in range(len(array))]


def test_calibration_is_held_out_of_training(tmp_path: Path) -> None:
    mvtec(tmp_path)
    (category,) = open_dataset(MvtecTable(root=str(tmp_path), calibration=0.4), 0).categories
    assert (len(category.train), len(category.calibration)) == (2, 1)
    assert not set(category.train) & set(category.calibration)


def test_the_seed_alone_decides_what_is_held_out(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "good" / f"{number}.png", number)
    table = FolderTable(root=str(tmp_path), calibration=0.3)

    def held(seed: int) -> list[str]:
        return [sample.id for sample in open_dataset(table, seed).categories[0].calibration]

    assert held(3) == held(3) == ["good/2.png", "good/6.png", "good/7.png"]  # for ever
    assert held(4) != held(3)


def test_samples_can_be_keys(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        x_train=np.zeros((2, 4, 4), np.uint8),
        y_train=[0, 1],
        x_test=np.ones((2, 4, 4), np.uint8),
        y_test=[0, 1],
    )
    table = ArraysTable(root=str(tmp_path / "a.npz"), normal="*")
    first, second = (open_dataset(table, 0).categories[0].test for _ in range(2))
    assert {*first} == {*second}
    assert len({*first}) == 2


def test_nothing_in_common(tmp_path: Path) -> None:
    mvtec(tmp_path)
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings == ()


def test_same_image_in_training_and_test(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    shutil.copy(category / "train/good/1.png", category / "test/good/again.png")
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings == (
        "tile: 1 test image is among the training images too, which inflates the metrics; remove one of "
        "each pair: tile/test/good/again.png = tile/train/good/1.png",
    )


def test_many_are_counted_and_some_named(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for number in range(5):
        shutil.copy(category / "train/good/1.png", category / f"test/good/{number}_again.png")
    (warning,) = open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings
    assert warning.startswith("tile: 5 test images are among the training images too")
    assert warning.endswith("tile/test/good/2_again.png = tile/train/good/1.png and 2 more")


def test_same_image_in_two_categories_is_nobodys_concern(tmp_path: Path) -> None:
    one, other = mvtec(tmp_path, "one"), mvtec(tmp_path, "other")
    shutil.copy(save(one / "train/good/9.png", 99), other / "test/good/9.png")
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings == ()


def test_same_image_in_classes_is_reported_once(tmp_path: Path) -> None:
    images = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 0, 1, 1], x_test=images[2:], y_test=[1, 0])
    dataset = open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal="*"), 0)
    assert dataset.warnings == (
        f"{tmp_path / 'a.npz'}: 2 test images are among the training images too, which inflates the "
        "metrics; remove one of each pair: test-images#0 = train-images#2, test-images#1 = train-images#3",
    )


def test_copies_among_the_normal_images_are_trained_on_or_held_out_together(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "good" / f"{number}.png", number)
    shutil.copy(tmp_path / "good" / "3.png", tmp_path / "good" / "copy.png")
    pair, found = {"good/3.png", "good/copy.png"}, []
    for seed in range(20):
        (category,) = open_dataset(FolderTable(root=str(tmp_path), calibration=0.5), seed).categories
        held = {sample.id for sample in category.calibration}
        assert len(category.train) + len(held) == 11
        found.append(len(held & pair))
    assert set(found) == {0, 2}  # of 20 draws at a half, some hold both out and some neither


@pytest.mark.parametrize("seed", range(20))
def test_no_split_has_an_image_on_both_sides(tmp_path: Path, seed: int) -> None:
    for number in range(12):  # four images, one of them once, the others two, three and six times
        save(tmp_path / "good" / f"{number}.png", (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3)[number])
    (category,) = open_dataset(FolderTable(root=str(tmp_path), calibration=0.5), seed).categories
    contents = [{Path(str(s.source)).read_bytes() for s in part} for part in (category.train, category.calibration)]
    assert all(contents)
    assert not contents[0] & contents[1]
    assert len({sample.id for sample in (*category.train, *category.calibration)}) == 12


def test_moved_images_are_counted_and_some_named(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for number in range(3):
        shutil.copy(category / "train/good/1.png", save(category / f"validation/good/{number}.png"))
    save(category / "validation/good/new.png", 77)
    dataset = open_dataset(MvtecTable(root=str(tmp_path)), 0)
    assert [sample.id for sample in dataset.categories[0].calibration] == ["tile/validation/good/new.png"]
    assert len(dataset.categories[0].train) == 6
    assert dataset.warnings == (
        "tile: 3 calibration images are copies of other normal images and were moved to training, because a copy says "
        "nothing about new images; remove one of each pair: tile/validation/good/0.png = tile/train/good/1.png, "
        "tile/validation/good/1.png = tile/train/good/1.png, tile/validation/good/2.png = tile/train/good/1.png",
    )


def test_copies_in_calibration_alone_stay_as_one_part(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for name, value in (("a", 77), ("b", 77), ("c", 78)):
        save(category / f"validation/good/{name}.png", value)
    dataset = open_dataset(MvtecTable(root=str(tmp_path)), 0)
    (found,) = dataset.categories
    assert [found.group_of(sample).rpartition("/")[2] for sample in found.calibration] == ["a.png", "a.png", "c.png"]
    assert not dataset.warnings


def test_without_calibration_copies_are_nobodys_concern(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    shutil.copy(category / "train/good/1.png", category / "train/good/copy.png")
    assert open_dataset(MvtecTable(root=str(tmp_path), calibration=0), 0).warnings == ()


@pytest.mark.parametrize("normal", [0, "*"])
def test_copies_in_arrays_stay_together(tmp_path: Path, normal: int | str) -> None:
    images = np.repeat(np.arange(6, dtype=np.uint8), 16).reshape(6, 4, 4)
    images[:3] = 0  # label 0: one image three times; label 1: three images
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 0, 0, 1, 1, 1], x_test=images[:1] + 9, y_test=[0])
    table = ArraysTable(root=str(tmp_path / "a.npz"), normal=normal, calibration=0.4)  # type: ignore[arg-type]
    dataset = open_dataset(table, 0)
    sizes = [(len(category.train), len(category.calibration)) for category in dataset.categories]
    assert sizes == [(3, 0), (2, 1)][: len(sizes)]


def test_files_of_equal_size_and_ends_differ_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(200_000)
    (tmp_path / "a.bmp").write_bytes(data)
    data[100_000] = 1
    (tmp_path / "b.bmp").write_bytes(data)
    (tmp_path / "c.bmp").write_bytes(data)
    a, b, c = (file_sample(tmp_path / f"{name}.bmp") for name in "abc")
    assert equal_images([a, b, c]) == {"b.bmp": 0, "c.bmp": 0}


def test_empty_and_missing_files_are_like_no_other(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    a, b, c, d = (file_sample(tmp_path / f"{name}.png") for name in "abcd")
    assert equal_images([a, b, c, d]) == {}


def test_seventy_thousand_small_images_within_seconds() -> None:
    images = np.random.default_rng(0).integers(0, 256, (70_000, 28, 28), dtype=np.uint8)
    images[65_000] = images[17]
    samples = [*array_samples("train", images[:60_000]), *array_samples("test", images[60_000:])]
    start = time.process_time()
    assert equal_images(samples) == {"train#17": 0, "test#5000": 0}
    assert time.process_time() - start < 3  # 0.6 s when measured


def test_further_pages_are_counted_and_told(tmp_path: Path) -> None:
    for number in range(3):
        black, gray = (Image.new("L", (8, 8), value) for value in (0, 50 + number))
        (tmp_path / "good").mkdir(exist_ok=True)
        black.save(tmp_path / f"good/{number}.tif", save_all=True, append_images=[gray, gray])
    save(tmp_path / "good/3.png")
    dataset = open_dataset(FolderTable(root=str(tmp_path), calibration=0), 0)
    assert dataset.warnings == (
        f"{tmp_path.name}: 3 images have several pages or frames, of which the first alone is read (good/0.tif: 3, "
        "good/1.tif: 3, good/2.tif: 3): save each that shows a part as a file of its own",
    )
    assert dataset.passed_over == {"further page or frame": 6}


def test_what_is_passed_over_is_counted_once(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for folder in ("train/good", "test/crack", "ground_truth/crack"):
        (category / folder / "notes.txt").touch()
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).passed_over == {".txt": 3}


def test_a_pair_of_copies_of_two_groups_has_one_remedy(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for number in range(3):
        (category / f"train/good/{number}.png").rename(category / f"train/good/a{number}.png")
    shutil.copy(category / "train/good/a1.png", category / "test/good/b1.png")
    save(category / "test/good/b2.png", 90)
    table = MvtecTable(root=str(tmp_path), group="/([ab]?)\\d", group_missing="own")
    assert open_dataset(table, 0).warnings == (
        "tile: 1 test image is among the training images too, which inflates the metrics; remove one of each pair: "
        "tile/test/good/b1.png = tile/train/good/a1.png",
    )
