"""``[data] range``: which raw values become 0 and 255, and which images may decide it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adkit.data.contact_sheet import contact_sheet
from adkit.data.dataset import open_dataset
from adkit.data.formats.classes import ClassesTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.images import Range
from adkit.data.ranges import range_of
from adkit.data.samples import Dataset, Sample
from adkit.errors import UserError
from adkit.recipe.reader import read_recipe


def gray(path: Path, *values: float, kind: Any = np.uint16) -> Sample:
    """A gray image of one row of raw values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], kind)).save(path)
    return Sample(path.name, path, 0, "good")


def found(*samples: Sample) -> Range | None:
    return range_of("tile", "auto", samples)[0]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_the_lowest_and_the_highest_of_all_training_images(tmp_path: Path, kind: type) -> None:
    one, other = gray(tmp_path / "0.tif", 800, 1000, kind=kind), gray(tmp_path / "1.tif", 900, 1200, kind=kind)
    assert found(one, other) == found(other, one) == (800, 1200)


def test_one_pixel_in_ten_thousand_is_left_out_at_each_end(tmp_path: Path) -> None:
    values = np.full(10_000, 1000)
    values[:3], values[-3:] = (0, 800, 800), (1200, 1200, 65535)
    assert found(gray(tmp_path / "0.png", *values)) == (800, 1200)
    assert found(gray(tmp_path / "0.png", *values[:-1])) == (0, 1200)  # 9,999 pixels: all of them count


def test_images_that_cannot_be_read_decide_nothing(tmp_path: Path) -> None:
    whole, infinite = gray(tmp_path / "0.tif", 3, 5), gray(tmp_path / "1.tif", 0, np.inf, kind=np.float32)
    assert found(whole, infinite, Sample("gone", tmp_path / "gone.png", 0, "good")) == (3, 5)


def test_images_of_one_value_have_no_range(tmp_path: Path) -> None:
    assert range_of("tile", "auto", [gray(tmp_path / "0.tif", 7, 7)]) == (
        None,
        'tile: data.range: "auto" found no range, for all training images have the value 7',
    )


@pytest.mark.parametrize(("asked", "kept"), [("auto", None), ((3, 5), (3, 5))])
def test_a_range_of_8_bits_is_told_to_change_nothing(tmp_path: Path, asked: Any, kept: Range | None) -> None:
    assert range_of("tile", asked, [gray(tmp_path / "0.png", 3, 5, kind=np.uint8)]) == (
        kept,
        "tile: data.range: expected gray training images of more than 8 bits, found none among 1 image, so it changes "
        "nothing: remove it",
    )


@pytest.mark.parametrize("asked", ["auto", (3, 5)])
def test_images_of_several_depths_are_told(tmp_path: Path, asked: Any) -> None:
    deep, shallow = gray(tmp_path / "0.png", 3, 5), gray(tmp_path / "1.png", 3, 9, kind=np.uint8)
    assert range_of("tile", asked, [deep, shallow]) == (
        (3, 5),
        "tile: data.range leaves 1 of 2 training images as it is, in 8 bits or in color: save all images alike",
    )


def deep_category(root: Path, name: str = "tile", first: int = 800) -> Path:
    """Ten training images, of which image i has the values first + i and first + 100 + i, and test images."""
    for number in range(10):
        gray(root / name / f"train/good/{number}.png", first + number, first + 100 + number)
    gray(root / name / "test/good/0.png", first, first + 50)
    gray(root / name / "test/crack/0.png", first + 1, first + 51)
    return root / name


def opened(root: Path, **keys: Any) -> Dataset:
    return open_dataset(MvtecTable(root=str(root), range="auto", **keys), 0)


