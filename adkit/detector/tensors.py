"""Tensors on disk as safetensors, which carries no code; read only if size and digest are the stated ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from adkit.detector.manifest import MANIFEST, FileEntry, read_manifest, refusal
from adkit.errors import UserError
from adkit.utils.tensors import all_finite, load_tensors, save_tensors


def write_tensors(state: Mapping[str, Tensor], path: Path) -> FileEntry:
    """Write plain copies of the tensors of ``state``.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        values = tensor.detach().cpu().contiguous()
        if values.untyped_storage().data_ptr() in seen:  # safetensors refuses two views of one memory
            values = values.clone()
        seen.add(values.untyped_storage().data_ptr())
        plain[name] = values
    save_tensors(plain, path)
    return entry_of(path)


def entry_of(path: Path) -> FileEntry:
    """Compute the digest and size of a file."""
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def check_file(folder: Path, name: str, stated: FileEntry) -> None:
    """Raise UserError unless ``folder/name`` is the file that was saved, and OSError where that cannot be seen."""
    path = folder / name
    if not path.is_file():
        raise refusal(path, "the tensors of a detector", "no file")
    if path.resolve().parent != folder.resolve():
        raise refusal(path, "a file of the detector's own folder", f"a link to {path.resolve()}")
    size = path.stat().st_size
    if size != stated.bytes:
        raise refusal(path, f"the {stated.bytes:,} bytes that the manifest states", f"{size:,}")
    if entry_of(path) != stated:
        raise refusal(path, "the digest that the manifest states", "another: it was altered or damaged")


def damage(folder: Path) -> str | None:
    """What is missing or other than it was saved in a detector's folder, as the beginning of a sentence."""
    try:
        manifest = read_manifest(folder / MANIFEST)
        for name, stated in manifest.files.items():
            check_file(folder, name, stated)
    except UserError as error:
        return str(error).rpartition("; ")[0]  # what to do about it differs here
    except OSError as error:
        return f"{error.filename}: expected a file that can be read, found: {error.strerror}"
    return None


def read_tensors(folder: Path, name: str, stated: FileEntry) -> dict[str, Tensor]:
    """Read the tensors of ``folder/name``, on the CPU.

    Raises:
        UserError: the file is missing, outside the folder, not the one that was saved, or has values that are not
            finite.
    """
    path = folder / name
    try:
        check_file(folder, name, stated)
        tensors = load_tensors(path)
    except OSError as error:
        raise refusal(path, "a file that can be read", error.strerror or str(error)) from error
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise refusal(path, "safetensors", f"something else ({error})") from error
    for key, tensor in tensors.items():
        if tensor.is_complex() or tensor.is_quantized:
            raise refusal(path, f"{key} to be of real numbers", str(tensor.dtype))
        if not all_finite(tensor):
            raise refusal(path, f"{key} to be finite", "NaN or inf in it")
    return tensors


def check_alike(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless ``tensors`` have the names, shapes and dtypes of ``own``."""
    for key in own.keys() ^ tensors.keys():
        where = "a tensor that is missing" if key in own else "a tensor that is not one of its own"
        raise refusal(path, "the tensors of its component", f"{key}, {where}")
    for key, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (own[key].shape, own[key].dtype):
            raise refusal(path, f"{key} to be {_described(own[key])}", _described(tensor))


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
