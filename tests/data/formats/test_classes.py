from __future__ import annotations

from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.classes import ClassesTable
from adkit.data.samples import Dataset
from adkit.errors import UserError
from tests.data.image_files import save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for value, name in enumerate(("bird", "cat", "dog")):
        for number in range(2):
            save(tmp_path / "train" / name / f"{number}.png", 10 * value + number)
        save(tmp_path / "test" / name / "0.png", 100 + value)
    return tmp_path


def opened(root: Path, normal: str | tuple[str, ...]) -> Dataset:
    return open_dataset(ClassesTable(root=str(root), normal=normal, calibration=0), 0)


def problems(root: Path, normal: str | tuple[str, ...]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        opened(root, normal)
    return caught.value.problems


def test_one_normal_class(root: Path) -> None:
    dataset = opened(root, "cat")
    (category,) = dataset.categories
    assert not dataset.shared
    assert category.name == "cat"
    assert [sample.id for sample in category.train] == ["train/cat/0.png", "train/cat/1.png"]
    assert [(s.id, s.kind, s.label) for s in category.test] == [
        ("test/bird/0.png", "bird", 1),
        ("test/cat/0.png", "cat", 0),
        ("test/dog/0.png", "dog", 1),
    ]


def test_several_normal_classes(root: Path) -> None:
    (category,) = opened(root, ("cat", "dog")).categories
    assert category.name == "cat+dog"
    assert len(category.train) == 4
    assert [sample.label for sample in category.test] == [1, 0, 0]


def test_each_class_against_the_rest(root: Path) -> None:
    dataset = opened(root, "*")
    assert dataset.shared
    assert [(c.name, [s.label for s in c.test]) for c in dataset.categories] == [
        ("bird", [0, 1, 1]),
        ("cat", [1, 0, 1]),
        ("dog", [1, 1, 0]),
    ]


def test_class_that_is_not_there(root: Path) -> None:
    assert problems(root, ("cats", "dog")) == (
        f"normal: expected a folder cats in {root / 'train'}, found bird, cat, dog (did you mean cat?)",
    )


def test_class_without_images(root: Path) -> None:
    (root / "train" / "eel").mkdir()
    assert problems(root, "*") == (
        f"eel: expected normal training images in {root / 'train/eel'}, found an empty folder",
    )


def test_missing_root(tmp_path: Path) -> None:
    assert problems(tmp_path / "x", "*") == (
        f"root: expected train/<class> and test/<class> below {tmp_path / 'x'}, found no such folder; check the path",
    )


def test_missing_half(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "0.png")
    assert "found no folder test; check the path" in problems(tmp_path, "*")[0]
