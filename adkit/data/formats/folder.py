"""Format ``folder``: a folder of normal images, and perhaps a few anomalous ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from adkit.data.files import Find, contents, images_and_closed, images_under, named
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.pairing import pair
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
        description="subfolder of masks named after the anomalous images (x.png, x_mask.png, mask_x.png), if any; may "
        "be that of the images",
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
    train = _normal(table, table.normal, root, notes)
    anomalous = _anomalous(table, root, notes)
    good: list[Sample] = []
    if table.test_normal is not None:
        _expect_images(root / table.test_normal, "test_normal", notes)
        good = _normal(table, table.test_normal, root, notes, images_and_closed)
    share = table.test_share if anomalous and table.test_normal is None else 0.0
    expected = f"in {root / table.normal}, {contents(root / table.normal)}"
    without_masks = None
    if table.masks is not None:
        drawn = root / table.masks
        without_masks = (
            f"masks: expected x.png, x_mask.png or mask_x.png in {drawn} for {table.anomalous}/x.png, "
            f"{contents(drawn)}; rename the masks after their images"
        )
    name = printable(root.resolve().name)
    test = [*good, *anomalous]
    return [Found(name, train, test, expected, test_share=share, without_masks=without_masks)]


def _normal(table: FolderTable, name: str, root: Path, notes: Notes, find: Find = images_under) -> list[Sample]:
    images = _images(table, name, root, notes, find)
    return [Sample(printable(path.relative_to(root)), path, 0, NORMAL_KIND) for path in images]


def _anomalous(table: FolderTable, root: Path, notes: Notes) -> list[Sample]:
    if table.anomalous is None:
        if table.masks is not None:
            notes.problems.append("masks: expected the key anomalous, too, found none; masks are of anomalous images")
        return []
    folder = root / table.anomalous
    _expect_images(folder, "anomalous", notes)
    images = _images(table, table.anomalous, root, notes, images_and_closed)
    masks: dict[Path, Path] = {}
    if table.masks is not None:
        drawn = root / table.masks
        _expect_images(drawn, "masks", notes)
        masks = _masks(images, folder, drawn, notes)
    samples = []
    for path in images:
        below = path.relative_to(folder)
        kind = below.parts[0] if len(below.parts) > 1 else folder.resolve().name
        samples.append(Sample(printable(path.relative_to(root)), path, 1, printable(kind), masks.get(path)))
    return samples


def _masks(images: list[Path], folder: Path, drawn: Path, notes: Notes) -> dict[Path, Path]:
    """Find the masks of images below ``folder`` in the folder ``drawn``."""
    if drawn.resolve() == folder.resolve():
        return {}  # they lie beside their images, and are found there whatever the format
    there = [mask for mask in images_under(drawn, notes.passed_over) if mask not in set(images)]
    pairs = pair({image: image.relative_to(folder) for image in images}, there, drawn)
    notes.problems.extend(pairs.problems)
    notes.passed_over.update({str(mask): "mask of no image" for mask in pairs.unpaired})
    return pairs.masks


def _images(table: FolderTable, name: str, root: Path, notes: Notes, find: Find) -> list[Path]:
    """Find the images below a subfolder, without those in another of the table's folders inside it."""
    folder = root / name
    names = (table.normal, table.anomalous, table.masks, table.test_normal)
    others = [root / other for other in names if other is not None and root / other != folder]
    inside = [other for other in others if other.is_relative_to(folder)]
    found = find(folder, notes.passed_over)
    return [path for path in found if not any(map(path.is_relative_to, inside))]


def _expect_images(folder: Path, key: str, notes: Notes) -> None:
    if not images_and_closed(folder):
        notes.problems.append(f"{key}: expected images in {folder}, {contents(folder)}; check the name")
