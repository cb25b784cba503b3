"""The rows of ``adkit predict``: writes them as they come, and continues a file of them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO, Protocol

from adkit.detector.regions import Region
from adkit.errors import UserError


@dataclass(frozen=True)
class Row:
    """The row of one image; that of a file that cannot be read has its path, an error and nothing else."""

    path: str
    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    regions: tuple[Region, ...] | None = None
    """The anomalous regions, the highest peak first; None where the detector has no maps or no pixel threshold."""
    error: str | None = None
    """Why the file cannot be read or, in a row with a score, why its heatmap could not be drawn."""


COLUMNS = tuple(field.name for field in fields(Row))


class Writer(Protocol):
    """A function that writes one row."""

    def __call__(self, row: Row) -> None: ...


def file_of(output: str, *, jsonl: bool) -> Path:
    """The file below ``output`` that rows are written to."""
    return Path(output) / ("predictions.jsonl" if jsonl else "predictions.csv")


@contextmanager
def writing(output: str | None, *, jsonl: bool, append: bool = False) -> Iterator[Writer]:
    """Write rows to ``output/predictions.csv`` or ``.jsonl``, or to standard output, each at once.

    Args:
        output: the folder to write to; None: standard output.
        jsonl: whether to write one JSON object per line instead of CSV.
        append: whether to keep the rows of a file that ``listed_rows`` has read.

    Yields:
        The function that writes a row.

    Raises:
        UserError: the folder cannot be written.
    """
    if output is None:

        def show(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        yield _writer(show, jsonl=jsonl, header=True)
        return
    path = file_of(output, jsonl=jsonl)
    with _unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab" if append else "wb", buffering=0)  # nothing waits to be written when something fails

    def put(text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        with _unwritable(path):
            while rest:
                rest = rest[file.write(rest) :]

    with file:
        yield _writer(put, jsonl=jsonl, header=file.tell() == 0)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: expected a file that can be written, found: {error.strerror}; choose another --output"
        ) from error


def _writer(put: Callable[[str], None], *, jsonl: bool, header: bool) -> Writer:
    if jsonl:

        def write(row: Row) -> None:
            put(json.dumps({key: value for key, value in asdict(row).items() if value is not None}) + "\n")

        return write
    table = csv.writer(_Sink(put), lineterminator="\n")
    if header:
        table.writerow(COLUMNS)

    def write_csv(row: Row) -> None:
        anomalous = "" if row.anomalous is None else int(row.anomalous)
        regions = "" if row.regions is None else json.dumps([asdict(region) for region in row.regions])
        table.writerow((row.path, _blank(row.score), _blank(row.p_value), anomalous, regions, row.error or ""))

    return write_csv


@dataclass(frozen=True)
class _Sink:
    """A stand-in for the file that ``csv.writer`` writes to, one whole row at a time."""

    write: Callable[[str], None]


def _blank(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def listed_rows(output: str, *, jsonl: bool) -> dict[str, bool]:
    """The images that an earlier watch wrote rows of, each → whether the last of its rows is an error.

    A last row that was cut off, as a power failure leaves it, is removed from the file.

    Raises:
        UserError: the file cannot be read and written, or holds something else.
    """
    path = file_of(output, jsonl=jsonl)
    listed: dict[str, bool] = {}
    with _unwritable(path):
        if not path.exists():
            return listed
        with path.open("r+b") as file:
            whole = 0
            for number, record in enumerate(_records(file, quoted=not jsonl)):
                if not record.endswith(b"\n"):
                    file.truncate(whole)
                    break
                whole += len(record)
                try:
                    image, error = (_from_json if jsonl else _from_csv)(record.decode(), number)
                except (ValueError, TypeError, KeyError, csv.Error) as fault:
                    raise UserError(
                        f"{path}: expected the rows of an earlier watch by this version, found {record[:80]!r} as "
                        f"number {number + 1}; move the file away, or choose another --output"
                    ) from fault
                if image is not None:
                    listed[image] = error
    return listed


def _records(file: BinaryIO, *, quoted: bool) -> Iterator[bytes]:
    """The records of a file: its lines; where ``quoted``, lines that are cut by a line feed in quotes are joined."""
    record = b""
    for line in file:
        record += line
        if not quoted or record.count(b'"') % 2 == 0:
            yield record
            record = b""
    if record:
        yield record.rstrip(b"\n")


def _from_json(record: str, number: int) -> tuple[str, bool]:
    row = json.loads(record)
    return str(row["path"]), "score" not in row


def _from_csv(record: str, number: int) -> tuple[str | None, bool]:
    (cells,) = csv.reader(io.StringIO(record, newline=""), strict=True)
    if number == 0:
        if tuple(cells) != COLUMNS:
            raise ValueError("other columns")
        return None, False
    path, score, *_ = (cell for cell, _ in zip(cells, COLUMNS, strict=True))
    return path, not score
