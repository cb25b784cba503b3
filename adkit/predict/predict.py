"""The work of ``adkit predict``: score files as they come, from a list or from a camera that writes them."""

from __future__ import annotations

import errno
import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from adkit.data.beside import beside_of
from adkit.data.file_types import is_paged
from adkit.data.files import VIDEOS, images_and_closed, is_image
from adkit.data.groups import keys_by
from adkit.data.images import frames_of, pages
from adkit.detector.detector import Detector
from adkit.errors import UserError
from adkit.predict.heatmaps import Heatmaps
from adkit.predict.rows import Row
from adkit.predict.watch import Watcher
from adkit.utils.escapes import harmless, printable
from adkit.utils.text import counted, some

T = TypeVar("T")
BATCH = 16
"""The number of images that are scored between two writes; scores do not depend on it."""
DRAWERS = 4
"""The number of threads that draw heatmaps; each holds one decoded image."""
INTERVAL = 0.5
"""Seconds between two looks at watched folders, at least."""
SHARE = 0.2
"""The share of the time that looking at folders may take; where it is slow, looks are rarer."""


def find_images(
    paths: Iterable[str], lines: Iterable[str], without: Path | None = None, say: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """The images that ``paths`` name, in their order, and what cannot be looked at, for reading it says why.

    Of what lies in a folder, masks beside their images are left out, as in a run.

    Args:
        paths: files, folders with images below them, globs, and ``-`` for the files and folders named on ``lines``.
        lines: one path per line, such as those of standard input.
        without: a folder whose files are left out unless they are named.
        say: called with a sentence on the masks in a folder.

    Raises:
        UserError: a path does not exist or is a video's, or a folder or glob has no image.
    """

    def below(folder: Path) -> list[Path]:
        found = images_and_closed(folder, without=without)
        beside = beside_of(found)
        if say is not None:
            for text in beside.warnings("left out, unless they are named"):
                say(f"{folder}: {text}")
        return [path for path in found if path not in beside.images_of]

    def matching(text: str) -> Iterator[Path]:
        for match in map(Path, sorted(glob.glob(text, recursive=True))):
            if not os.path.isdir(match):
                yield from (match,) * is_image(match)
            elif "**" not in text:  # which names what is below folders itself
                yield from below(match)

    for text in paths:
        path = Path(text)
        if text == "-":
            for line in lines:
                if line.strip():
                    listed = Path(line.rstrip("\r\n"))
                    yield from below(listed) if os.path.isdir(listed) else (listed,)
        elif os.path.isdir(path):
            found = below(path)
            if not found:
                raise UserError(f"{text}: expected a folder with images in it, found none; check the path")
            yield from found
        elif _is_there(path):
            if path.suffix.lower() in VIDEOS:
                raise UserError(
                    f"{text}: expected images, found a video; take its frames and name their folder: {frames_of(path)}"
                )
            yield path
        else:
            matches = list(matching(text))
            if not matches:
                raise UserError(f"{text}: expected an image, a folder or a glob that matches some, found nothing there")
            yield from matches


def _is_there(path: Path) -> bool:
    """Whether there is something at ``path``, be it something that cannot be looked at."""
    try:
        path.stat()
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
    return True


def grouped(paths: Iterable[Path], expression: str) -> dict[Path, str]:
    """Map each image to the key of its part, which ``expression`` finds in its path as rows have it, as
    ``[data] group`` does in its id.

    Raises:
        UserError: the expression is not one, or does not find a part in some of the paths.
    """
    try:
        key = keys_by(expression)
    except ValueError as error:
        raise UserError(f"--group: {error}") from error
    found = {path: key(printable(path)) for path in paths}
    if missing := [str(path) for path, group in found.items() if group is None]:
        raise UserError(
            f"--group: expected a part in every path by {expression!r}, found none in {counted(len(missing), 'path')} "
            f"({some(missing, 3)}): change the expression, or leave these images out"
        )
    return {path: group for path, group in found.items() if group is not None}


def heatmaps_of(detector: Detector, name: str, output: str | None, paths: Sequence[str]) -> Heatmaps:
    """The writer of the heatmaps of ``paths``, named relative to the one folder given, else to the working directory.

    Raises:
        UserError: there is no output folder, or the detector ``name`` has no maps.
    """
    if output is None:
        raise UserError("--heatmaps: expected a folder to write to, found none; give one with --output DIR")
    if not detector.localizes:
        raise UserError(
            f"{name}: --heatmaps expected a detector that says where, found one that scores images as a whole; run "
            'its recipe with blocks of the backbone as extractor.levels instead of "pool"'
        )
    folder = len(paths) == 1 and paths[0] != "-" and not Path(paths[0]).is_file() and not glob.has_magic(paths[0])
    base = Path(paths[0]) if folder else Path()
    return Heatmaps(Path(output), base, detector.view, detector.pixel_threshold)


class PageWatch:
    """Tells of the first image whose file has several pages or frames, of which the first alone is read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told = False

    def see(self, paths: Iterable[Path]) -> None:
        """Look at the headers of images of types that have pages; once one was told, at none."""
        for path in paths:
            if not self._told and is_paged(path) and (count := pages(path)) > 1:
                self._told = True
                self._say(
                    f"{path}: it has {count:,} pages or frames, of which the first alone is scored, as of every such "
                    "file: save each that shows a part as a file of its own"
                )


def predict(
    detector: Detector, paths: Iterable[Path], heatmaps: Heatmaps | None = None, page_watch: PageWatch | None = None
) -> Iterator[Row]:
    """One row per image, in order; an image that cannot be read does not stop the others."""
    for batch in _batches(paths):
        if page_watch is not None:
            page_watch.see(batch)
        yield from _rows(detector, batch, heatmaps)


def watch(
    detector: Detector,
    watcher: Watcher,
    stop: Callable[[], bool],
    heatmaps: Heatmaps | None = None,
    page_watch: PageWatch | None = None,
) -> Iterator[Row]:
    """Rows of the images that arrive, until ``stop`` returns True; a batch that was begun is finished."""
    while not stop():
        begun = time.monotonic()
        arrivals = watcher.look()
        pause = max(INTERVAL, (time.monotonic() - begun) / SHARE)
        for batch in _batches(arrivals):
            paths = [arrival.path for arrival in batch]
            if page_watch is not None:
                page_watch.see(paths)
            rows = _rows(detector, paths, heatmaps)
            for arrival, row in zip(batch, rows, strict=True):
                if watcher.settle(arrival, readable=row.score is not None):
                    yield row
            if stop():
                return
        wake = time.monotonic() + pause
        while time.monotonic() < wake and not stop():
            time.sleep(min(0.1, pause))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _rows(detector: Detector, paths: Sequence[Path], heatmaps: Heatmaps | None) -> list[Row]:
    found, reasons = detector.predict_readable(paths)
    readable = [path for number, path in enumerate(paths) if number not in reasons]
    undrawn: dict[int, str] = {}  # place among the readable ones → why
    if heatmaps is not None and found.maps is not None and readable:
        regions = found.regions or ((),) * len(readable)
        with ThreadPoolExecutor(DRAWERS, thread_name_prefix="adkit-draw") as pool:
            drawn = list(pool.map(heatmaps.draw, readable, found.sizes, found.maps, regions))
        undrawn = {place: f"no heatmap: {reason}" for place, reason in enumerate(drawn) if reason is not None}
    places = iter(range(len(readable)))

    def row(number: int, path: Path) -> Row:
        if number in reasons:
            return Row(printable(path), error=harmless(reasons[number]))
        place = next(places)
        return Row(
            path=printable(path),
            score=float(found.scores[place]),
            p_value=None if found.p_values is None else float(found.p_values[place]),
            anomalous=None if found.anomalous is None else bool(found.anomalous[place]),
            regions=None if found.regions is None else found.regions[place],
            error=undrawn.get(place),
        )

    return [row(number, path) for number, path in enumerate(paths)]
