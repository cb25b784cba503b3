"""Which layout a folder is taken for."""

from pathlib import Path

import pytest
from PIL import Image

from adkit.errors import UserError
from adkit.init.layout import layout_of


def images(root: Path, **counts: int) -> Path:
    """Folders below ``root``, with ``__`` for a slash, of so many images."""
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (8, 8)).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("normal", ["good", "OK", "healthy", "iO"])
@pytest.mark.parametrize("anomalous", ["bad", "NG", "defects", "niO"])
def test_folders_that_say_what_they_are(tmp_path, normal, anomalous):
    layout = layout_of(images(tmp_path, **{normal: 2, anomalous: 1, "masks": 1}))
    assert layout.keys == {
        "format": "folder",
        "root": str(tmp_path),
        "normal": normal,
        "anomalous": anomalous,
        "masks": "masks",
    }
    assert not layout.doubts


def test_images_without_a_folder_are_normal(tmp_path):
    for number in range(3):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    assert layout_of(tmp_path).keys == {"format": "folder", "root": str(tmp_path), "normal": "."}


def test_categories_of_mvtec(tmp_path):
    layout = layout_of(images(tmp_path, a__train__good=1, b__train__ok=1, a__test__crack=1, notes=1))
    assert layout.keys == {"format": "mvtec", "root": str(tmp_path), "category": "*"}
    assert layout.found == "2 categories as MVTec AD has them (a, b)"


def test_one_category_of_mvtec_is_found_from_above(tmp_path):
    root = images(tmp_path / "bottle", train__good=1, test__broken=1)
    assert layout_of(root).keys == {"format": "mvtec", "root": str(tmp_path), "category": "bottle"}


def test_classes(tmp_path):
    layout = layout_of(images(tmp_path, train__cat=1, train__dog=1, test__cat=1, test__dog=1))
    assert layout.keys["normal"] == "*"
    assert layout.doubts == [
        "nothing says which class is normal, so each is tried against the rest: set normal to one of cat, dog"
    ]


def test_a_folder_around_is_passed(tmp_path):
    root = images(tmp_path / "download" / "parts", good=2, bad=1)
    assert layout_of(tmp_path).keys["root"] == str(root)


def test_several_things_in_one_folder_are_refused(tmp_path):
    images(tmp_path, one__good=1, two__good=1)
    with pytest.raises(UserError, match=r"found several folders with such \(one, two\): name one of them"):
        layout_of(tmp_path)


def test_without_a_word_the_largest_folder_is_normal_and_that_is_doubtful(tmp_path):
    layout = layout_of(images(tmp_path, monday=3, tuesday=1))
    assert layout.keys == {"format": "folder", "root": str(tmp_path), "normal": "monday"}
    assert layout.doubts[0] == "no folder says that it is of normal images: monday has most and is taken"
    assert layout.doubts[1].startswith('tuesday (1 image): left out; say anomalous = "…"')


def test_lists_and_arrays(tmp_path):
    (tmp_path / "list.csv").write_text("path,label,split\n")
    (tmp_path / "arrays.npz").touch()
    assert layout_of(tmp_path / "list.csv").keys == {"format": "csv", "root": str(tmp_path / "list.csv")}
    assert layout_of(tmp_path / "arrays.npz").keys["format"] == "arrays"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "expected a folder of images, found no such folder; check the path"),
        ("other.csv", "expected a folder of images, an npz file, or a csv file with the columns label, path, split"),
        (".", "expected images, found 1 file"),
    ],
)
def test_what_holds_no_images_is_refused(tmp_path, name, sentence):
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=sentence):
        layout_of(tmp_path / name)
