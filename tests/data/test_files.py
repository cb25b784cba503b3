from __future__ import annotations

import os
from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.arrays import ArraysTable
from adkit.data.formats.base import DataTable
from adkit.data.formats.classes import ClassesTable
from adkit.data.formats.csv_list import CsvTable
from adkit.data.formats.folder import FolderTable
from adkit.data.formats.mvtec import MvtecTable
from adkit.data.loader import BadImages, Loader
from adkit.data.view import View
from adkit.errors import UserError
from tests.data.closed import as_nobody
from tests.data.image_files import mvtec, save

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions and names of bytes are POSIX's")


def refusal(table: DataTable) -> str:
    with as_nobody(), pytest.raises(UserError) as caught:
        open_dataset(table, 0)
    return str(caught.value)


def sentence(path: str) -> str:
    return f"{path}: expected a folder that can be read, found: Permission denied; fix its permissions, or name another"


@posix
@pytest.mark.parametrize("closed", ["data/good", "data/good/deep"])
def test_folder_that_cannot_be_read(here: Path, closed: str) -> None:
    save(here / "data/good/0.png")
    save(here / "data/good/deep/1.png")
    (here / closed).chmod(0o311)  # one may pass through it, but not list it
    assert refusal(FolderTable(root="data")) == sentence(closed)


@posix
@pytest.mark.parametrize(
    "closed", ["root/tile", "root/tile/test", "root/tile/test/crack", "root/tile/ground_truth/crack"]
)
def test_category_that_cannot_be_read(here: Path, closed: str) -> None:
    mvtec(here / "root")
    (here / closed).chmod(0o300)
    assert refusal(MvtecTable(root="root")) == sentence(closed)


@posix
@pytest.mark.parametrize(
    "table",
    [FolderTable(root="shut/data"), ArraysTable(root="shut/data", normal="*"), CsvTable(root="shut/list.csv")],
    ids=lambda table: table.format,
)
def test_folder_above_that_cannot_be_passed(here: Path, table: DataTable) -> None:
    save(here / "shut/data/good/0.png")
    (here / "shut/list.csv").touch()
    (here / "shut").chmod(0o600)
    assert "shut/" in refusal(table)


@posix
def test_list_that_cannot_be_read(here: Path) -> None:
    (here / "list.csv").touch(mode=0o200)
    assert refusal(CsvTable(root="list.csv")) == (
        "list.csv: expected a path that can be read, found: Permission denied; fix its permissions, or name another"
    )


@posix
def test_image_whose_name_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / "data"
    try:
        os.makedirs(os.fsencode(root) + b"/til\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    mvtec(root, os.fsdecode(b"til\xe9"), os.fsdecode(b"d\xe9faut"))
    for number, name in enumerate((b"\xe9.png", rb"\xe9.png")):
        save(root / os.fsdecode(b"til\xe9/train/good/" + name), 60 + number)
    (root / os.fsdecode(b"til\xe9/test/good/\xff.png")).write_bytes(b"no image")
    dataset = open_dataset(MvtecTable(root=str(root)), 0)
    assert dataset == open_dataset(MvtecTable(root=str(root)), 0)
    (category,) = dataset.categories
    samples = (*category.train, *category.calibration, *category.test)
    bad = BadImages(1)
    ids = [id for batch in Loader(samples, View("squash", 8, 8), 4, bad) for id in batch.ids]
    assert len(set(ids)) == 8
    assert {r"til\xe9/train/good/\xe9.png", r"til\xe9/train/good/\x5cxe9.png", r"til\xe9/test/d\xe9faut/0.png"} <= {
        *ids
    }
    assert list(bad.reasons) == [r"til\xe9/test/good/\xff.png"]
    texts = [category.name, *ids, *(sample.kind for sample in samples), *bad.reasons, *bad.reasons.values()]
    (tmp_path / "scores.csv").write_text("\n".join(texts), encoding="utf-8")


@posix
def test_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    try:
        for half in ("train", "test"):
            os.makedirs(os.fsencode(tmp_path / half) + b"/\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for half, value in (("train", 1), ("test", 2)):
        save(tmp_path / half / os.fsdecode(b"\xe9") / "0.png", value)
    (category,) = open_dataset(ClassesTable(root=str(tmp_path), normal=r"\xe9"), 0).categories
    assert (category.name, [(sample.id, sample.label) for sample in category.test]) == (
        r"\xe9",
        [(r"test/\xe9/0.png", 0)],
    )
