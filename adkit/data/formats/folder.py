"""Format ``folder``: a folder of normal images, and perhaps a few anomalous ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from adkit.data.files import MaskFolder, contents, images_under, named
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.samples import NORMAL_KIND, Sample
from adkit.utils.escapes import printable


class FolderTable(DataTable):
    """A folder of normal images, and perhaps one of anomalous ones."""

    format: Literal["folder"] = Field(default="folder", description="a folder of images")
    normal: str = Field(default="good", min_length=1, description='subfolder of normal images; "." for the root')
    anomalous: str | None = Field(default=None, min_length=1, description="subfolder of anomalous images, if any")
    masks: str | None = Field(
        default=None,
        min_length=1,
        description="subfolder of masks with the stems of the anomalous images, if any",
    )
    test_normal: str | None = Field(
        default=None,
        min_length=1,
        description="subfolder of normal test images; default: test_share of the normal",
    )
    test_share: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="share of the normal images to test on where there are anomalous ones",
    )

    def find(self, seed: int, notes: Notes) -> list[Found]:
        return find_folder(self, notes)


def find_folder(table: FolderTable, notes: Notes) -> list[Found]:
    """Find one category, named after the root; without anomalous images there is nothing to test on."""
    root = Path(table.root).expanduser()
    if not root.is_dir():
        notes.problems.append(
            f"root: expected a folder of images at {named(table.root)}, {contents(root)}; check the path"
        )
        return []
    train = _normal(table, table.normal, root)
    anomalous = _anomalous(table, root, notes)
    good: list[Sample] = []
    if table.test_normal is not None:
        _expect_images(root / table.test_normal, "test_normal", notes)
        good = _normal(table, table.test_normal, root)
    share = table.test_share if anomalous and table.test_normal is None else 0.0
    expected = f"in {root / table.normal}, {contents(root / table.normal)}"
    return [Found(printable(root.resolve().name), train, [*good, *anomalous], expected, test_share=share)]


def _normal(table: FolderTable, name: str, root: Path) -> list[Sample]:
    return [Sample(printable(path.relative_to(root)), path, 0, NORMAL_KIND) for path in _images(table, name, root)]


def _anomalous(table: FolderTable, root: Path, notes: Notes) -> list[Sample]:
    if table.anomalous is None:
        if table.masks is not None:
            notes.problems.append("masks: expected the key anomalous, too, found none; masks are of anomalous images")
        return []
    folder = root / table.anomalous
    _expect_images(folder, "anomalous", notes)
    masks = drawn = None
    if table.masks is not None:
        drawn = root / table.masks
        _expect_images(drawn, "masks", notes)
        masks = MaskFolder(drawn)
    samples = []
    for path in _images(table, table.anomalous, root):
        below = path.relative_to(folder)
        kind = below.parts[0] if len(below.parts) > 1 else folder.resolve().name
        mask = masks.of(below) if masks else None
        samples.append(Sample(printable(path.relative_to(root)), path, 1, printable(kind), mask))
    if drawn is not None and samples and all(sample.mask is None for sample in samples):
        notes.problems.append(
            f"masks: expected x.png or x_mask.png in {drawn} for {table.anomalous}/x.png, {contents(drawn)}; "
            "rename the masks after their images"
        )
    return samples


def _images(table: FolderTable, name: str, root: Path) -> list[Path]:
    """Find the images below a subfolder, without those in another of the table's folders inside it."""
    folder = root / name
    names = (table.normal, table.anomalous, table.masks, table.test_normal)
    others = [root / other for other in names if other is not None and root / other != folder]
    inside = [other for other in others if other.is_relative_to(folder)]
    return [path for path in images_under(folder) if not any(map(path.is_relative_to, inside))]


def _expect_images(folder: Path, key: str, notes: Notes) -> None:
    if not images_under(folder):
        notes.problems.append(f"{key}: expected images in {folder}, {contents(folder)}; check the name")
