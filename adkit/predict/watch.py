"""Follows folders as a camera fills them: which files are new, and which of those are whole."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adkit.data.files import EXTENSIONS, is_image, writable
from adkit.errors import UserError

PATIENCE = 10.0
"""Seconds for which a file that cannot be decoded must stay unchanged until it counts as unreadable."""
RECHECKED = 2000
"""The number of known files whose size and time one look checks; the next looks check the others in turn."""
REMEMBERED = 1_000_000
"""The number of files above which those that are no longer there are forgotten, the oldest first."""
_ENDINGS = tuple(EXTENSIONS)
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"

Stamp = tuple[int, int]
"""(size, time of the last change in ns) of a file."""


@dataclass(frozen=True)
class Arrival:
    """A file that no longer changes and should be read now."""

    path: Path
    key: str
    """The file's absolute path, as text."""
    stamp: Stamp
    last: bool
    """Whether patience is over: if the file cannot be decoded now, that is an error."""


@dataclass
class _Waiting:
    """A file that is new or has changed, and has not been read yet."""

    stamp: Stamp
    since: float
    tried: bool = False
    """Whether the file, as it is now, could not be decoded."""


class Watcher:
    """Looks at folders again and again, and gives each image once.

    A file is given when its size and time are the same in two looks, and again when either changes later. One that
    cannot be decoded yet is given a last time when it has stayed unchanged for ``patience``. The folders are listed,
    without a notification service of the operating system, so that it works on network drives, too.
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
        self._listed = {writable(os.path.abspath(path)): error for path, error in (listed or {}).items()}
        self._without = None if without is None else os.path.abspath(without)
        self._patience = patience
        self._known: dict[str, Stamp] = {}
        self._faulty: set[str] = set()  # with an error row from before
        self._waiting: dict[str, _Waiting] = {}
        self._troubles: dict[str, str] = {}
        self._looks = 0

    def look(self) -> list[Arrival]:
        """The files that should be read now, in the order in which they were written."""
        now = time.monotonic()
        before, self._waiting = self._waiting, {}
        arrivals = []
        for root, text in self._roots.items():
            for key, stamp in self._changed(root, before):
                waiting = before.get(key)
                if waiting is None or waiting.stamp != stamp:
                    self._waiting[key] = _Waiting(stamp, now)
                    continue
                self._waiting[key] = waiting
                last = now - waiting.since >= self._patience
                if last or not (waiting.tried or _lacks_its_end(key)):
                    arrivals.append(Arrival(Path(text + key[len(root) :]), key, stamp, last))
        self._looks += 1
        return sorted(arrivals, key=lambda arrival: (arrival.stamp[1], arrival.key))

    def settle(self, arrival: Arrival, *, readable: bool) -> bool:
        """Whether the result for an arrival counts; if not, ``look`` gives the file again later."""
        try:
            changed = _stamp(arrival.key) != arrival.stamp
        except FileNotFoundError:  # removed since: what was read of it was whole
            self._waiting.pop(arrival.key, None)
            if readable:
                self._known[arrival.key] = arrival.stamp
            return readable
        except OSError:
            changed = True  # the drive fails, and may have failed while the file was read
        if changed:
            return False
        if not readable and not arrival.last:
            self._waiting[arrival.key].tried = True
            return False
        self._waiting.pop(arrival.key, None)
        self._known[arrival.key] = arrival.stamp
        reported = arrival.key in self._faulty
        self._faulty.discard(arrival.key)
        return readable or not reported

    def _changed(self, root: str, waiting: Mapping[str, _Waiting]) -> Iterator[tuple[str, Stamp]]:
        """The images below ``root`` that are new or have changed, with their stamps."""
        known, turns = self._known, max(1, -(-len(self._known) // RECHECKED))
        turn = self._looks % turns
        there: set[str] | None = set() if len(known) > REMEMBERED else None
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        path, name = entry.path, entry.name
                        if path in known:
                            if there is not None:
                                there.add(path)
                            if path in waiting or hash(path) % turns == turn:
                                yield from self._differing(path)
                        elif name.startswith("."):
                            continue
                        elif entry.is_dir(follow_symlinks=False):
                            if path != self._without:
                                folders.append(path)
                        elif name.lower().endswith(_ENDINGS) and is_image(Path(name)):
                            yield from self._differing(path)
            except OSError as error:
                if folder == root or not isinstance(error, FileNotFoundError):  # subfolders may be removed
                    self._trouble(folder, error)
            else:
                self._well(folder)
        if there is not None and not self._troubles:
            self._forget(root, there)

    def _differing(self, path: str) -> Iterator[tuple[str, Stamp]]:
        """The path itself with its stamp, if it is a file that is new or has changed."""
        try:
            stamp = _stamp(path)
        except FileNotFoundError:  # renamed or removed since it was listed
            return
        if stamp is None or self._known.get(path) == stamp:
            return
        if self._listed:
            error = self._listed.pop(writable(path), None)
            if error is False:
                self._known[path] = stamp
                return
            if error:
                self._faulty.add(path)
        yield path, stamp

    def _trouble(self, folder: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "there is no such folder" if missing else f"it cannot be read: {error.strerror}"
        if self._troubles.get(folder) != what:
            self._troubles[folder] = what
            self._say(f"{folder}: {what}; waiting for it")

    def _well(self, folder: str) -> None:
        if self._troubles.pop(folder, None) is not None:
            self._say(f"{folder}: it can be read now")

    def _forget(self, root: str, there: set[str]) -> None:
        gone = [path for path in self._known if path not in there and path.startswith(root)]
        for path in gone[: max(0, len(gone) - REMEMBERED // 2)]:
            del self._known[path]


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


def _stamp(path: str) -> Stamp | None:
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
