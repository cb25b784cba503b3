"""Files and folders that are whole or absent, whatever ends the writing of them."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

_DRAFT: Final = ".draft"
_DRAFTED: Final = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(_DRAFT)}")
_AT_WORK: Final = "lock"
"""The file in a draft of a folder that is locked while somebody writes it."""
_SWEPT: Final = 3
"""Folders above a folder in which drafts of it may lie: in the first of them that was there."""
_CHUNK: Final = 2**20


def draft_of(path: Path) -> Path:
    """A hidden name beside ``path`` to write it under, which nobody else has."""
    return path.with_name(f".{secrets.token_hex(8)}{_DRAFT}")


def is_draft(path: Path) -> bool:
    """Whether a file has such a name."""
    return _DRAFTED.fullmatch(path.name) is not None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write a file, which becomes ``path`` when the block ends well and else is removed.

    A process that is killed leaves the draft, which has a hidden name beside ``path``: see ``sweep_files``. What must
    outlast a power cut takes a ``sync`` at the end of the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to write into, which becomes ``folder`` when the block ends well and else is removed.

    What a process that was killed left, the next one of that name removes.

    Args:
        replace: whether a folder of that name makes way; without it, one that is not empty is an OSError.
    """
    parents = folder.absolute().parents
    place = next((parent for parent in parents if parent.exists()), parents[0])
    for parent in parents[:_SWEPT]:
        _sweep(parent, folder.name)
    with (
        tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", suffix=".partial", dir=place, ignore_cleanup_errors=True
        ) as work,
        FileLock(Path(work, _AT_WORK)),
    ):
        draft = Path(work, "new")
        draft.mkdir()
        yield draft
        folder.parent.mkdir(parents=True, exist_ok=True)
        if replace and folder.exists():
            os.rename(folder, Path(work, "old"))
        os.rename(draft, folder)


def _sweep(parent: Path, name: str) -> None:
    """Remove what killed processes left of a folder of that name; what one is at work on has a lock that is held."""
    for left in parent.glob(f".{glob.escape(name)}.*.partial"):
        lock = left / _AT_WORK
        if not lock.is_file():
            continue
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(left / "new", ignore_errors=True)
            shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):  # it is at work, or somebody else's
            continue


def sweep_files(folder: Path) -> None:
    """Remove what killed processes left of files below ``folder``, to which nobody else may be writing."""
    for draft in folder.rglob(f".*{_DRAFT}"):
        if is_draft(draft):
            with suppress(OSError):  # the disk is read-only, or it is gone: whoever writes will be told
                draft.unlink()


def check_room(folder: Path, size: int) -> None:
    """Raise OSError unless a file of ``size`` bytes can be written to ``folder``; nothing of it is left."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, size, _CHUNK):
            file.write(bytes(min(_CHUNK, size - start)))
        file.flush()


def sync(path: Path) -> None:
    """Wait until a file's contents are on disk."""
    with path.open("rb+") as file:  # Windows flushes only what may be written to
        os.fsync(file.fileno())
