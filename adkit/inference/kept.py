"""The files that are kept between runs: zip files, whose members have a checksum each, within a limit of bytes."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from adkit.errors import UserError
from adkit.toolkit.cache import cache_folder
from adkit.utils.atomic import is_draft

LIMIT_VARIABLE: Final = "ADKIT_CACHE_GB"
"""The environment variable for the most that kept files may take, in GB; 0: none are kept."""
LIMIT: Final = 10.0
FEATURES: Final = "features"
RUNTIMES: Final = "runtimes"
INDEX: Final = "index.json"
"""The member that says what the others are; a file without it is not whole."""
_ABANDONED: Final = 3600
"""Seconds without another batch after which a half-written file is taken for what a killed process left."""
BROKEN: Final = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile raises of damaged files: flags of encryption and of later versions are among the bits that change."""

logger = logging.getLogger("adkit")
_intact: dict[Path, tuple[int, ...]] = {}
"""The entries that this process has read whole, as they were then."""


def cache_limit() -> int:
    """The most bytes that kept files may take.

    Raises:
        UserError: the environment asks for what is no size.
    """
    asked = os.environ.get(LIMIT_VARIABLE) or str(LIMIT)
    try:
        size = float(asked)
        if not 0 <= size < 1e9:
            raise ValueError(asked)
    except ValueError as error:
        raise UserError(f"{LIMIT_VARIABLE}: expected a number of GB, 0 or more, found {asked!r}") from error
    return int(size * 1e9)


def folder_of(kind: str) -> Path:
    """The folder of the kept files of a kind."""
    return cache_folder() / kind


def free_bytes(folder: Path) -> int:
    """Bytes that are free where ``folder`` is or would be; 0 where this process may not look."""
    try:
        there = next(one for one in (folder, *folder.parents) if os.path.exists(one))  # never raises
        return shutil.disk_usage(there).free
    except OSError:
        return 0


def files_of(folder: Path, beginning: str) -> list[Path]:
    """The kept files in ``folder`` whose names begin like this; none where this process may not look."""
    with suppress(OSError):
        return sorted(folder.glob(f"{beginning}*.zip"))
    return []


def kept_files(*kinds: str) -> list[Path]:
    """The kept files of some kinds; default: of all."""
    return sorted(path for kind in kinds or (FEATURES, RUNTIMES) for path in folder_of(kind).glob("*.zip"))


def shrink(last: Path) -> None:
    """Remove what was used longest ago, but not ``last``, until the rest is within the limit.

    What other processes are writing counts, too.
    """
    room = cache_limit()
    for draft in (one for kind in (FEATURES, RUNTIMES) for one in folder_of(kind).glob(".*") if is_draft(one)):
        with suppress(OSError):
            written = draft.stat()
            if time.time() - written.st_mtime > _ABANDONED:
                draft.unlink()
            else:
                room -= written.st_size
    for path in sorted(kept_files(), key=_used, reverse=True):
        with suppress(OSError):
            room -= path.stat().st_size
            if room < 0 and path != last:
                path.unlink()


def put(file: zipfile.ZipFile, name: str, contents: bytes | str) -> None:
    """Write a member, with a date that does not depend on the clock: zip files know none before 1980.

    Raises:
        OSError: the disk is full, or the like.
    """
    file.writestr(zipfile.ZipInfo(name), contents)


def dropped(written: zipfile.ZipFile, draft: Path) -> None:
    """Remove what was written so far, if it is still there; a full disk is no matter then."""
    with suppress(OSError):
        written.close()
    with suppress(OSError):
        draft.unlink()


def opened(path: Path) -> tuple[zipfile.ZipFile, Any] | None:
    """Open an entry whose every part is intact, and note that it was used; None where there is none to read.

    Returns:
        The file, which the caller closes, and what its index says.
    """
    try:
        found = zipfile.ZipFile(path)
    except BROKEN as error:
        _refused(path, error)
        return None
    try:
        _check_stored(found)
        if _intact.get(path) != _state_of(found) and (bad := found.testzip()) is not None:
            raise zipfile.BadZipFile(f"{bad} is not what was written")
        index = json.loads(found.read(INDEX))
        with suppress(OSError):  # of others, on what cannot be written, or removed meanwhile
            os.utime(path)
        _intact[path] = _state_of(found)
        return found, index
    except BROKEN as error:
        found.close()
        _refused(path, error)
        return None


def _state_of(file: zipfile.ZipFile) -> tuple[int, ...]:
    """The state of an open file, whatever has taken its name since it was opened."""
    assert file.fp is not None
    return _stated(os.fstat(file.fp.fileno()))


def state_of(path: Path) -> tuple[int, ...]:
    """What changes with a file's contents: it may be replaced by another one of its size and time.

    Raises:
        OSError: it cannot be looked at.
    """
    return _stated(path.stat())


def _stated(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def index_of(path: Path) -> Any:
    """What the index of an entry says, without a look at the rest; None where there is none to read."""
    try:
        with zipfile.ZipFile(path) as found:
            _check_stored(found)
            return json.loads(found.read(INDEX))
    except BROKEN:
        return None  # who opens it says so


def _check_stored(found: zipfile.ZipFile) -> None:
    if any(one.compress_type != zipfile.ZIP_STORED for one in found.infolist()):
        raise zipfile.BadZipFile("it is compressed, as nothing is that was written")


def _refused(path: Path, error: Exception) -> None:
    """Say that a file is damaged and remove it, unless it is the system that refuses: too many files are open, say."""
    if isinstance(error, FileNotFoundError):
        return
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is what seeking to a damaged place gives
        logger.info("%s: not read (%s)", path, error)
        return
    logger.warning("%s: damaged (%s): computed again", path, error)
    with suppress(OSError):  # or it would be found again
        path.unlink()


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
