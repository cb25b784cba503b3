"""Format ``mvtec``: ``<category>/train/good``, ``test/<kind>``, ``ground_truth/<kind>``, and the like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath
from typing import Literal

from pydantic import Field

from adkit.data.files import (
    NORMAL_NAMES,
    Find,
    child,
    contents,
    folders_in,
    images_and_closed,
    images_in,
    images_under,
    named,
)
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.pairing import pair
from adkit.data.samples import NORMAL_KIND, Sample
from adkit.utils.escapes import printable
from adkit.utils.text import missing, some


class MvtecTable(DataTable):
    """``<root>/<category>/train/good``, ``test/<kind>``, ``ground_truth/<kind>/<stem>_mask.png``."""

    format: Literal["mvtec"] = Field(default="mvtec", description="folders as MVTec AD has them")
    category: str | tuple[str, ...] = Field(
        default="*", min_length=1, description='one category, a list, or "*" for all'
    )

    def find(self, seed: int, notes: Notes) -> list[Found]:
        return find_mvtec(self.root, self.category, notes)


def find_mvtec(where: str, category: str | tuple[str, ...], notes: Notes) -> list[Found]:
    """Find the categories in the folder ``where``, or that folder as the only one when it has a subfolder ``train``."""
    root = Path(where).expanduser()
    if not root.is_dir():
        notes.problems.append(
            f"root: expected a folder of categories, each with train/good, at {named(where)}, "
            f"{contents(root)}; check the path"
        )
        return []
    return [_category(name, folder, root, notes) for name, folder in _wanted(where, category, notes).items()]


def _wanted(where: str, category: str | tuple[str, ...], notes: Notes) -> dict[str, Path]:
    """Name → folder of each category that is asked for; a link is called as it lies there, not as what it leads to."""
    root = Path(where).expanduser()
    own = printable(root.resolve().name)
    folders = {printable(path.name): path for path in folders_in(root)}
    there = {own: root} if child(root, "train") else {n: path for n, path in folders.items() if child(path, "train")}
    if not there:
        found = f"found {some(list(folders))}" if folders else contents(root)
        notes.problems.append(
            f"root: expected folders with train/good in them below {named(where)}, {found}; "
            "name the folder that holds the categories"
        )
        return {}
    if category == "*":
        return there
    names = (category,) if isinstance(category, str) else tuple(dict.fromkeys(category))
    notes.problems.extend(
        f"category: expected a folder {name} with train/good in it below {named(where)}, {missing(name, list(there))}"
        for name in names
        if name not in there
    )
    return {name: there[name] for name in names if name in there}


def _category(name: str, folder: Path, root: Path, notes: Notes) -> Found:
    train = child(folder, "train") or folder / "train"
    normal = child(train, *NORMAL_NAMES) or train / "good"
    if other := [path.name for path in folders_in(train) if path != normal and images_under(path)]:
        notes.warnings.append(f"{name}: left out of training, because only {normal} is normal: {some(other)}")
    validation = child(folder, "validation")
    kept = child(validation, *NORMAL_NAMES) if validation else None  # as MVTec LOCO has it
    return Found(
        name=name,
        normal=_samples(normal, root, notes) if normal.is_dir() else [],
        test=_test(name, folder, root, notes),
        expected=f"in {normal} (or ok, normal), {contents(normal)}",
        calibration=_samples(kept, root, notes) if kept else None,
    )


def _test(name: str, folder: Path, root: Path, notes: Notes) -> list[Sample]:
    test = child(folder, "test")
    if test is None:
        return []
    if loose := images_in(test):
        notes.warnings.append(
            f"{name}: left out, because they are in {test} itself and not in a folder that says their kind "
            f"(good, crack, …): {some([path.name for path in loose])}"
        )
    truth = child(folder, "ground_truth", "groundtruth", "masks")
    samples = [sample for kind in folders_in(test) for sample in _samples(kind, root, notes, images_and_closed)]
    if truth is None:
        return samples
    kinds = {kind.name: (child(truth, kind.name) or kind).name for kind in folders_in(test)}
    places: dict[int, dict[Path, PurePath]] = {1: {}, 0: {}}
    for sample in samples:
        assert isinstance(sample.source, Path)
        kind, *below = sample.source.relative_to(test).parts
        places[sample.label][sample.source] = PurePath(kinds[kind], *below)
    masks = images_under(truth, notes.passed_over)
    anomalous = pair(places[1], masks, truth)
    normal = pair(places[0], anomalous.unpaired, truth)
    problems = [*anomalous.problems, *normal.problems]
    paired = anomalous.masks | normal.masks
    notes.problems.extend(problems)
    notes.passed_over.update({str(mask): "mask of no image" for mask in normal.unpaired})
    if masks and not paired and not problems:
        notes.warnings.append(
            f"{name}: none of the images in {truth} is the mask of a test image: for test/crack/x.png "
            "it is ground_truth/crack/x.png or x_mask.png"
        )
    return [replace(sample, mask=paired.get(sample.source)) for sample in samples]  # type: ignore[arg-type]


def _samples(folder: Path, root: Path, notes: Notes, find: Find = images_under) -> list[Sample]:
    normal = folder.name.casefold() in NORMAL_NAMES
    return [
        Sample(
            id=printable(path.relative_to(root)),
            source=path,
            label=0 if normal else 1,
            kind=NORMAL_KIND if normal else printable(folder.name),
        )
        for path in find(folder, notes.passed_over)
    ]
