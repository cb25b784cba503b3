from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from adkit.data.dataset import open_dataset
from adkit.data.formats.arrays import ArraysTable, find_arrays
from adkit.data.formats.base import Notes
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import ArrayItem, Dataset
from adkit.data.view import View
from adkit.errors import UserError

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (6, 4, 5), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8)
TRAIN_LABELS, TEST_LABELS = np.array([0, 1, 2] * 2, np.uint8), np.array([0, 1, 2], np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, end: str = "") -> Path:
    arrays = {
        "train-images-idx3-ubyte": TRAIN,
        "train-labels-idx1-ubyte": TRAIN_LABELS,
        "t10k-images-idx3-ubyte": TEST,
        "t10k-labels-idx1-ubyte": TEST_LABELS,
    }
    for name, array in arrays.items():
        (folder / (name + end)).write_bytes(gzip.compress(idx(array)) if end == ".gz" else idx(array))
    return folder


def write_npz(path: Path, train: np.ndarray = TRAIN, test: np.ndarray = TEST, keras: bool = False) -> Path:
    names = ("x_train", "y_train", "x_test", "y_test") if keras else NPZ
    np.savez(path, **dict(zip(names, (train, TRAIN_LABELS, test, TEST_LABELS), strict=True)))
    return path


NPZ = ("train_images", "train_labels", "test_images", "test_labels")


def opened(root: Path, normal: object = 1, names: tuple[str, ...] | None = None) -> Dataset:
    return open_dataset(ArraysTable(root=str(root), normal=normal, names=names, calibration=0), 0)  # type: ignore[arg-type]


def problem(root: Path, normal: object = 1, names: tuple[str, ...] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, normal, names)
    (sentence,) = caught.value.problems
    return sentence


def pixels(dataset: Dataset) -> np.ndarray:
    sources = [sample.source for sample in dataset.categories[0].train]
    return np.stack([source.pixels for source in sources if isinstance(source, ArrayItem)])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx(tmp_path: Path, end: str) -> None:
    dataset = opened(write_idx(tmp_path, end))
    (category,) = dataset.categories
    assert category.name == "1"
    assert [(s.id, s.kind) for s in category.train] == [("train-images#1", "1"), ("train-images#4", "1")]
    assert [(s.id, s.label) for s in category.test] == [
        ("test-images#0", 1),
        ("test-images#1", 0),
        ("test-images#2", 1),
    ]
    np.testing.assert_array_equal(pixels(dataset), TRAIN[[1, 4]])


def test_idx_is_mapped_not_read(tmp_path: Path) -> None:
    (source, *_) = (sample.source for sample in opened(write_idx(tmp_path)).categories[0].train)
    assert isinstance(source, ArrayItem)
    assert isinstance(source.file.array, np.memmap)


@pytest.mark.parametrize("keras", [False, True])
def test_npz(tmp_path: Path, keras: bool) -> None:
    np.testing.assert_array_equal(pixels(opened(write_npz(tmp_path / "a.npz", keras=keras))), TRAIN[[1, 4]])


