from __future__ import annotations

from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.csv_list import CsvTable
from adkit.data.samples import Category
from adkit.errors import UserError
from tests.data.image_files import save, square

HEAD = "path,label,split,mask\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        save(tmp_path / "images" / f"{number}.png", number)
    save(tmp_path / "masks" / "3.png", square((8, 8), 0, 0, 2))
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def opened(path: Path, calibration: float = 0) -> tuple[Category, ...]:
    return open_dataset(CsvTable(root=str(path), calibration=calibration), 0).categories


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        opened(path)
    return caught.value.problems


def test_a_list(folder: Path) -> None:
    lines = "images/0.png,good,train,\nimages/1.png,0,test,\nimages/3.png,crack,test,masks/3.png\n"
    (category,) = opened(written(folder, HEAD + lines))
    assert category.name == "list"
    assert [sample.id for sample in category.train] == ["images/0.png"]
    assert [(s.id, s.label, s.kind, s.mask) for s in category.test] == [
        ("images/1.png", 0, "good", None),
        ("images/3.png", 1, "crack", folder / "masks" / "3.png"),
    ]


def test_categories(folder: Path) -> None:
    text = "path,label,split,category\nimages/0.png,ok,train,b\nimages/1.png,ok,train,a\n"
    assert [category.name for category in opened(written(folder, text))] == ["b", "a"]


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_calibration_of_the_list(folder: Path, split: str) -> None:
    path = written(folder, HEAD + f"images/0.png,ok,train,\nimages/1.png,ok,{split},\n")
    (category,) = opened(path, calibration=0.5)
    assert [sample.id for sample in category.calibration] == ["images/1.png"]
    (category,) = opened(path, calibration=0)
    assert [sample.id for sample in category.train] == ["images/0.png", "images/1.png"]


@pytest.mark.parametrize("written_as", ["images/0.png", "./images/0.png", "masks/../images/0.png", "{}/0.png"])
def test_one_file_has_one_id(folder: Path, written_as: str) -> None:
    line = written_as.format(folder / "images")
    (category,) = opened(written(folder, f"{HEAD}{line},good,train,\n"))
    assert [sample.id for sample in category.train] == ["images/0.png"]
    path = written(folder, f"{HEAD}images/0.png,good,train,\n{line},good,test,\n")
    assert problems(path) == (f"{path}:3: path: images/0.png is on line 2 already; list each image once",)


def test_id_of_a_file_beside_the_folder_of_the_list(folder: Path) -> None:
    (folder / "lists").mkdir()
    (category,) = opened(written(folder / "lists", HEAD + "../images/0.png,good,train,\n"))
    assert [sample.id for sample in category.train] == ["../images/0.png"]


def test_byte_order_mark_of_spreadsheets(folder: Path) -> None:
    (category,) = opened(written(folder, "\ufeff" + HEAD + "images/0.png,good,train,\n"))
    assert len(category.train) == 1


def test_missing_file(tmp_path: Path) -> None:
    assert problems(tmp_path / "list.csv") == (
        f"root: expected a csv file at {tmp_path / 'list.csv'}, found no such file; check the path",
    )


def test_folder_of_that_name(tmp_path: Path) -> None:
    assert "found a folder of that name" in problems(tmp_path)[0]


def test_missing_column(folder: Path) -> None:
    path = written(folder, "file,label,split\nimages/0.png,good,train\n")
    assert problems(path) == (
        f"{path}:1: expected the columns path, label and split (and optionally mask, category), "
        "found no path among file, label, split; the first line names the columns",
    )


def test_no_lines(folder: Path) -> None:
    path = written(folder, HEAD)
    assert problems(path) == (f"{path}: expected a line per image below the names of the columns, found none",)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\xff,split\n")
    assert problems(tmp_path / "list.csv")[0].startswith(
        f"{tmp_path / 'list.csv'}: expected comma-separated text in UTF-8, found something else ("
    )


def test_no_normal_training_images(folder: Path) -> None:
    path = written(folder, HEAD + "images/0.png,good,test,\n")
    assert problems(path) == (
        f"list: expected normal training images as lines of {path} labeled good, ok, normal or 0 in the "
        "split train, found none",
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (",good,train,", "expected a value for path, found none"),
        ("images/1.png,good", "expected a value for split, found none"),
        ("images/1.png,good,train,,,", "expected 4 values, found more; put commas in double quotes"),
        (
            "images/1.png,good,tran,",
            "split: expected one of train, test, calibration, validation, found tran (did you mean train?)",
        ),
        (
            "images/1.png,crack,train,",
            "label: expected good, ok, normal or 0 in the split train, which is of normal images alone, "
            "found crack; give it the split test",
        ),
        (
            "images/0.png,good,test,",
            "path: images/0.png is on line 2 already; list each image once",
        ),
    ],
)
def test_line_with_a_problem(folder: Path, line: str, sentence: str) -> None:
    path = written(folder, f"{HEAD}images/0.png,good,train,\n{line}\n")
    assert problems(path) == (f"{path}:3: {sentence}",)


@pytest.mark.parametrize(("key", "line"), [("path", "{},good,train,"), ("mask", "images/1.png,crack,test,{}")])
def test_file_that_is_not_there(folder: Path, key: str, line: str) -> None:
    path = written(folder, f"{HEAD}images/0.png,good,train,\n{line.format('nowhere.png')}\n")
    assert problems(path) == (
        f"{path}:3: {key}: expected a file at {folder / 'nowhere.png'}, found none; paths start from the csv's folder",
    )


def test_only_so_many_lines_are_named(folder: Path) -> None:
    path = written(folder, HEAD + "images/0.png,good,train,\n" + "x.png,good,train,\n" * 30)
    assert len(problems(path)) == 21
    assert problems(path)[-1] == f"{path}: 10 more lines have problems"
