"""Ways to damage and to forge a detector's folder, for ``fuzz_detectors.py``."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from adkit.detector.manifest import MANIFEST, digest_of


@dataclass
class Folder:
    """A copy of a detector's folder that is being damaged; only files that are written to are really copied."""

    path: Path
    random: np.random.Generator

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.path / MANIFEST).read_bytes()))

    def tensor_file(self) -> Path:
        return self.choice(sorted(self.path.glob("*.safetensors")))

    def choice(self, items: Any) -> Any:
        return items[int(self.random.integers(len(items)))]

    def write(self, path: Path, data: bytes) -> None:
        path.unlink(missing_ok=True)  # it may be a link to the whole detector's
        path.write_bytes(data)

    def write_manifest(self, values: dict[str, Any]) -> None:
        self.write(self.path / MANIFEST, json.dumps(values).encode())

    def forge(self, values: dict[str, Any] | None = None) -> None:
        """Recompute every digest, so that the damage does not show in them."""
        values = self.manifest if values is None else values
        values.pop("digest", None)
        for name, entry in values["files"].items():
            if (self.path / name).is_file():
                data = (self.path / name).read_bytes()
                entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        self.write_manifest(values | {"digest": digest_of(values)})


def bits(folder: Folder) -> None:
    path = folder.tensor_file() if folder.random.random() < 0.7 else folder.path / MANIFEST
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little") + 8 if path.name != MANIFEST else 0
    within = header if header and folder.random.random() < 0.7 else len(data)
    for _ in range(int(folder.random.integers(1, 4))):
        data[int(folder.random.integers(within))] ^= 1 << int(folder.random.integers(8))
    folder.write(path, bytes(data))


def truncation(folder: Folder) -> None:
    path = folder.tensor_file() if folder.random.random() < 0.8 else folder.path / MANIFEST
    data = path.read_bytes()
    folder.write(path, data[: int(folder.random.integers(len(data)))])


def swapped(folder: Folder) -> None:
    """Exchange tensors or files, or remove, rename, retype or reshape one tensor."""
    files = sorted(folder.path.glob("*.safetensors"))
    path = folder.choice(files)
    if folder.random.random() < 0.2:
        other = folder.choice(files)
        one, two = path.read_bytes(), other.read_bytes()
        folder.write(path, two)
        folder.write(other, one)
        return
    tensors = safetensors.torch.load_file(path)
    names = sorted(tensors)
    first, second = folder.choice(names), folder.choice(names)
    way = folder.choice(["exchange", "drop", "rename", "half", "flat", "nan", "another", "rows"])
    value = tensors[first]
    if way == "exchange":
        tensors[first], tensors[second] = tensors[second], value
    elif way == "drop":
        del tensors[first]
    elif way == "rename":
        tensors[f"{first}2"] = tensors.pop(first)
    elif way == "half":
        tensors[first] = value.to(folder.choice([torch.float16, torch.float64, torch.int8, torch.complex64]))
    elif way == "flat":
        tensors[first] = value.reshape(-1)
    elif way == "nan":
        tensors[first] = torch.full_like(value, torch.nan) if value.is_floating_point() else value
    elif way == "another":
        tensors = safetensors.torch.load_file(folder.choice(files))
    else:
        tensors[first] = value[: len(value) // 2] if value.ndim else value
    folder.write(path, safetensors.torch.save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}))


def paths(folder: Folder) -> None:
    values = folder.manifest
    kind = folder.choice(["extractors", "members"])
    entry = folder.choice(values[kind])
    name = entry["file"]
    there = folder.path / name
    names = ["../" + name, "/etc/passwd", "..", "a/../../" + name, "C:\\" + name, name + "\0"]
    evil = folder.choice([*names, "LINK", "OUT", "SELF", "FIFO"])
    if evil in ("LINK", "OUT"):
        target = folder.path.parent / f"outside-{folder.path.name}.safetensors"
        target.write_bytes(there.read_bytes())
        there.unlink()
        os.symlink(target if evil == "LINK" else Path("..", target.name), there)
        return
    if evil == "SELF":
        there.unlink()
        os.symlink(there.name, there)
        return
    if evil == "FIFO":
        there.unlink()
        os.mkfifo(there)
        return
    entry["file"] = evil
    values["files"][evil] = values["files"].pop(name)
    folder.write_manifest(values)


