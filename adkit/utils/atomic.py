"""Files and folders that are whole or absent, whatever ends the writing of them."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write a file, which becomes ``path`` when the block ends well and else is removed.

    A process that is killed leaves the draft, which has a hidden name beside ``path``. What must outlast a power cut
    takes a ``sync`` at the end of the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to write into, which becomes ``folder`` when the block ends well and else is removed.

    Args:
        replace: whether a folder of that name makes way; without it, one that is not empty is an OSError.
    """
    parents = folder.absolute().parents
    place = next((parent for parent in parents if parent.exists()), parents[0])
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", suffix=".partial", dir=place, ignore_cleanup_errors=True
    ) as work:
        draft = Path(work, "new")
        draft.mkdir()
        yield draft
        folder.parent.mkdir(parents=True, exist_ok=True)
        if replace and folder.exists():
            os.rename(folder, Path(work, "old"))
        os.rename(draft, folder)


def sync(path: Path) -> None:
    """Wait until a file's contents are on disk."""
    with path.open("rb+") as file:  # Windows flushes only what may be written to
        os.fsync(file.fileno())
