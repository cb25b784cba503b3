"""Format ``classes``: ``train/<class>`` and ``test/<class>``, of which one or several are normal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from adkit.data.files import Find, child, contents, folders_in, images_and_closed, images_under, named
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.samples import Sample
from adkit.utils.escapes import printable
from adkit.utils.text import missing


class ClassesTable(DataTable):
    """``<root>/train/<class>/…`` and ``<root>/test/<class>/…``."""

    has_masks: ClassVar[bool] = False

    format: Literal["classes"] = Field(default="classes", description="a folder per class")
    normal: str | tuple[str, ...] = Field(
        min_length=1,
        examples=["cat"],
        description='the normal class, a list of them, or "*": each class against the rest',
    )

    def find(self, seed: int, notes: Notes) -> list[Found]:
        return find_classes(self, notes)

    @property
    def shares_images(self) -> bool:
        return self.normal == "*"


def find_classes(table: ClassesTable, notes: Notes) -> list[Found]:
    """Find one category of all normal classes together or, with ``normal = "*"``, one per class."""
    root = Path(table.root).expanduser()
    train, test = child(root, "train"), child(root, "test")
    if train is None or test is None:
        absent = " and ".join(name for name, path in (("train", train), ("test", test)) if path is None)
        notes.problems.append(
            f"root: expected train/<class> and test/<class> below {named(table.root)}, "
            + (f"found no folder {absent}" if root.is_dir() else contents(root))
            + "; check the path"
        )
        return []
    classes = {printable(folder.name): folder for folder in folders_in(train)}
    if not classes:
        notes.problems.append(f"root: expected a folder per class in {train}, {contents(train)}; check the path")
        return []
    wanted: list[tuple[str, ...]]
    if table.normal == "*":
        wanted = [(name,) for name in classes]
    else:
        names = (table.normal,) if isinstance(table.normal, str) else tuple(dict.fromkeys(table.normal))
        problems = [
            f"normal: expected a folder {name} in {train}, {missing(name, list(classes))}"
            for name in names
            if name not in classes
        ]
        notes.problems.extend(problems)
        wanted = [] if problems else [names]
    trained = {name: _samples(classes[name], root, notes) for names in wanted for name in names}
    normal = [sample for folder in folders_in(test) for sample in _samples(folder, root, notes, images_and_closed)]
    anomalous = [replace(sample, label=1) for sample in normal]  # made once, however many categories
    return [
        Found(
            name="+".join(names),
            normal=[sample for name in names for sample in trained[name]],
            test=[n if n.kind in names else a for n, a in zip(normal, anomalous, strict=True)],
            expected=f"in {' and '.join(str(classes[name]) for name in names)}, {contents(classes[names[0]])}",
        )
        for names in wanted
    ]


def _samples(folder: Path, root: Path, notes: Notes, find: Find = images_under) -> list[Sample]:
    kind, images = printable(folder.name), find(folder, notes.passed_over)
    return [Sample(printable(path.relative_to(root)), path, 0, kind) for path in images]
