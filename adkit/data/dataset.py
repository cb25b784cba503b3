"""From a ``[data]`` table to samples: find the images, hold some out, check them before any training."""

from __future__ import annotations

import os
from dataclasses import replace

from adkit.data.duplicates import (
    Pair,
    copies_to_training,
    equal_images,
    moved_warning,
    shared_images,
    shared_warning,
)
from adkit.data.files import writable
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.masks import check_masks
from adkit.data.samples import Category, Dataset
from adkit.data.splits import folded, hold_out
from adkit.errors import UserError


def open_dataset(table: DataTable, seed: int, folds: int = 0) -> Dataset:
    """Find the images of a ``[data]`` table and split them; nothing is decoded but masks of normal images.

    A calibration image of the same content as another normal image is moved to training, with a warning, even
    where the layout itself set it apart: the promise on false alarms rests on images that are new to the detector.

    Args:
        seed: decides which normal images are held out for calibration (and for the test, where the format
            takes them from the training images), and which fold each is in.
        folds: number of parts to cut the normal images into; above 0, none of them is held out for calibration.

    Raises:
        UserError: with every problem found, one sentence each.
    """
    notes = Notes()
    try:
        categories = tuple(
            _category(one, 0 if folds else table.calibration, seed, notes) for one in table.find(seed, notes)
        )
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(_unreadable(error)) from error
    if notes.problems:
        raise UserError(map(writable, notes.problems))
    shared = table.shares_images
    categories, warnings = _without_copies(categories, shared, table.root, folds, seed)
    return Dataset(categories, tuple(map(writable, (*notes.warnings, *warnings))), shared)


def _unreadable(error: OSError) -> str:
    path = os.fsdecode(error.filename)
    kind = "folder" if os.path.isdir(path) else "path"
    return writable(
        f"{path}: expected a {kind} that can be read, found: {error.strerror}; fix its permissions, or name another"
    )


def _category(found: Found, share: float, seed: int, notes: Notes) -> Category:
    if not found.normal:
        notes.problems.append(f"{found.name}: expected normal training images {found.expected}")
    test = check_masks(found.name, found.test, notes)
    if found.calibration is None:
        train, calibration = hold_out(found.normal, share, seed, "calibration")
    elif share:
        train, calibration = list(found.normal), list(found.calibration)
    else:  # every normal image is used for training
        train, calibration = [*found.normal, *found.calibration], []
    return Category(found.name, tuple(train), tuple(calibration), tuple(test))


def _without_copies(
    categories: tuple[Category, ...], shared: bool, root: str, folds: int, seed: int
) -> tuple[tuple[Category, ...], list[str]]:
    """Move calibration images that equal other normal images to training; also warn of images of equal content."""
    # Where categories share their images, each has normal images of its own, and all have the same test images.
    groups = [(root, categories)] if shared else [(category.name, (category,)) for category in categories]
    settled: list[Category] = []
    warnings = []
    for name, group in groups:
        normal = [sample for category in group for sample in (*category.train, *category.calibration)]
        equal = equal_images((*normal, *group[0].test))
        moved: list[Pair] = []
        for category in group:
            category, pairs = copies_to_training(category, equal)
            parts = folded(category.train, folds, seed, equal) if folds else ()
            settled.append(replace(category, folds=parts, equal=equal))
            moved += pairs
        if moved:
            warnings.append(moved_warning(name, moved))
        if pairs := shared_images(normal, group[0].test, equal):
            warnings.append(shared_warning(name, pairs))
    return tuple(settled), warnings