def test_neither_calibration_nor_test_images_decide_it(tmp_path: Path) -> None:
    deep_category(tmp_path)
    (category,) = opened(tmp_path, calibration=0.3).categories
    trained = sorted(int(Path(sample.id).stem) for sample in category.train)
    assert category.range == (800 + trained[0], 900 + trained[-1])
    for sample in (*category.calibration, *category.test):
        assert isinstance(sample.source, Path)
        gray(sample.source, 0, 60_000 + int(sample.source.stem))
    (after,) = opened(tmp_path, calibration=0.3).categories
    assert (after.train, after.range) == (category.train, category.range)
    gray(tmp_path / category.train[0].id, 700, 5000)
    assert opened(tmp_path, calibration=0.3).categories[0].range == (700, 5000)


def test_every_category_has_a_range_of_its_own(tmp_path: Path) -> None:
    deep_category(tmp_path, "a", 800)
    deep_category(tmp_path, "b", 5000)
    assert [one.range for one in opened(tmp_path, calibration=0).categories] == [(800, 909), (5000, 5109)]


def test_classes_of_the_same_images_share_one(tmp_path: Path) -> None:
    for name, low in (("x", 100), ("y", 300)):
        for split in ("train", "test"):
            gray(tmp_path / split / name / "0.png", low, low + 50)
            gray(tmp_path / split / name / "1.png", low + 1, low + 51)
    table = ClassesTable(root=str(tmp_path), normal="*", calibration=0, range="auto")
    assert [one.range for one in open_dataset(table, 0).categories] == [(100, 351), (100, 351)]


def test_the_warning_of_little_to_see_goes_with_the_range(tmp_path: Path) -> None:
    deep_category(tmp_path)
    table = MvtecTable(root=str(tmp_path), calibration=0)
    (before,) = open_dataset(table, 0).warnings
    assert before.endswith('in which little is to be seen: set data.range = "auto"')
    assert opened(tmp_path, calibration=0).warnings == ()


def test_a_contact_sheet_shows_what_is_seen(tmp_path: Path) -> None:
    white, black = (gray(tmp_path / f"{value}.png", value, value) for value in (1200, 800))
    sheet = contact_sheet([(white, black)], (800, 1200))
    assert [sheet.getpixel((x, 112)) for x in (112, 324)] == [(255, 255, 255), (0, 0, 0)]


def problem(value: Any, **tables: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read_recipe({"data": {"root": "x", "range": value}, "scorer": {"use": "knn"}, **tables})
    return str(caught.value)


EXPECTED = 'data.range: expected [low, high] with low below high, or "auto", found '


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("wide", EXPECTED + '"wide"'),
        (255, EXPECTED + "255"),
        ([800], EXPECTED + "[800]"),
        ([1, 2, 3], EXPECTED + "[1, 2, 3]"),
        (["a", "b"], EXPECTED + '["a", "b"]'),
        ([float("nan"), 1], EXPECTED + "[nan, 1]"),
        ([0, float("inf")], EXPECTED + "[0, inf]"),
        ([1200, 800], "data.range: expected low below high, found [1200.0, 800.0]"),
        ([5, 5], "data.range: expected low below high, found [5.0, 5.0]"),
    ],
    ids=str,
)
def test_what_is_no_range_is_refused(value: Any, sentence: str) -> None:
    assert problem(value) == sentence


@pytest.mark.parametrize(
    ("tables", "key"), [({"threshold": {"method": "cross"}}, "threshold.method"), ({"run": {"folds": 3}}, "run.folds")]
)
def test_auto_is_refused_where_every_image_is_held_out_once(tables: Any, key: str) -> None:
    assert problem("auto", **tables) == (
        f'data.range: expected [low, high] with {key}, by which every normal image is held out once, found "auto": '
        "adkit check without it tells a range"
    )


def test_auxiliary_images_have_no_range_of_their_own() -> None:
    auxiliary = {"root": "y", "format": "folder", "range": "auto"}
    assert problem([0, 1], auxiliary=auxiliary, adapter={"use": "panda"}) == (
        "auxiliary.range: has no effect, because these images are read as those of [data] are: remove it"
    )
