"""Finding images, subfolders and masks on disk, always in one order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from adkit.utils.text import counted

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts"}
)
MASK_SUFFIXES = ("_mask", "", "_gt", "_GT", "_label")
"""What may follow ``000`` in the name of the mask of ``000.png``, the clearest first."""
NORMAL_NAMES = ("good", "ok", "normal")


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image: macOS's ``._000.png`` and Windows' ``Thumbs.db`` are not."""
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())


def images_under(folder: Path, closed: Callable[[OSError], None] | None = None) -> list[Path]:
    """Images in a folder and its subfolders, sorted by path, hidden folders left out.

    Args:
        closed: called with the error of each folder or file that is there and cannot be looked at, and of which
            ``filename`` is the path; by default, it is raised.

    Raises:
        OSError: one of the folders is there and cannot be read.
    """
    return sorted(_walk(folder, closed or _raise), key=lambda path: path.relative_to(folder).as_posix())


def _raise(error: OSError) -> None:
    raise error


def _walk(folder: Path, closed: Callable[[OSError], None]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        """Tell what ``os.walk`` would ignore: a missing folder counts as empty, one that cannot be read does not."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            closed(error)

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in files):
            try:
                if is_image(path) and path.is_file():
                    yield path
            except OSError as error:
                fail(error)


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
    """The end of a sentence that says what was found in place of a folder of images."""
    if not folder.exists():
        return "found no such folder"
    if not folder.is_dir():
        return "found a file of that name"
    files = sum(1 for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        return "found an empty folder"
    kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
    none = "which is not an image" if files == 1 else "none of which is an image"
    return f"found {counted(files, 'file')}, {none} ({kinds})"


def named(root: str) -> str:
    """A root as the user wrote it, with the folder that it was looked up in where that matters."""
    return root if Path(root).expanduser().is_absolute() else f"{root} (below {Path.cwd()})"


class MaskFolder:
    """The masks of the images of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._masks = {_stem(path.relative_to(folder)): path for path in images_under(folder)}

    def of(self, image: Path) -> Path | None:
        """The mask of an image, given by its path below the folder of images."""
        stem = _stem(image)
        names = (stem + suffix for suffix in MASK_SUFFIXES)
        mask = next((self._masks[name] for name in names if name in self._masks), None)
        if mask is None and (self._folder / stem).is_dir():
            return self._folder / stem  # MVTec LOCO: a folder of masks for one image
        return mask


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()
