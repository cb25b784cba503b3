from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
from picture_files import mvtec, save

from adkit.data.datasets import open_dataset
from adkit.data.duplicates import shared_pictures
from adkit.data.samples import ArrayFile, ArrayItem, Sample
from adkit.data.tables import ArraysTable, MvtecTable


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


def test_same_seed_same_dataset(tmp_path: Path) -> None:
    mvtec(tmp_path)
    table = MvtecTable(root=str(tmp_path))
    assert open_dataset(table, 3) == open_dataset(table, 3)


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


def test_same_picture_in_training_and_test(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    shutil.copy(category / "train/good/1.png", category / "test/good/again.png")
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings == (
        "tile: 1 test picture is among the training pictures too, which flatters the metrics; take one of "
        "each pair away: tile/test/good/again.png = tile/train/good/1.png",
    )


def test_many_are_counted_and_some_named(tmp_path: Path) -> None:
    category = mvtec(tmp_path)
    for number in range(5):
        shutil.copy(category / "train/good/1.png", category / f"test/good/{number}_again.png")
    (warning,) = open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings
    assert warning.startswith("tile: 5 test pictures are among the training pictures too")
    assert warning.endswith("tile/test/good/2_again.png = tile/train/good/1.png and 2 more")


def test_same_picture_in_two_categories_is_nobodys_concern(tmp_path: Path) -> None:
    one, other = mvtec(tmp_path, "one"), mvtec(tmp_path, "other")
    shutil.copy(save(one / "train/good/9.png", 99), other / "test/good/9.png")
    assert open_dataset(MvtecTable(root=str(tmp_path)), 0).warnings == ()


def test_same_picture_in_classes_is_told_once(tmp_path: Path) -> None:
    pictures = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=[0, 0, 1, 1], x_test=pictures[2:], y_test=[1, 0])
    dataset = open_dataset(ArraysTable(root=str(tmp_path / "a.npz"), normal="*"), 0)
    assert dataset.warnings == (
        f"{tmp_path / 'a.npz'}: 2 test pictures are among the training pictures too, which flatters the "
        "metrics; take one of each pair away: test-images#0 = train-images#2, test-images#1 = train-images#3",
    )


def test_files_of_equal_size_and_ends_differ_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(200_000)
    (tmp_path / "a.bmp").write_bytes(data)
    data[100_000] = 1
    (tmp_path / "b.bmp").write_bytes(data)
    (tmp_path / "c.bmp").write_bytes(data)
    a, b, c = (file_sample(tmp_path / f"{name}.bmp") for name in "abc")
    assert shared_pictures([a, b], [c]) == [(b, c)]


def test_empty_and_missing_files_are_like_no_other(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    a, b, c, d = (file_sample(tmp_path / f"{name}.png") for name in "abcd")
    assert shared_pictures([a, c], [b, d]) == []


def test_seventy_thousand_small_pictures_within_seconds() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (70_000, 28, 28), dtype=np.uint8)
    pictures[65_000] = pictures[17]
    train, test = array_samples("train", pictures[:60_000]), array_samples("test", pictures[60_000:])
    start = time.process_time()
    assert shared_pictures(train, test) == [(train[17], test[5_000])]
    assert time.process_time() - start < 3  # 0.6 s when measured
