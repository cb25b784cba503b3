"""The rows of ``adkit predict``: writes them as they come, and continues a file of them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Protocol

from adkit.detector.regions import Region
from adkit.errors import UserError
from adkit.utils.escapes import unescaped
from adkit.utils.locks import Occupied, alone
from adkit.utils.table import content, row_writer


@dataclass(frozen=True)
class Row:
    """The row of one image; that of a file that cannot be read has its path, an error and nothing else."""

    path: str
    """The path as ``printable`` writes it: letter by letter, but for characters that no file of rows could hold."""
    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    regions: tuple[Region, ...] | None = None
    """The anomalous regions, the highest peak first; None where the detector has no maps or no pixel threshold."""
    error: str | None = None
    """Why the file cannot be read or, in a row with a score, why its heatmap could not be drawn."""


@dataclass(frozen=True)
class PartRow:
    """The row of one part, which is anomalous when any of its images is."""

    group: str
    images: int
    """The number of its images that could be read."""
    unreadable: int
    path: str | None = None
    """The image with the highest score; None where no image could be read, as then with all that follows."""
    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None


LOCK: Final = ".adkit.lock"
"""The file in a folder of rows that is locked while somebody writes there."""
COLUMNS = tuple(field.name for field in fields(Row))


class Writer(Protocol):
    """A function that writes one row."""

    def __call__(self, row: Row | PartRow) -> None: ...


def of_parts(grouped: Mapping[str, Sequence[Row]]) -> Iterator[PartRow]:
    """The rows of parts, of which ``grouped`` has the rows of the images: group → its rows."""
    for group, rows in grouped.items():
        read = [row for row in rows if row.score is not None]
        missing = len(rows) - len(read)
        if not read:
            yield PartRow(group, 0, missing)
            continue
        highest = max(read, key=lambda row: row.score or 0.0)
        yield PartRow(
            group, len(read), missing, highest.path, highest.score, highest.p_value, any(row.anomalous for row in read)
        )


def file_of(output: str, *, jsonl: bool, parts: bool = False) -> Path:
    """The file below ``output`` that the rows of images are written to, or of parts."""
    return Path(output) / f"{'parts' if parts else 'predictions'}.{'jsonl' if jsonl else 'csv'}"


@contextmanager
def occupying(output: str) -> Iterator[None]:
    """Keep other predictions from writing to a folder while the block runs, which is made where there is none.

    Raises:
        UserError: another one is at work there, or the folder cannot be written.
    """
    lock = Path(output, LOCK)
    with ExitStack() as stack:
        try:
            with _unwritable(output):
                stack.enter_context(alone(lock))
        except Occupied as error:
            raise UserError(
                f"{output}: expected to be the only prediction that writes there, found another one at work: wait "
                "until that ends, or choose another --output"
            ) from error
        yield


@contextmanager
def writing(output: str | None, *, jsonl: bool, append: bool = False, parts: bool = False) -> Iterator[Writer]:
    """Write rows to ``output/predictions.csv`` or ``.jsonl``, or to standard output, each at once.

    Args:
        output: the folder to write to; None: standard output.
        jsonl: whether to write one JSON object per line instead of CSV.
        append: whether to keep the rows of a file that ``listed_rows`` has read.
        parts: whether they are rows of parts, which go to ``output/parts.csv`` or ``.jsonl``.

    Yields:
        The function that writes a row.

    Raises:
        UserError: the folder cannot be written.
    """
    if output is None:

        def show(text: str) -> None:
            with _unwritable("standard output"):
                sys.stdout.write(text)
                sys.stdout.flush()

        yield _writer(show, PartRow if parts else Row, jsonl=jsonl, header=True)
        return
    path = file_of(output, jsonl=jsonl, parts=parts)
    with _unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab" if append else "wb", buffering=0)  # nothing waits to be written when something fails

    def put(text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        with _unwritable(path):
            while rest:
                rest = rest[file.write(rest) :]

    with file:
        yield _writer(put, PartRow if parts else Row, jsonl=jsonl, header=file.tell() == 0)


@contextmanager
def _unwritable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who reads standard output has seen enough
        raise
    except OSError as error:
        raise UserError(
            f"{path}: expected a file that can be written, found: {error.strerror}; choose another --output"
        ) from error


def _writer(put: Callable[[str], None], kind: type[Row | PartRow], *, jsonl: bool, header: bool) -> Writer:
    if jsonl:

        def write(row: Row | PartRow) -> None:
            put(json.dumps({key: value for key, value in asdict(row).items() if value is not None}) + "\n")

        return write
    write_cells = row_writer(_Sink(put))
    if header:
        write_cells(field.name for field in fields(kind))
    return lambda row: write_cells(asdict(row).values())


@dataclass(frozen=True)
class _Sink:
    """A stand-in for the file that rows are written to."""

    write: Callable[[str], None]


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
            for number, record in enumerate(file):
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


def _from_json(record: str, number: int) -> tuple[str, bool]:
    row = json.loads(record)
    return unescaped(str(row["path"])), "score" not in row


def _from_csv(record: str, number: int) -> tuple[str | None, bool]:
    (cells,) = csv.reader([record], strict=True)
    if number == 0:
        if tuple(cells) != COLUMNS:
            raise ValueError("other columns")
        return None, False
    path, score, *_ = (cell for cell, _ in zip(cells, COLUMNS, strict=True))
    return unescaped(content(path)), not score