def test_npz_of_one_band(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", TRAIN[..., None], TEST[..., None])
    np.testing.assert_array_equal(pixels(opened(path)), TRAIN[[1, 4]])


def test_npz_of_floats(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", (TRAIN / 255).astype(np.float32), TEST / 255)
    found = pixels(opened(path))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, TRAIN[[1, 4]])


def test_npz_in_color_is_loaded(tmp_path: Path) -> None:
    color = np.zeros((6, 8, 8, 3), np.uint8)
    color[..., 0] = 255
    dataset = opened(write_npz(tmp_path / "a.npz", color, color[:3]))
    (batch,) = Loader(dataset.categories[0].train, View("squash", 8, 8), 4, BadImages(0))
    assert batch.images.amax(dim=(0, 2, 3)).tolist() == [1, 0, 0]


def test_several_normal_labels(tmp_path: Path) -> None:
    (category,) = opened(write_idx(tmp_path), (0, 2)).categories
    assert category.name == "0+2"
    assert [sample.label for sample in category.test] == [0, 1, 0]


def test_each_label_against_the_rest(tmp_path: Path) -> None:
    dataset = opened(write_idx(tmp_path), "*", names=("shirt", "bag", "boot"))
    assert dataset.shared
    assert [(c.name, [s.label for s in c.test]) for c in dataset.categories] == [
        ("shirt", [0, 1, 1]),
        ("bag", [1, 0, 1]),
        ("boot", [1, 1, 0]),
    ]


def test_categories_share_their_samples(tmp_path: Path) -> None:
    first, second, _ = find_arrays(ArraysTable(root=str(write_idx(tmp_path)), normal="*"), Notes())
    assert first.test[2] is second.test[2]


def test_missing_root(tmp_path: Path) -> None:
    assert problem(tmp_path / "x") == (
        "root: expected an npz file or a folder of idx files (train-images-idx3-ubyte.gz, …) at "
        f"{tmp_path / 'x'}, found nothing there; check the path"
    )


def test_empty_folder(tmp_path: Path) -> None:
    assert problem(tmp_path) == (
        f"root: expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz in {tmp_path}, "
        "found an empty folder; check the path"
    )


def test_missing_idx_file(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    assert problem(tmp_path).startswith(
        f"root: expected t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz in {tmp_path}, found t10k-images"
    )


def test_truncated_idx(tmp_path: Path) -> None:
    path = write_idx(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    assert problem(tmp_path) == f"{path}: expected 120 bytes for 6 × 4 × 5, found 113; download the file again"


def test_truncated_gz(tmp_path: Path) -> None:
    path = write_idx(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert problem(tmp_path).startswith(f"{path}: expected an idx file, found one that cannot be read (")


def test_file_that_is_not_idx(tmp_path: Path) -> None:
    path = write_idx(tmp_path) / "train-labels-idx1-ubyte"
    path.write_bytes(b"<html>")
    assert problem(tmp_path) == (f"{path}: expected an idx file of bytes (first bytes 00 00 08), found 3c 68 74 6d")


def test_empty_idx(tmp_path: Path) -> None:
    path = write_idx(tmp_path) / "train-labels-idx1-ubyte"
    path.write_bytes(b"")
    assert problem(tmp_path).startswith(f"{path}: expected an idx file, found one that cannot be read (")


def test_npz_without_the_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=TRAIN, labels=TRAIN_LABELS)
    assert problem(tmp_path / "a.npz") == (
        f"root: expected an array train_images or x_train in {tmp_path / 'a.npz'}, found images, labels"
    )


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\3\4 broken"])
def test_file_that_is_not_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert problem(tmp_path / "a.npz").startswith(
        f"root: expected an npz file of plain arrays at {tmp_path / 'a.npz'}, found one that cannot be read ("
    )


def test_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", TRAIN)
    assert problem(tmp_path / "a.npy") == (
        f"root: expected an npz file at {tmp_path / 'a.npy'}, found a single array; use np.savez"
    )


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", np.array([{"a": 1}] * 6, dtype=object))
    assert "cannot be read (it holds pickled objects)" in problem(path)


def test_wrong_shape(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", TRAIN.reshape(6, 20))
    assert problem(path) == (
        f"{path}: train_images: expected images of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), found (6, 20)"
    )


def test_wrong_type(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", TRAIN.astype(np.int64))
    assert problem(path) == f"{path}: train_images: expected uint8 of 0 to 255 or floats of 0 to 1, found int64"


@pytest.mark.parametrize(("worst", "shown"), [(255.0, "0 to 255"), (np.nan, "nan to nan")])
def test_floats_out_of_range(tmp_path: Path, worst: float, shown: str) -> None:
    train = np.zeros((6, 4, 5))
    train[3, 2, 1] = worst
    path = write_npz(tmp_path / "a.npz", train)
    assert problem(path) == (f"{path}: train_images: expected floats of 0 to 1, found {shown}; divide by 255")


def test_labels_of_another_number(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", TRAIN[:5])
    assert problem(path) == (
        f"{path}: expected 5 whole numbers as labels, one per image of train_images, found uint8 of shape (6,)"
    )


def test_label_that_is_not_there(tmp_path: Path) -> None:
    assert problem(write_idx(tmp_path), (1, 7)) == (
        "normal: expected labels of the training images in "
        f"{tmp_path / 'train-images-idx3-ubyte'}, which are 0, 1, 2; found 7"
    )


def test_too_few_names(tmp_path: Path) -> None:
    assert problem(write_idx(tmp_path), 1, ("shirt", "bag")) == (
        "names: expected a name for each of the labels 0 to 2, the first for 0, found 2 names"
    )


def test_gz_of_more_than_its_header_says_is_not_unpacked_whole(tmp_path: Path) -> None:
    path = write_idx(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(200 * 2**20)))
    tracemalloc.start()
    try:
        sentence = problem(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert sentence.startswith(f"{path}: expected ")
    assert sentence.endswith(" bytes for 6 × 4 × 5, found more than that; download the file again")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_whose_header_claims_more_than_any_memory(tmp_path: Path, end: str) -> None:
    path = write_idx(tmp_path, end) / f"train-images-idx3-ubyte{end}"
    head = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**31, 4)
    path.write_bytes(gzip.compress(head) if end else head)
    sentence = problem(tmp_path)
    if end:
        assert sentence.startswith(
            f"{path}: expected an array that memory has room for, found one of 36,893,488,138.8 GB"
        )
    else:
        assert sentence == (
            f"{path}: expected 36,893,488,138,829,168,640 bytes for 4294967295 × 2147483648 × 4, found 0; download the "
            "file again"
        )


def test_npz_whose_header_claims_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 8, 8)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(64))
        archive.writestr("train_labels.npy", header.getvalue() + bytes(64))
    assert problem(path) == (
        f"{path}: train_images: expected 70,368,744,177,664 bytes for 1099511627776 × 8 × 8 of uint8, found "
        f"{len(header.getvalue()) + 64:,} in the file; make the file again"
    )
