"""Follows folders as a camera fills them: which files are new, and which of those are whole."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adkit.data.file_types import EXTENSIONS
from adkit.data.files import walk
from adkit.errors import UserError
from adkit.utils.escapes import printable

PATIENCE = 10.0
"""Seconds for which a file that cannot be decoded must stay unchanged until it counts as unreadable."""
GONE = 100_000
"""The number of files that are no longer there which a watch remembers, in case they come back: the last read ones."""
_ENDINGS = tuple(EXTENSIONS)
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"

Stamp = tuple[int, int]
"""(size, time of the last change in ns) of a file."""


@dataclass
class Arrival:
    """A file that is new or has changed; ``Watcher.look`` gives those that should be read now."""

    path: Path
    key: str
    """The file's absolute path, as ``printable`` writes it."""
    stamp: Stamp
    since: float
    """When a look found it as it is now, in seconds of ``time.monotonic``."""
    tried: bool = False
    """Whether the file, as it is now, could not be decoded."""
    last: bool = False
    """Whether patience is over: if the file cannot be decoded now, that is an error."""


class Watcher:
    """Looks at folders again and again, and gives each image once.

    A file is given when its size and time are the same in two looks, and again when either changes later. One that
    cannot be decoded yet is given a last time when it has stayed unchanged for ``patience``. The folders are listed,
    without a notification service of the operating system, so that it works on network drives, too.

    It remembers the files that are there and ``GONE`` others, however many come and go. While a watched folder is
    missing or empty, as when its drive drops out, no file of it is forgotten.
    """

    def __init__(
        self,
        folders: Iterable[str],
        say: Callable[[str], None],
        *,
        listed: Mapping[str, bool] | None = None,
        without: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Watch ``folders``.

        Args:
            folders: the folders to watch with their subfolders, except hidden ones; they may be missing for a while.
            say: called with a sentence when a folder cannot be listed, and when it can be again.
            listed: image that has a row already → whether that is an error. Only those with an error are tried again,
                and a second error gets no second row.
            without: a folder that is left out.
            patience: see ``PATIENCE``; in seconds.

        Raises:
            UserError: a path is not a folder.
        """
        self._roots = _roots(folders)
        self._say = say
        self._without = None if without is None else os.path.abspath(without)
        self._patience = patience
        # Key → the stamp with which a file was read or, of an earlier watch, whether its row is an error.
        self._known: dict[str, Stamp | bool] = {
            printable(os.path.abspath(path)): error for path, error in (listed or {}).items()
        }
        self._waiting: dict[str, Arrival] = {}
        self._troubles: dict[str, str] = {}

    def look(self) -> list[Arrival]:
        """The files that should be read now, in the order in which they were written."""
        now = time.monotonic()
        before, self._waiting = self._waiting, {}
        troubled, self._troubles = self._troubles, {}
        arrivals, there, away = list[Arrival](), set[str](), list[str]()
        for root, text in self._roots.items():
            others = len(there)
            for path, stamp in self._images(root):
                key = printable(path)
                there.add(key)
                known, file = self._known.get(key), before.get(key)
                if known is False:
                    self._known[key] = stamp
                if known is False or known == stamp:
                    continue
                if file is None or file.stamp != stamp:
                    self._waiting[key] = Arrival(Path(text + path[len(root) :]), key, stamp, now)
                    continue
                self._waiting[key] = file
                file.last = now - file.since >= self._patience
                if file.last or not (file.tried or _lacks_its_end(path)):
                    arrivals.append(file)
            if len(there) == others:
                away.append(root)
        self._report(troubled)
        self._forget(there, away)
        return sorted(arrivals, key=lambda arrival: (arrival.stamp[1], arrival.key))

    def settle(self, arrival: Arrival, *, readable: bool) -> bool:
        """Whether the result for an arrival counts; if not, ``look`` gives the file again later."""
        try:
            stamp = _stamp(arrival.path)
        except FileNotFoundError:  # removed since: what was read of it was whole
            stamp = arrival.stamp if readable else None
        except OSError:  # the drive fails, and may have failed while the file was read
            stamp = None
        if stamp != arrival.stamp:
            return False
        if not (readable or arrival.last):
            arrival.tried = True
            return False
        reported = self._known.pop(arrival.key, None) is True
        self._known[arrival.key] = stamp  # behind all others, which are forgotten before it
        return readable or not reported

    def _images(self, root: str) -> Iterator[tuple[str, Stamp]]:
        """The path and stamp of each image below ``root``."""

        def fail(error: OSError, folder: str | None = None) -> None:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            if not missing or error.filename == root:  # whatever is below may be removed or renamed
                what = "there is no such folder" if missing else f"it cannot be read: {error.strerror}"
                self._troubles[folder or error.filename] = what

        for folder, names in walk(root, fail, without=self._without):
            for name in names:
                if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                    path = os.path.join(folder, name)
                    try:
                        stamp = _stamp(path)
                    except OSError as error:
                        fail(error, folder)
                        continue
                    if stamp is not None:
                        yield path, stamp

    def _report(self, before: Mapping[str, str]) -> None:
        """Say which troubles are others than ``before``."""
        for folder, what in self._troubles.items():
            if before.get(folder) != what:
                self._say(f"{folder}: {what}; waiting for it")
        for folder in before:
            if folder not in self._troubles and os.path.isdir(folder):
                self._say(f"{folder}: it can be read now")

    def _forget(self, there: set[str], away: list[str]) -> None:
        """Forget all but ``GONE`` of the files that are neither ``there`` nor in a watched folder that is ``away``."""
        if len(self._known) - len(there) > GONE:
            kept = tuple(printable(os.path.join(root, "")) for root in away)
            for key in [key for key in self._known if key not in there and not key.startswith(kept)][:-GONE]:
                del self._known[key]


def _roots(folders: Iterable[str]) -> dict[str, str]:
    """Absolute path → the path as it was written, without folders that lie inside others."""
    written: dict[str, str] = {}
    for text in folders:
        if text == "-" or (Path(text).exists() and not Path(text).is_dir()):
            found = "standard input" if text == "-" else "a file"
            raise UserError(f"{text}: --watch expected a folder, found {found}; name the folder that is being filled")
        written.setdefault(os.path.abspath(text), str(Path(text)))
    real = {root: Path(os.path.realpath(root)) for root in written}
    kept: dict[str, str] = {}
    for root in sorted(written, key=lambda root: len(real[root].parts)):
        if not any(real[root].is_relative_to(real[other]) for other in kept):
            kept[root] = written[root]
    return kept


def _stamp(path: str | Path) -> Stamp | None:
    """The size and time of a file; None where the path is not that of a regular file."""
    found = os.stat(path)
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _lacks_its_end(path: str) -> bool:
    """Whether a file is a PNG without its end, which is still growing: it may decode, but without its rotation."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_PNG)) != _PNG:
                return False
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() != _PNG_END
    except OSError:
        return True  # it cannot be read now; when patience is over, decoding it reports why