def huge(folder: Folder) -> None:
    """Write shapes, sizes, counts or networks that would take more memory than there is."""
    values = folder.manifest
    way = folder.choice(["header", "image", "whole image", "network", "numbers", "bytes", "long list", "levels"])
    size = folder.choice([1024, 2048, 4096, 8192])
    if way == "header":
        path = folder.tensor_file()
        shape = [int(folder.random.integers(1, 2**40)) for _ in range(int(folder.random.integers(1, 5)))]
        header = json.dumps({"bank.layer1": {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**62]}}).encode()
        folder.write(path, len(header).to_bytes(8, "little") + header + b"\0" * 1000)
    elif way in ("image", "whole image"):
        before = values["preprocessing"]["crop"]
        values["preprocessing"].update(image_size=size, crop=size)
        for entry in values["extractors"] if way == "whole image" else ():
            for level in entry["levels"].values():
                level["geometry"] = _scaled_geometry(level, size / before)
    elif way == "network":
        name = folder.choice(["vit_giant_patch14_224", "convnext_xxlarge", "vgg19", "resnetv2_152x4_bit", "resnet200"])
        folder.choice(values["extractors"])["component"]["params"]["backbone"] = name
    elif way == "numbers":
        _set_leaf(values, folder, [2**31, 2**62, 1e38, 10**9])
    elif way == "bytes":
        folder.choice(list(values["files"].values()))["bytes"] = 2**50
    elif way == "long list":
        values["calibration"] = [0.5] * int(folder.random.integers(10**5, 10**7))
    else:
        level = folder.choice(list(folder.choice(values["extractors"])["levels"].values()))
        level["channels"] = 2**40
    folder.write_manifest(values)


def _scaled_geometry(level: dict[str, Any], by: float) -> dict[str, Any]:
    """The geometry for an input ``by`` times as large: spatial levels get more cells, pooled ones larger ones."""
    if level["grid"] == [1, 1]:
        return {key: [value * by for value in pair] for key, pair in level["geometry"].items()}
    level["grid"] = [round(cells * by) for cells in level["grid"]]
    return dict(level["geometry"])


def foreign(folder: Folder) -> None:
    """Put something else in the place of a file."""
    path = folder.tensor_file() if folder.random.random() < 0.4 else folder.path / MANIFEST
    deep = folder.choice(['[{"a":', "["]) * int(folder.random.integers(10, 10**6))
    contents: list[bytes] = [
        b"",
        b"null",
        b"[1, 2",
        deep.encode(),
        b'{"schema": "adkit.detector/3"}',
        b'{"schema": "adkit.report/2", "digest": "x"}',
        b"\xff\xfe{\0}\0",
        b"<!doctype html><html></html>",
        b"1" * 10**5,
        b'{"schema": "adkit.detector/3", "files": {}, "files": []}',
        pickle.dumps(Runs(str(folder.path / "ran"))),
        b"[" + b"{}," * int(folder.random.integers(10, 10**7)) + b"{}]",
        os.urandom(1000),
    ]
    folder.write(path, folder.choice(contents))


@dataclass
class Runs:
    """An object whose pickle makes a folder when it is read."""

    marker: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def value(folder: Folder) -> None:
    """Replace one or two values of the manifest by others, perhaps of another type."""
    values = folder.manifest
    strange = [None, -1, 0, 1, True, 0.5, 2**70, 1e308, "", "../x", "a\nb", "\x1b[31m", "\0", [], {}, [[1]], "knn", [0]]
    for _ in range(int(folder.random.integers(1, 3))):
        _set_leaf(values, folder, strange)
    folder.write_manifest(values)


def _set_leaf(values: Any, folder: Folder, choices: list[Any]) -> None:
    place = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = folder.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and folder.random.random() < 0.9:
            place = place[key]
            continue
        place[key] = folder.choice(choices)
        return


DAMAGE: dict[str, Callable[[Folder], None]] = {
    "bit flips": bits,
    "truncation": truncation,
    "swapped tensors": swapped,
    "paths and links": paths,
    "huge shapes and networks": huge,
    "foreign files": foreign,
    "other values": value,
}
