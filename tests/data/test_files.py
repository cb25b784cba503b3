from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from adkit.data.dataset import open_dataset
from adkit.data.files import contents, images_under
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
from tests.data.image_files import mvtec, save, square

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
    "closed", ["root/tile", "root/tile/train/good", "root/tile/test", "root/tile/ground_truth/crack"]
)
def test_category_that_cannot_be_read(here: Path, closed: str) -> None:
    mvtec(here / "root")
    (here / closed).chmod(0o300)
    assert refusal(MvtecTable(root="root")) == sentence(closed)


def closed_ids(here: Path, closed: str, table: DataTable) -> list[tuple[str, int, str]]:
    """The id, label and kind of what stands for a folder that is closed among the test images."""
    (here / closed).chmod(0o300)
    with as_nobody():
        (category,) = open_dataset(table, 0).categories
        found = [(one.id, one.label, one.kind) for one in category.test if one.closed]
        bad = BadImages(1)
        assert list(Loader([one for one in category.test if one.closed], View("squash", 8, 8), 1, bad)) == []
        assert list(bad.reasons.values()) == ["the folder cannot be read: Permission denied"]
        assert not any(one.closed for one in (*category.train, *category.calibration))
    return found


@posix
@pytest.mark.parametrize("below", ["", "/deep"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_closed_folder_of_test_images_is_one_that_cannot_be_read(here: Path, below: str, masked: bool) -> None:
    category = mvtec(here / "root")
    save(category / "test/crack/deep/9.png", 5)
    if masked:
        save(category / "ground_truth/crack/deep/9_mask.png", square((8, 8), 0, 0, 2))
    closed = f"tile/test/crack{below}"
    assert closed_ids(here, f"root/{closed}", MvtecTable(root="root")) == [(closed, 1, "crack")]


@posix
@pytest.mark.parametrize(("closed", "label"), [("bad", 1), ("bad/deep", 1), ("fine", 0)])
def test_a_closed_folder_of_the_format_folder(here: Path, closed: str, label: int) -> None:
    for number, name in enumerate(("good/0.png", "good/1.png", "bad/0.png", "bad/deep/1.png", "fine/0.png")):
        save(here / "data" / name, 10 + number)
    table = FolderTable(root="data", anomalous="bad", test_normal="fine")
    ((id, found, _),) = closed_ids(here, f"data/{closed}", table)
    assert (id, found) == (closed, label)


@posix
def test_a_closed_class_of_the_test(here: Path) -> None:
    for number, name in enumerate(("train/cat/0.png", "train/cat/1.png", "test/cat/0.png", "test/dog/0.png")):
        save(here / "data" / name, 10 + number)
    table = ClassesTable(root="data", normal="cat")
    assert closed_ids(here, "data/test/dog", table) == [("test/dog", 1, "dog")]


@posix
def test_a_closed_folder_is_of_no_group(here: Path) -> None:
    for name in ("good/t0_0.png", "good/t1_0.png", "bad/t2_0.png", "bad/deep/t3_0.png"):
        save(here / "data" / name, 10 + int(name[-7]))
    table = FolderTable(root="data", anomalous="bad", group=r"(t\d)_", test_share=0)
    assert closed_ids(here, "data/bad/deep", table) == [("bad/deep", 1, "bad")]


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


links = pytest.mark.skipif(os.name == "nt", reason="links need privileges there")


def passed_over(folder: Path) -> tuple[list[str], dict[str, int]]:
    other: dict[str, str] = {}
    images = [path.relative_to(folder).as_posix() for path in images_under(folder, other)]
    return images, dict(Counter(other.values()))


@links
def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "batches/monday/deep/0.png")
    save(tmp_path / "good/1.png")
    (tmp_path / "good/monday").symlink_to(tmp_path / "batches/monday")
    assert passed_over(tmp_path / "good") == (["1.png", "monday/deep/0.png"], {})


@links
def test_link_in_a_folder_that_is_itself_a_link(tmp_path: Path) -> None:
    save(tmp_path / "batches/monday/0.png")
    (tmp_path / "week").mkdir()
    (tmp_path / "week/day").symlink_to(Path("../batches/monday"))
    (tmp_path / "good").symlink_to("week")
    assert passed_over(tmp_path / "good") == (["day/0.png"], {})


@links
@pytest.mark.parametrize("target", [".", "..", "../..", "../sub", "sub"])
def test_links_that_lead_back_are_not_followed(tmp_path: Path, target: str) -> None:
    save(tmp_path / "bad/9.png")
    save(tmp_path / "good/sub/0.png")
    (tmp_path / "good/sub/again").symlink_to(target if target != "sub" else tmp_path / "good/sub")
    assert passed_over(tmp_path / "good") == (["sub/0.png"], {"link to a folder that is read already": 1})


@links
def test_a_folder_that_two_links_lead_to_is_read_once(tmp_path: Path) -> None:
    save(tmp_path / "other/0.png")
    (tmp_path / "good").mkdir()
    for name in ("a", "b"):
        (tmp_path / "good" / name).symlink_to(tmp_path / "other")
    assert passed_over(tmp_path / "good") == (["a/0.png"], {"link to a folder that is read already": 1})


@links
def test_folders_that_link_to_one_another_are_read_once(tmp_path: Path) -> None:
    for one in range(12):
        save(tmp_path / f"good/{one}/0.png")
    for one in range(12):
        for other in range(12):
            (tmp_path / f"good/{one}/to{other}").symlink_to(tmp_path / f"good/{other}")
    images, other_things = passed_over(tmp_path / "good")
    assert (len(images), other_things) == (12, {"link to a folder that is read already": 144})


@posix
def test_everything_that_is_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    save(tmp_path / "x.png/1.png")
    for name in (".hidden.png", "notes.txt", "more.TXT", "Thumbs.db", "scan.dcm", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert passed_over(tmp_path) == (
        ["0.png", "x.png/1.png"],
        {
            "hidden": 2,
            ".txt": 2,
            ".db": 1,
            ".dcm": 1,
            "file without extension": 1,
            "link to nothing": 1,
            "neither file nor folder": 1,
            "folder named like an image": 1,
        },
    )


def test_what_lies_in_place_of_images(tmp_path: Path) -> None:
    assert contents(tmp_path) == "found an empty folder"
    (tmp_path / "scan.dcm").touch()
    assert contents(tmp_path) == (
        "found 1 file (.dcm), which is not an image (PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000, AVIF, QOI, PCX, "
        "SGI, Sun, PSD, TGA)"
    )
    for name in "abcd":
        save(tmp_path / "deep" / f"{name}.png")
    assert contents(tmp_path) == "found 4 images, named deep/a.png, deep/b.png, deep/c.png and 1 more"
