"""CSV files in which a row is a line, and no cell is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from adkit.utils.escapes import harmless

GUARD = "'"
"""What a spreadsheet takes for "this is text"; it stands before a cell that would be a formula, or begins with it."""
_FORMULA = re.compile("['=+@\uff1d\uff0b\uff0d\uff20-]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|-?(inf|nan)", re.IGNORECASE | re.ASCII)


class Sink(Protocol):
    """What rows are written to."""

    def write(self, text: str, /) -> Any: ...


def row_writer(sink: Sink) -> Callable[[Iterable[object]], None]:
    """A function that writes rows to ``sink``, each by one call and as one line."""
    table = csv.writer(sink, lineterminator="\n")
    return lambda values: table.writerow([cell(value) for value in values])


def cell(value: object) -> str:
    """The text of a value in a CSV file; of a text, ``content`` gives it back.

    A float has nine digits, which make the same float32 again; lists are JSON, truth is 1 or 0, and None is nothing.
    """
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float():
            return f"{value:.9g}"
        case list() | tuple():
            return json.dumps(value)
    text = harmless(str(value))
    return GUARD + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def content(cell: str) -> str:
    """The text that ``cell`` was made of."""
    return cell.removeprefix(GUARD)
