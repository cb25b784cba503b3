"""Finding images and subfolders on disk, always in one order; what is no image is passed over and counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from adkit.data.file_types import EXTENSIONS, NAMES
from adkit.utils.escapes import printable
from adkit.utils.text import counted, some

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts"}
)
NORMAL_NAMES = ("good", "ok", "normal")
PassedOver = dict[str, str]
"""Path of a file or folder → the kind of thing that it is instead of an image."""


Find = Callable[[Path, PassedOver | None], list[Path]]
"""``images_under`` for images to fit, of which none may be missing, or ``images_and_closed`` for those to test on."""


def is_image(path: PurePath) -> bool:
    """Whether a file's name is that of an image: macOS's ``._000.png`` and Windows' ``Thumbs.db`` are not."""
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())


def images_under(
    folder: Path,
    passed_over: PassedOver | None = None,
    closed: Callable[[OSError], None] | None = None,
    without: Path | None = None,
) -> list[Path]:
    """Images in a folder and its subfolders, sorted by path; links are followed, hidden folders left out.

    Args:
        passed_over: takes everything else that is there.
        closed: called with the error of each folder or file that is there and cannot be looked at, and of which
            ``filename`` is the path; by default, it is raised.
        without: a folder that is left out and not counted.

    Raises:
        OSError: one of the folders is there and cannot be read.
    """
    found = []
    other = {} if passed_over is None else passed_over

    def fail(error: OSError) -> None:
        """Tell what ``os.walk`` would ignore: a missing folder counts as empty, one that cannot be read does not."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if closed is None:
            raise error
        closed(error)

    for parent, names in walk(os.fspath(folder), fail, other, None if without is None else os.fspath(without)):
        for name in names:
            path = Path(parent, name)
            try:
                kind = _kind(path)
            except OSError as error:
                fail(error)
                continue
            if kind is None:
                found.append(path)
            else:
                other[os.fspath(path)] = kind
    return sorted(found, key=Path.as_posix)


def images_and_closed(folder: Path, passed_over: PassedOver | None = None, without: Path | None = None) -> list[Path]:
    """Images as ``images_under`` finds them, and behind them, sorted, the folders and files that cannot be looked at.

    Reading such a one as an image says why it cannot be, so that it is one that cannot be read among those that can.
    """
    closed: list[Path] = []

    def note(error: OSError) -> None:
        closed.append(Path(os.fsdecode(error.filename)))

    return images_under(folder, passed_over, note, without) + sorted(closed)


def walk(
    folder: str, fail: Callable[[OSError], None], passed_over: PassedOver | None = None, without: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below ``folder``, itself included, with the names of its files; hidden ones are left out.

    Links to folders are followed when all that lies below ``folder`` itself is done. A folder that several links lead
    to is read once, and one that holds the link itself, or ``folder``, never: it would be read without end.

    Args:
        fail: called with the error where a folder cannot be listed.
        passed_over: takes the folders that are left out.
        without: a folder that is left out and not counted.
    """
    other = {} if passed_over is None else passed_over
    top, left_out = os.path.realpath(folder), None if without is None else os.path.realpath(without)
    done: set[str] = set()
    starts = deque([folder])
    while starts:
        start = starts.popleft()
        real = os.path.realpath(start)
        if left_out is not None and _holds(left_out, real):
            continue
        if done and (real in done or _holds(real, top) or _holds(real, os.path.realpath(os.path.dirname(start)))):
            other[start] = "link to a folder that is read already"
            continue
        for parent, folders, names in os.walk(start, onerror=fail):
            done.add(real + parent[len(start) :])
            kept = []
            for name in sorted(folders):
                path = os.path.join(parent, name)
                if real + path[len(start) :] == left_out:
                    continue
                if name.startswith("."):
                    other[path] = "hidden"
                elif os.path.islink(path):
                    starts.append(path)
                elif real + path[len(start) :] not in done:
                    kept.append(name)
                    if is_image(PurePath(name)):
                        other[path] = "folder named like an image"
            folders[:] = kept
            yield parent, names


def _holds(folder: str, other: str) -> bool:
    """Whether ``other`` is ``folder`` or lies below it."""
    return other == folder or other.startswith(os.path.join(folder, ""))


def _kind(path: Path) -> str | None:
    """What a file is instead of an image; None: it is one."""
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "link to nothing" if path.is_symlink() and not path.exists() else "neither file nor folder"
    return None if is_image(path) else printable(path.suffix.lower()) or "file without extension"


def folders_in(folder: Path) -> list[Path]:
    """Subfolders that are not hidden, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def child(folder: Path, *names: str) -> Path | None:
    """The subfolder that has the first of these names that exists, in any case; None where none does."""
    if not folder.is_dir():
        return None
    by_folded = {path.name.casefold(): path for path in folders_in(folder)}
    return next((by_folded[name.casefold()] for name in names if name.casefold() in by_folded), None)


def contents(folder: Path) -> str:
    """The end of a sentence that says what was found in place of what was expected in a folder."""
    if not folder.exists():
        return "found no such folder"
    if not folder.is_dir():
        return "found a file of that name"
    others: PassedOver = {}
    if images := images_under(folder, others):
        names = some([printable(image.relative_to(folder)) for image in images], 3)
        return f"found {counted(len(images), 'image')}, named {names}"
    files = [kind for kind in others.values() if kind != "hidden" and not kind.startswith("folder")]
    if not files:
        return "found an empty folder"
    none = "which is not an image" if len(files) == 1 else "none of which is an image"
    return f"found {counted(len(files), 'file')} ({some(sorted({*files}), 3)}), {none} ({', '.join(NAMES)})"


def named(root: str) -> str:
    """A root as the user wrote it, with the folder that it was looked up in where that matters."""
    return root if Path(root).expanduser().is_absolute() else f"{root} (below {Path.cwd()})"
