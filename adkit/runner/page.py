"""The record of a category for the page: its scores, and small pictures of the images that deserve a look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from adkit.data.images import in_threads
from adkit.data.samples import Category, Sample, in_order, spread_over
from adkit.data.view import View
from adkit.metrics import PixelCounts
from adkit.report.page.pictures import Cell, mean_patches, patches
from adkit.report.page.record import Evidence, PageRecord, Patch, Picture, Pro, by_interest, packed
from adkit.runner.shown import Highest, Nearest, PageShare, evidence
from adkit.runner.thresholds import Trial
from adkit.toolkit.resample import centers_of

MEANT: Final = 32
"""Normal images of whose places the mean is shown."""
_PRO_POINTS = 200


def page_record(category: Category, kept: Trial, share: PageShare, notes: list[str]) -> PageRecord:
    """The record of the images that the kept detector was tested on."""
    test, held_out = kept.test, kept.held_out
    kinds = in_order(sample.kind for sample in test.samples)
    numbered = {kind: number for number, kind in enumerate(kinds)}
    order = by_interest(test.scores, test.labels, None if kept.threshold is None else kept.threshold.value)
    keys = test.keys(category.groups)
    names, numbers = np.unique(np.array(keys, np.str_), return_inverse=True)

    shown = [int(row) for row in order[: share.pictures]]

    def picture(row: int) -> Picture:
        sample = test.samples[row]
        kept_of = test.kept.get(sample.id)
        return share.thumbnails.of(sample, row, None if kept_of is None else kept_of.map)

    found = _evidence({row: test.samples[row] for row in shown[: share.explained]}, kept, share.thumbnails.view)
    pictures = [one.model_copy(update={"evidence": found.get(one.row)}) for one in in_threads(picture, shown)]
    return PageRecord(
        category=category.name,
        kinds=kinds,
        scores=packed(test.scores, "float32"),
        labels=packed(test.labels, "uint8"),
        kind_of=packed([numbered[sample.kind] for sample in test.samples], "uint8" if len(kinds) <= 256 else "uint16"),
        group_of=packed(numbers, "uint32") if len(names) < len(keys) else None,
        group_names=names.tolist() if category.grouped and len(names) < len(keys) else [],
        peaks=None if test.peaks is None else packed(test.peaks, "float32"),
        calibration=packed(held_out.scores, "float32"),
        calibration_groups=None if held_out.groups is None else packed(held_out.groups, "uint32"),
        calibration_peaks=None if held_out.peaks is None else packed(held_out.peaks, "float32"),
        names=[(int(row), test.samples[row].id) for row in order[: share.listed]],
        pictures=pictures,
        pro=None if test.counts is None else _pro(test.counts),
        notes=notes,
    )


def _evidence(shown: Mapping[int, Sample], kept: Trial, view: View) -> dict[int, Evidence]:
    """Row → the evidence for it; every image is read once, whatever is cut from it."""
    trained, seen, members = list(kept.fitted.trained), kept.fitted.seen, kept.fitted.pipeline.members
    cells_of = {row: kept.test.kept[sample.id].highest for row, sample in shown.items() if sample.id in kept.test.kept}
    highest = {row: one for row, one in cells_of.items() if one is not None}
    nearest: dict[int, Nearest] = {}
    for number, member in enumerate(members):
        asked = {row: one for row, one in highest.items() if one.member == number}
        with torch.inference_mode():
            found = evidence(member.scorer, list(asked.values()))
        known = zip(asked, found, strict=True)
        nearest |= {row: one for row, one in known if one is not None and one.of(len(seen[number]))}
    which = {row: one.member + 1 if len(members) > 1 else None for row, one in highest.items()}
    cells = {row: _cell(one, one.cell) for row, one in highest.items()}
    means = [row for row, one in highest.items() if row not in nearest and one.grid != (1, 1)]
    wanted = _Wanted()
    own = {row: wanted.add(shown[row], cells[row]) for row in [*nearest, *means]}
    close = {
        row: [wanted.add(images[number // size], _cell(near.to, number % size)) for number in near.numbers]
        for row, near in nearest.items()
        for images, size in ((seen[near.to.member], near.to.grid[0] * near.to.grid[1]),)
    }
    cut = wanted.patches(view)
    explained = {}
    for row, near in nearest.items():
        pairs = zip((cut(one) for one in close[row]), near.distances, strict=True)
        others = [patch.model_copy(update={"distance": distance}) for patch, distance in pairs]
        explained[row] = Evidence(level=near.to.level, member=which[row], patch=cut(own[row]), nearest=others)
    averages = mean_patches(spread_over(trained, MEANT), [cells[row] for row in means], view) if means else []
    for row, mean in zip(means, averages, strict=bool(averages)):
        level, patch = highest[row].level, cut(own[row])
        explained[row] = Evidence(level=level, member=which[row], patch=patch, nearest=[], mean=mean)
    return explained


class _Wanted:
    """Collects the cells that patches are cut of, image by image."""

    def __init__(self) -> None:
        self._cells: dict[str, tuple[Sample, list[Cell]]] = {}

    def add(self, sample: Sample, cell: Cell) -> tuple[str, int]:
        """Ask for the patch around a cell; what is returned is its ticket."""
        _, cells = self._cells.setdefault(sample.id, (sample, []))
        cells.append(cell)
        return sample.id, len(cells) - 1

    def patches(self, view: View) -> Callable[[tuple[str, int]], Patch]:
        """Read the images, and return what gives the patch of a ticket."""
        read = dict(in_threads(lambda one: (one[0].id, patches(one[0], one[1], view)), self._cells.values()))
        return lambda ticket: read[ticket[0]][ticket[1]]


def _cell(one: Highest, cell: int) -> Cell:
    y, x = (
        float(centers_of(one.geometry, axis, one.grid[axis])[place])
        for axis, place in enumerate(divmod(cell, one.grid[1]))
    )
    return Cell((y, x), one.geometry.step)


def _pro(counts: PixelCounts) -> Pro:
    alarms, found = counts.pro_curve()
    # Points that are evenly apart along the curve, with both of its ends.
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(alarms)) + np.abs(np.diff(found)))])
    places = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _PRO_POINTS)).clip(0, len(length) - 1))

    def at(values: NDArray[np.floating]) -> list[float]:
        return [float(f"{value:.5g}") for value in values[places]]

    return Pro(thresholds=[float(value) for value in counts.thresholds[places]], alarms=at(alarms), found=at(found))
