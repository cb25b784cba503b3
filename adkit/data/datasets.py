"""From a ``[data]`` table to samples: find the pictures, hold some out, check them before any training."""

from __future__ import annotations

from pathlib import Path

from adkit.data.arrays import find_arrays
from adkit.data.classes import find_classes
from adkit.data.csv_list import find_csv
from adkit.data.duplicates import duplicate_warning, shared_pictures
from adkit.data.folder import find_folder
from adkit.data.found import Found, Notes
from adkit.data.masks import check_masks
from adkit.data.mvtec import find_mvtec
from adkit.data.samples import Category, Dataset
from adkit.data.splits import hold_out
from adkit.data.tables import (
    ArraysTable,
    ClassesTable,
    CsvTable,
    DataTable,
    FolderTable,
    MvtecTable,
    TexturesTable,
)
from adkit.errors import UserError


def open_dataset(table: DataTable, seed: int) -> Dataset:
    """Resolve the files of a table; nothing is decoded but the masks of normal pictures.

    Args:
        seed: decides which normal pictures are held out for calibration (and for the test, where the format
            takes them from the training pictures).

    Raises:
        UserError: with every problem found, one sentence each.
    """
    notes = Notes()
    found = _find(table, seed, notes)
    categories = tuple(_category(one, table.calibration, seed, notes) for one in found)
    if notes.problems:
        raise UserError(notes.problems)
    shared = isinstance(table, ClassesTable | ArraysTable) and table.normal == "*"
    return Dataset(categories, (*notes.warnings, *_duplicates(categories, shared, table.root)), shared)


def _find(table: DataTable, seed: int, notes: Notes) -> list[Found]:
    match table:
        case TexturesTable():
            _write_textures(table)
            return find_mvtec(table, notes)
        case MvtecTable():
            return find_mvtec(table, notes)
        case FolderTable():
            return find_folder(table, seed, notes)
        case ClassesTable():
            return find_classes(table, notes)
        case ArraysTable():
            return find_arrays(table, notes)
        case CsvTable():
            return find_csv(table, notes)
    raise TypeError(f"no reader for {type(table).__name__}")


def _write_textures(table: TexturesTable) -> None:
    root = Path(table.root).expanduser()
    if not root.exists():
        from adkit.data.textures import write_textures  # brings scikit-image, which no other format needs

        write_textures(root, table.seed)


def _category(found: Found, share: float, seed: int, notes: Notes) -> Category:
    if not found.normal:
        notes.problems.append(f"{found.name}: expected normal training pictures {found.expected}")
    test = check_masks(found.name, found.test, notes)
    if found.calibration is None:
        train, calibration = hold_out(found.normal, share, seed, "calibration")
    elif share:
        train, calibration = list(found.normal), list(found.calibration)
    else:  # every normal picture is wanted for training
        train, calibration = [*found.normal, *found.calibration], []
    return Category(found.name, tuple(train), tuple(calibration), tuple(test))


def _duplicates(categories: tuple[Category, ...], shared: bool, root: str) -> list[str]:
    if shared:  # each category's training pictures are its own, the test pictures are everybody's
        train = [sample for category in categories for sample in (*category.train, *category.calibration)]
        pairs = shared_pictures(train, categories[0].test)
        return [duplicate_warning(root, pairs)] if pairs else []
    return [
        duplicate_warning(category.name, pairs)
        for category in categories
        if (pairs := shared_pictures((*category.train, *category.calibration), category.test))
    ]
