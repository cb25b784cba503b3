"""Format ``arrays``: images as rows of idx files (as MNIST has them) or of an npz file."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from adkit.data.files import contents, named
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.samples import ArrayFile, ArrayItem, Sample
from adkit.errors import UserError
from adkit.utils.container import available_memory
from adkit.utils.text import counted, some

_IDX = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
_NPZ = {
    "train": (("train_images", "x_train"), ("train_labels", "y_train")),
    "test": (("test_images", "x_test"), ("test_labels", "y_test")),
}
_NPZ_GROUPS = {"train": ("train_groups", "g_train"), "test": ("test_groups", "g_test")}
"""Names of the arrays that may say which part each image shows."""
_IDX_BYTES = 8  # the only type of idx element that images and labels come in
_ROWS = 4096


class ArraysTable(DataTable):
    """A folder of idx files as MNIST has them, or one npz file, whose ``train_groups`` may say what is one part."""

    format: Literal["arrays"] = Field(default="arrays", description="idx files or an npz file")
    normal: int | tuple[int, ...] | Literal["*"] = Field(
        examples=[0], description='the normal label, a list of them, or "*": each label against the rest'
    )
    names: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the labels 0, 1, 2 and so on; default: the numbers"
    )

    def find(self, seed: int, notes: Notes) -> list[Found]:
        return find_arrays(self, notes)

    @property
    def shares_images(self) -> bool:
        return self.normal == "*"


@dataclass(frozen=True)
class _Part:
    """The training or the test half of the data."""

    images: ArrayFile
    labels: npt.NDArray[np.int64]
    groups: list[str | None] | None = None
    """The key of the part that each image shows; None where the data does not say."""


def find_arrays(table: ArraysTable, notes: Notes) -> list[Found]:
    """Find one category of all normal labels together or, with ``normal = "*"``, one per label."""
    train, test = _parts(table)
    present = sorted({int(label) for label in np.unique(train.labels)})
    names = _names(table, sorted({*present, *(int(label) for label in np.unique(test.labels))}))
    wanted: list[tuple[int, ...]]
    if table.normal == "*":
        wanted = [(label,) for label in present]
    else:
        labels = (table.normal,) if isinstance(table.normal, int) else tuple(dict.fromkeys(table.normal))
        if absent := [str(label) for label in labels if label not in present]:
            notes.problems.append(
                f"normal: expected labels of the training images in {train.images.path}, which are "
                f"{some([str(label) for label in present], 20)}; found {some(absent)}"
            )
            return []
        wanted = [labels]
    trained = _samples(train, "train-images", names, 0)
    normal, anomalous = (_samples(test, "test-images", names, label) for label in (0, 1))
    found = []
    for labels in wanted:
        in_train, in_test = np.isin(train.labels, labels), np.isin(test.labels, labels)
        found.append(
            Found(
                name="+".join(names[label] for label in labels),
                normal=[trained[row] for row in np.flatnonzero(in_train)],
                test=[normal[row] if in_test[row] else anomalous[row] for row in range(len(normal))],
                expected=f"in {train.images.path}, found none",
            )
        )
    return found


def _samples(part: _Part, key: str, names: Mapping[int, str], label: int) -> list[Sample]:
    groups = part.groups or [None] * len(part.labels)
    return [
        Sample(f"{key}#{row}", ArrayItem(part.images, row), label, names[kind], group=group)
        for row, (kind, group) in enumerate(zip(part.labels.tolist(), groups, strict=True))
    ]


def _names(table: ArraysTable, labels: list[int]) -> dict[int, str]:
    if table.names is None:
        return {label: str(label) for label in labels}
    if labels and not (labels[0] >= 0 and labels[-1] < len(table.names)):
        raise UserError(
            f"names: expected a name for each of the labels {labels[0]} to {labels[-1]}, the first for 0, "
            f"found {counted(len(table.names), 'name')}"
        )
    return {label: table.names[label] for label in labels}


def _parts(table: ArraysTable) -> tuple[_Part, _Part]:
    path = Path(table.root).expanduser()
    if path.is_dir():
        return _idx_part(path, "train"), _idx_part(path, "test")
    if path.is_file():
        return _npz_parts(path)
    raise UserError(
        f"root: expected an npz file or a folder of idx files (train-images-idx3-ubyte.gz, …) at "
        f"{named(table.root)}, found nothing there; check the path"
    )


def _idx_part(folder: Path, half: str) -> _Part:
    (images_path, images), (labels_path, labels) = (_read_idx(_idx_file(folder, stem)) for stem in _IDX[half])
    return _part(ArrayFile(images_path, _IDX[half][0], _images(images, str(images_path))), labels, labels_path)


def _idx_file(folder: Path, stem: str) -> Path:
    kind = "idx3-ubyte" if stem.endswith("images") else "idx1-ubyte"
    names = [f"{stem}{dot}{kind}{end}" for dot in "-." for end in ("", ".gz")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        present = [other.name for other in sorted(folder.iterdir()) if not other.name.startswith(".")]
        found = f"found {some(present)}" if present else contents(folder)
        raise UserError(f"root: expected {names[0]} or {names[1]} in {folder}, {found}; check the path")
    return path


def _read_idx(path: Path) -> tuple[Path, npt.NDArray[np.uint8]]:
    """Read an idx file; an uncompressed one is mapped, so that only the rows that are used are read."""
    try:
        data: npt.NDArray[np.uint8] = _unzipped(path) if path.suffix == ".gz" else np.memmap(path, np.uint8, mode="r")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: expected an idx file, found one that cannot be read ({error})") from error
    head = bytes(data[:4])
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _IDX_BYTES or head[3] > 3 or len(data) < 4 + 4 * head[3]:
        raise UserError(f"{path}: expected an idx file of bytes (first bytes 00 00 08), found {head.hex(' ')}")
    start = 4 + 4 * head[3]
    shape = struct.unpack(f">{head[3]}I", bytes(data[4:start]))
    size = math.prod(shape)
    if len(data) - start != size:
        more = "more than that" if len(data) - start > size else f"{len(data) - start:,}"
        raise UserError(
            f"{path}: expected {counted(size, 'byte')} for {' × '.join(map(str, shape))}, found {more}; download the "
            "file again"
        )
    return path, data[start:].reshape(shape)


def _unzipped(path: Path) -> npt.NDArray[np.uint8]:
    """What a gz file holds, but no more than a byte beyond what its header says, however much that would become."""
    with gzip.open(path) as file:
        head = file.read(4)
        if head[:3] != bytes((0, 0, _IDX_BYTES)) or len(head) < 4:
            return np.frombuffer(head, np.uint8)
        head += file.read(4 * head[3])
        size = math.prod(struct.unpack(f">{len(head) // 4 - 1}I", head[4 : len(head) // 4 * 4]))
        _check_room(size, str(path))
        data = np.empty(len(head) + size + 1, np.uint8)
        data[: len(head)] = np.frombuffer(head, np.uint8)
        end = len(head)
        while count := file.readinto(data[end:].data):
            end += count
    return data[:end]


def _check_room(size: int, where: str) -> None:
    """Raise UserError unless there is memory for an array of ``size`` bytes."""
    if size > (free := available_memory()):
        raise UserError(
            f"{where}: expected an array that memory has room for, found one of {size / 1e9:,.1f} GB, and "
            f"{free / 1e9:.1f} GB is free; make it smaller, or use a machine with more memory"
        )


def _npz_array(archive: Any, key: str, where: str) -> npt.NDArray[Any]:
    """Read an array of an archive whose header claims no more than it has, and no more than memory has room for."""
    names = archive.zip.namelist()
    info = archive.zip.getinfo(key if key in names else f"{key}.npy")
    with archive.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    size = math.prod(shape) * dtype.itemsize
    if size > info.file_size and not dtype.hasobject:
        raise UserError(
            f"{where}: expected {counted(size, 'byte')} for {' × '.join(map(str, shape))} of {dtype}, found "
            f"{info.file_size:,} in the file; make the file again"
        )
    _check_room(max(size, info.file_size), where)
    array: npt.NDArray[Any] = archive[key]
    return array


def _npz_parts(path: Path) -> tuple[_Part, _Part]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"root: expected an npz file at {path}, found a single array; use np.savez")
        with archive:
            return _npz_part(path, archive, "train"), _npz_part(path, archive, "test")
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        why = "it holds pickled objects" if "pickle" in str(error) else error
        raise UserError(
            f"root: expected an npz file of plain arrays at {path}, found one that cannot be read ({why})"
        ) from error


def _npz_part(path: Path, archive: Any, half: str) -> _Part:
    keys = []
    for names in _NPZ[half]:
        key = next((name for name in names if name in archive), None)
        if key is None:
            raise UserError(
                f"root: expected an array {' or '.join(names)} in {path}, found {some(sorted(archive)) or 'none'}"
            )
        keys.append(key)
    images, labels = keys
    array = _images(_npz_array(archive, images, f"{path}: {images}"), f"{path}: {images}")
    part = _part(ArrayFile(path, images, array), _npz_array(archive, labels, f"{path}: {labels}"), path)
    name = next((name for name in _NPZ_GROUPS[half] if name in archive), None)
    if name is None:
        return part
    where = f"{path}: {name}"
    return replace(part, groups=_groups(_npz_array(archive, name, where), len(array), where))


def _groups(keys: npt.NDArray[Any], count: int, where: str) -> list[str | None]:
    if keys.shape != (count,) or keys.dtype.kind not in "uiU":
        raise UserError(
            f"{where}: expected {counted(count, 'whole number or text', 'whole numbers or texts')}, the group of each "
            f"image, found {keys.dtype} of shape {keys.shape}"
        )
    return [str(key) or None for key in keys.tolist()]  # an empty text names no part


def _images(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """Convert images of any accepted shape and type to uint8, (n, h, w) gray or (n, h, w, 3) RGB."""
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)) or 0 in array.shape[1:]:
        raise UserError(
            f"{where}: expected images of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), found {array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UserError(f"{where}: expected uint8 of 0 to 255 or floats of 0 to 1, found {array.dtype}")
    bytes_: npt.NDArray[np.uint8] = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):
        rows = array[start : start + _ROWS]
        low, high = rows.min(), rows.max()
        if not (low >= 0 and high <= 1):  # false for nan, too
            raise UserError(f"{where}: expected floats of 0 to 1, found {low:g} to {high:g}; divide by 255")
        bytes_[start : start + _ROWS] = np.rint(rows.astype(np.float32) * 255)
    return bytes_


def _part(images: ArrayFile, labels: npt.NDArray[Any], path: Path) -> _Part:
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras stores those of CIFAR
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or len(labels) != len(images.array):
        raise UserError(
            f"{path}: expected {counted(len(images.array), 'whole number')} as labels, one per image of {images.key}, "
            f"found {labels.dtype} of shape {labels.shape}"
        )
    return _Part(images, labels.astype(np.int64))
