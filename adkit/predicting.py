"""What ``adkit predict`` does: score files as they come, and write a row for each."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TextIO

from adkit.data.files import pictures_under
from adkit.detector import Detector
from adkit.errors import UserError

BATCH = 16
"""Pictures between two writes; scores do not depend on it."""


@dataclass(frozen=True)
class Row:
    """One picture; a file that cannot be read has an error and nothing else."""

    path: str
    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    error: str | None = None


class Writer(Protocol):
    def __call__(self, row: Row) -> None: ...


def find_pictures(paths: Iterable[str], lines: Iterable[str]) -> Iterator[Path]:
    """Files, the pictures below folders, what globs match, and with ``-`` those named on ``lines``, in that order.

    Raises:
        UserError: a path that is not there, or a folder or glob without a picture.
    """
    for text in paths:
        path = Path(text)
        if text == "-":
            yield from (Path(line.rstrip("\r\n")) for line in lines if line.strip())
        elif path.is_dir():
            found = pictures_under(path)
            if not found:
                raise UserError(f"{text}: expected a folder with pictures in it, found none; check the path")
            yield from found
        elif path.exists():
            yield path
        else:
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise UserError(
                    f"{text}: expected a picture, a folder or a glob that matches some, found nothing there"
                )
            yield from (Path(match) for match in matches if Path(match).is_file())


def predict(detector: Detector, paths: Iterable[Path]) -> Iterator[Row]:
    """A row a picture, in order; one that cannot be read does not stop the others."""
    pictures = iter(paths)
    while batch := list(islice(pictures, BATCH)):
        yield from _rows(detector, batch)


def _rows(detector: Detector, paths: Sequence[Path]) -> list[Row]:
    found, reasons = detector.predict_readable(paths)
    places = iter(range(len(found)))  # of the pictures that could be read

    def row(number: int, path: Path) -> Row:
        if number in reasons:
            return Row(str(path), error=reasons[number])
        place = next(places)
        return Row(
            path=str(path),
            score=float(found.scores[place]),
            p_value=None if found.p_values is None else float(found.p_values[place]),
            anomalous=None if found.anomalous is None else bool(found.anomalous[place]),
        )

    return [row(number, path) for number, path in enumerate(paths)]


@contextmanager
def writing(output: str | None, *, jsonl: bool) -> Iterator[Writer]:
    """Write rows to ``output/predictions.csv`` or ``.jsonl``, or to standard output; each is there when written.

    Raises:
        UserError: the folder cannot be written.
    """
    if output is None:
        yield _writer(sys.stdout, jsonl=jsonl)
        return
    path = Path(output) / ("predictions.jsonl" if jsonl else "predictions.csv")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"{path}: expected a file that can be written, found: {error.strerror}; choose another --output"
        ) from error
    with file:
        yield _writer(file, jsonl=jsonl)


def _writer(file: TextIO, *, jsonl: bool) -> Writer:
    if jsonl:

        def write(row: Row) -> None:
            file.write(json.dumps({key: value for key, value in asdict(row).items() if value is not None}) + "\n")
            file.flush()

        return write
    table = csv.writer(file, lineterminator="\n")
    table.writerow(Row.__dataclass_fields__)

    def write_csv(row: Row) -> None:
        anomalous = "" if row.anomalous is None else int(row.anomalous)
        table.writerow((row.path, _blank(row.score), _blank(row.p_value), anomalous, row.error or ""))
        file.flush()

    return write_csv


def _blank(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
