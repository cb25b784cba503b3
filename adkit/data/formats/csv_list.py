"""Format ``csv``: a file that lists images, one per line, with what they are for."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from adkit.data.files import contents, named
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.groups import is_expression
from adkit.data.samples import NORMAL_KIND, Sample
from adkit.utils.escapes import harmless, printable
from adkit.utils.text import counted, did_you_mean, missing, some

_REQUIRED = ("path", "label", "split")
_OPTIONAL = ("mask", "category")
_SPLITS = {"train": "train", "test": "test", "calibration": "calibration", "validation": "calibration"}
_NORMAL_LABELS = ("good", "ok", "normal", "0")
_SHOWN = 20


class CsvTable(DataTable):
    """A csv file with the columns path, label and split, and optionally mask and category."""

    has_columns: ClassVar[bool] = True

    format: Literal["csv"] = Field(default="csv", description="a list of images")

    def find(self, seed: int, notes: Notes) -> list[Found]:
        return find_csv(self, notes)


@dataclass
class _Rows:
    """One category as far as its lines have been read."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"train": [], "calibration": [], "test": []})
    lines: dict[str, int] = field(default_factory=dict)
    """Id → the line that lists it."""


class _RowError(ValueError):
    """A line that cannot be used; the message says what is wrong with it."""


def find_csv(table: CsvTable, notes: Notes) -> list[Found]:
    """Find the categories in the order of the column category, or one that is named after the file."""
    path = Path(table.root).expanduser()
    if not path.is_file():
        found = "found a folder of that name" if path.is_dir() else contents(path).replace("folder", "file")
        notes.problems.append(f"root: expected a csv file at {named(table.root)}, {found}; check the path")
        return []
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            categories = _read(csv.DictReader(file, strict=True), path, _column(table), problems)
    except (UnicodeDecodeError, csv.Error) as error:
        notes.problems.append(f"{path}: expected comma-separated text in UTF-8, found something else ({error})")
        return []
    notes.problems.extend(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        more = len(problems) - _SHOWN
        notes.problems.append(f"{path}: {counted(more, 'more line')} {'has' if more == 1 else 'have'} problems")
    return [
        Found(
            name=name,
            normal=rows.samples["train"],
            test=rows.samples["test"],
            expected=f"as lines of {path} labeled good, ok, normal or 0 in the split train, found none",
            calibration=rows.samples["calibration"] or None,
        )
        for name, rows in categories.items()
    ]


def _column(table: CsvTable) -> str | None:
    """The column that names the group of each image; None where there is none, or ids say it."""
    return None if table.group is None or is_expression(table.group) else table.group


def _read(reader: csv.DictReader[str], path: Path, group: str | None, problems: list[str]) -> dict[str, _Rows]:
    columns = list(reader.fieldnames or [])
    if absent := [name for name in _REQUIRED if name not in columns]:
        problems.append(
            f"{path}:1: expected the columns path, label and split (and optionally mask, category), "
            f"found no {some(absent)} among {some(columns) or 'none'}; the first line names the columns"
        )
        return {}
    if group is not None and group not in columns:
        problems.append(
            f"{path}:1: expected the column {group} of data.group, {missing(group, columns)}; or give an expression "
            'with parentheses, "folder" or "folder:N"'
        )
        return {}
    categories: dict[str, _Rows] = {}
    empty = True
    for row in reader:
        empty = False
        values = {name: (row.get(name) or "").strip() for name in (*_REQUIRED, *_OPTIONAL)}
        rows = categories.setdefault(harmless(values["category"]) or printable(path.stem), _Rows())
        try:
            if None in row:
                raise _RowError(f"expected {counted(len(columns), 'value')}, found more; put commas in double quotes")
            key = harmless((row.get(group) or "").strip()) or None if group else None
            _add(values, path.parent, key, rows, reader.line_num)
        except _RowError as error:
            problems.append(f"{path}:{reader.line_num}: {error}")
    if empty:
        problems.append(f"{path}: expected a line per image below the names of the columns, found none")
    return categories


def _add(values: dict[str, str], folder: Path, group: str | None, rows: _Rows, line: int) -> None:
    if blank := [name for name in _REQUIRED if not values[name]]:
        raise _RowError(f"expected a value for {some(blank)}, found none")
    split = _SPLITS.get(values["split"].casefold())
    if split is None:
        hint = did_you_mean(values["split"], _SPLITS)
        raise _RowError(f"split: expected one of {', '.join(_SPLITS)}, found {values['split']}{hint}")
    normal = values["label"].casefold() in _NORMAL_LABELS
    if not normal and split != "test":
        raise _RowError(
            f"label: expected good, ok, normal or 0 in the split {values['split']}, which is of normal "
            f"images alone, found {values['label']}; give it the split test"
        )
    image = folder / values["path"]
    mask = folder / values["mask"] if values["mask"] else None
    for key, file in (("path", image), ("mask", mask)):
        if file is not None and not file.is_file():
            raise _RowError(f"{key}: expected a file at {file}, found none; paths start from the csv's folder")
    id = _id(image, folder)
    if (first := rows.lines.setdefault(id, line)) != line:
        raise _RowError(f"path: {id} is on line {first} already; list each image once")
    kind = NORMAL_KIND if normal else harmless(values["label"])
    rows.samples[split].append(Sample(id, image, 0 if normal else 1, kind, mask, group))


def _id(image: Path, folder: Path) -> str:
    """The id of a file: its path from the csv's folder, the same however it is written and on every machine."""
    path, top = (Path(os.path.abspath(each)) for each in (image, folder))
    return printable(Path(os.path.relpath(path, top)) if path.drive == top.drive else path)
