"""From a ``[data]`` table to samples: find the images, hold some out, check them before any training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from adkit.data.beside import masks_beside
from adkit.data.contents import contents_warning
from adkit.data.duplicates import (
    equal_images,
    moved_warning,
    parted_warning,
    separated_warning,
    shared_images,
    shared_warning,
)
from adkit.data.file_types import is_paged
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.groups import is_expression, keys_by, linked, nothing_keyed, on_both_sides, without_key
from adkit.data.images import Range, in_threads, pages
from adkit.data.masks import check_masks
from adkit.data.ranges import range_of
from adkit.data.samples import Category, Dataset, Sample
from adkit.data.splits import folded, hold_out
from adkit.errors import UserError
from adkit.utils.escapes import harmless
from adkit.utils.text import counted, some

Samples = TypeVar("Samples", bound=Sequence[Sample] | None)


def open_dataset(table: DataTable, seed: int, folds: int = 0, seen_by: Range | None = None) -> Dataset:
    """Find the images of a ``[data]`` table and split them.

    Nothing is decoded but masks, a few normal images and, with ``range = "auto"``, those to train on.

    Images of one group, and images of equal content, are on the same side of every split. Where the layout itself puts
    them on both sides, calibration images are moved to training, because the promise on false alarms rests on images
    that are new to the detector; test images stay, with a warning.

    Args:
        seed: decides which normal images are held out for calibration (and for the test, where the format
            takes them from the training images), and which fold each is in.
        folds: number of parts to cut the normal images into; above 0, none of them is held out for calibration.
        seen_by: the range of other images, as which these are read; None: what the table asks for.

    Raises:
        UserError: with every problem found, one sentence each.
    """
    notes = Notes()
    try:
        found = [_checked(_grouped(one, table, notes), table, notes) for one in _found(table, seed, notes)]
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(_unreadable(error)) from error
    if notes.problems:
        raise UserError(map(harmless, notes.problems))
    # Where categories share their images, each has normal images of its own, and all have the same test images.
    together = [(table.root, found)] if table.shares_images else [(one.name, [one]) for one in found]
    categories: list[Category] = []
    passed_over = Counter(notes.passed_over.values())
    for name, members in together:
        if further := _further_pages(sample for one in members for sample in (*one.normal, *one.test)):
            notes.warnings.append(_pages_warning(name, further))
            passed_over["further page or frame"] += sum(further.values())
        normal = [sample for one in members for sample in (*one.normal, *(one.calibration or ()))]
        equal = equal_images((*normal, *members[0].test))
        groups = linked((*normal, *members[0].test), equal)
        split: list[Category] = []
        for one in members:
            one, remarks = _moved(one, equal, groups) if table.calibration and not folds else (one, [])
            notes.warnings.extend(remarks)
            split.append(_category(one, table.calibration, seed, folds, groups))
        training = {sample.id: sample for one in split for sample in one.train}
        found_range, remark = range_of(name, table.range, list(training.values()))
        range = seen_by or found_range
        notes.warnings.extend([remark] if remark else [])
        notes.warnings.extend(text for one in members if (text := contents_warning(one.name, one.normal, range)))
        categories += [replace(one, range=range) for one in split]
        if pairs := shared_images(normal, members[0].test, equal):
            notes.warnings.append(shared_warning(name, pairs))
        # A copy is to be removed, so that whatever it alone connects is separate: one remedy for each pair.
        copies = {copy.id for _, copy in pairs}
        others = [sample for sample in members[0].test if sample.id not in copies]
        if keys := on_both_sides(normal, others, linked((*normal, *others), equal)):
            notes.warnings.append(separated_warning(name, keys))
    return Dataset(tuple(categories), tuple(map(harmless, notes.warnings)), table.shares_images, dict(passed_over))


def _unreadable(error: OSError) -> str:
    path = os.fsdecode(error.filename)
    kind = "folder" if os.path.isdir(path) else "path"
    return harmless(
        f"{path}: expected a {kind} that can be read, found: {error.strerror}; fix its permissions, or name another"
    )


def _found(table: DataTable, seed: int, notes: Notes) -> list[Found]:
    found = table.find(seed, notes)
    together = [(table.root, found)] if table.shares_images else [(one.name, [one]) for one in found]
    return [one for name, few in together for one in masks_beside(name, few, notes, paired=table.has_masks)]


def _checked(found: Found, table: DataTable, notes: Notes) -> Found:
    if not found.normal:
        notes.problems.append(f"{found.name}: expected normal training images {found.expected}")
    anomalous = [sample for sample in found.test if sample.label]
    if found.without_masks is not None and anomalous and all(sample.mask is None for sample in anomalous):
        notes.problems.append(found.without_masks)

    def checked(samples: Sequence[Sample]) -> list[Sample]:
        return check_masks(found.name, samples, table.mask_threshold, notes)

    calibration = None if found.calibration is None else checked(found.calibration)
    return replace(found, normal=checked(found.normal), test=checked(found.test), calibration=calibration)


def _further_pages(samples: Iterable[Sample]) -> dict[str, int]:
    """Id of each image whose file has several pages or frames → how many there are behind the first."""
    files = {one.source: one.id for one in samples if isinstance(one.source, Path)}
    paged = [path for path in files if is_paged(path)]
    counts = zip(paged, in_threads(pages, paged), strict=True)
    return {files[path]: count - 1 for path, count in counts if count > 1}


def _pages_warning(name: str, further: Mapping[str, int]) -> str:
    one = len(further) == 1
    shown = some([f"{id}: {count + 1:,}" for id, count in further.items()], 3)
    return (
        f"{name}: {counted(len(further), 'image')} {'has' if one else 'have'} several pages or frames, of which the "
        f"first alone is read ({shown}): save each that shows a part as a file of its own"
    )


def _grouped(found: Found, table: DataTable, notes: Notes) -> Found:
    """Give every sample its group where the table says how; a format whose data has groups has given them already."""
    samples = (*found.normal, *(found.calibration or ()), *found.test)
    if table.group is None and all(sample.group is None for sample in samples):
        return found
    key = keys_by(table.group) if table.group is not None and is_expression(table.group) else None
    missing: list[str] = []

    def named(sample: Sample) -> Sample:
        group = sample.group if key is None else key(sample.id)
        if group is None and not sample.closed:
            missing.append(sample.id)
        return replace(sample, group=sample.id if group is None else group)

    def all_named(samples: Samples) -> Samples | list[Sample]:
        return samples if samples is None else [named(sample) for sample in samples]

    found = replace(
        found,
        normal=all_named(found.normal),
        test=all_named(found.test),
        calibration=all_named(found.calibration),
    )
    if missing and table.group_missing == "refuse":
        notes.problems.append(without_key(found.name, table.group, missing))
    elif table.group is not None and len(missing) == len(samples):
        notes.warnings.append(nothing_keyed(found.name, table.group, missing))
    return found


def _moved(found: Found, equal: Mapping[str, int], groups: Mapping[str, str]) -> tuple[Found, list[str]]:
    """Move calibration images that the layout sets apart, but which belong with training images, to those."""
    if found.calibration is None:
        return found, []
    first = {groups.get(sample.id, sample.id): sample for sample in reversed(found.normal)}
    moved = [sample for sample in found.calibration if groups.get(sample.id, sample.id) in first]
    if not moved:
        return found, []
    copies = shared_images(found.normal, moved, equal)
    copied = {sample.id for _, sample in copies}
    keys = [groups.get(sample.id, sample.id) for sample in moved if sample.id not in copied]
    kept = [sample for sample in found.calibration if groups.get(sample.id, sample.id) not in first]
    warnings = [moved_warning(found.name, copies)] if copies else []
    warnings += [parted_warning(found.name, len(keys), list(dict.fromkeys(keys)))] if keys else []
    return replace(found, normal=[*found.normal, *moved], calibration=kept), warnings


def _category(found: Found, share: float, seed: int, folds: int, groups: Mapping[str, str]) -> Category:
    normal, tested = hold_out(found.normal, found.test_share, seed, "test", groups)
    share = 0 if folds else share
    if found.calibration is None:
        train, calibration = hold_out(normal, share, seed, "calibration", groups)
    elif share:
        train, calibration = normal, list(found.calibration)
    else:  # every normal image is used for training
        train, calibration = [*normal, *found.calibration], []
    parts = folded(train, folds, seed, groups, "threshold.folds", found.name) if folds else ()
    return Category(found.name, tuple(train), tuple(calibration), (*tested, *found.test), parts, groups)
