"""How the images of a folder lie, and which keys of ``[data]`` say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adkit.data.files import NORMAL_NAMES, child, contents, folders_in, images_in, images_under
from adkit.errors import UserError
from adkit.utils.escapes import harmless, printable
from adkit.utils.text import counted, is_text, some

NORMAL: Final = (*NORMAL_NAMES, "pass", "passed", "healthy", "clean", "nominal", "io")
"""Names of folders of normal images; ``io`` is German for in order."""
ANOMALOUS: Final = (
    *("bad", "anomalous", "anomaly", "anomalies", "abnormal", "defect", "defects", "defective", "ng", "nok", "nio"),
    *("not_good", "fail", "failed", "faulty", "broken", "damaged"),
)
MASKS: Final = ("masks", "mask", "ground_truth", "groundtruth", "gt", "labels", "annotations", "segmentation")
_CSV: Final = {"path", "label", "split"}


@dataclass(frozen=True)
class Layout:
    """The keys of ``[data]`` that read a folder."""

    keys: Mapping[str, Any]
    """``format``, ``root`` and what the format asks for."""
    found: str
    """What was recognized, as a clause."""
    doubts: list[str] = field(default_factory=list)
    """What a user should look at, as sentences."""


def layout_of(root: Path) -> Layout:
    """Recognize how images lie below ``root``.

    Raises:
        UserError: there is nothing that adkit reads as images.
    """
    if not is_text(str(root)):
        raise UserError(
            f"{printable(root)}: expected a name that is text, found bytes that are none: rename the folder"
        )
    if root.is_file():
        return _of_file(root)
    if not root.is_dir():
        raise UserError(f"{root}: expected a folder of images, {contents(root)}; check the path")
    train, test = child(root, "train"), child(root, "test")
    if list(root.glob("train-images*")):
        return _labeled({"format": "arrays"}, root, "idx files as MNIST has them")
    if train is not None and child(train, *NORMAL_NAMES) is not None:
        keys = {"format": "mvtec", "root": str(root.parent), "category": printable(root.resolve().name)}
        return Layout(keys, "one category as MVTec AD has them")
    categories = [path for path in folders_in(root) if (own := child(path, "train")) and child(own, *NORMAL_NAMES)]
    if categories:
        names = some([printable(path.name) for path in categories])
        found = f"{counted(len(categories), 'category', 'categories')} as MVTec AD has them ({names})"
        return Layout({"format": "mvtec", "root": str(root), "category": "*"}, found)
    if train is not None and test is not None and folders_in(train):
        return _of_classes(root, train)
    return _of_folders(root)


def _of_file(file: Path) -> Layout:
    if file.suffix.lower() == ".npz":
        return _labeled({"format": "arrays"}, file, "arrays in an npz file")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            heads = {head.strip().strip('"') for head in lines.readline().split(",")}
    except (OSError, UnicodeDecodeError):
        heads = set()
    if heads >= _CSV:
        return Layout({"format": "csv", "root": str(file)}, "a list of images")
    raise UserError(
        f"{file}: expected a folder of images, an npz file, or a csv file with the columns {', '.join(sorted(_CSV))}, "
        "found another file: name the folder"
    )


def _labeled(keys: dict[str, Any], root: Path, found: str) -> Layout:
    doubt = "nothing says which label is normal, so each is tried against the rest: set normal = 0, or another, for one"
    return Layout(keys | {"root": str(root), "normal": "*"}, found, [doubt])


def _of_classes(root: Path, train: Path) -> Layout:
    names = [printable(path.name) for path in folders_in(train)]
    keys: dict[str, Any] = {"format": "classes", "root": str(root)}
    found = f"{counted(len(names), 'class', 'classes')} in train and test ({some(names)})"
    normal = child(train, *NORMAL)
    if normal is not None:
        return Layout(keys | {"normal": printable(normal.name)}, found)
    doubt = f"nothing says which class is normal, so each is tried against the rest: set normal to one of {some(names)}"
    return Layout(keys | {"normal": "*"}, found, [doubt])


def _recognized(folders: Iterable[Path]) -> list[Path]:
    """The folders whose subfolders say what they are, or else the only one."""
    folders = list(folders)
    found = [path for path in folders if child(path, "train", *NORMAL, *ANOMALOUS) is not None]
    return folders if len(folders) == 1 else found


def _of_folders(root: Path) -> Layout:
    counts = {path: len(images_under(path)) for path in folders_in(root)}
    counts = {path: count for path, count in counts.items() if count}
    loose, doubts = len(images_in(root)), list[str]()
    wanted = {"normal": NORMAL, "anomalous": ANOMALOUS, "masks": MASKS}
    named = {key: path for key, names in wanted.items() if (path := child(root, *names)) is not None and path in counts}
    rest = {path: count for path, count in counts.items() if path not in named.values()}
    if "normal" not in named:
        if loose:
            named["normal"] = root
        elif not named and len(inside := _recognized(rest)) == 1:
            return layout_of(inside[0])
        elif not named and inside:
            raise UserError(
                f"{root}: expected the images of one thing, found several folders with such "
                f"({some([printable(path.name) for path in inside])}): name one of them"
            )
        elif rest:
            named["normal"] = largest = max(rest, key=rest.__getitem__)
            del rest[largest]
            doubts.append(
                f"no folder says that it is of normal images: {printable(largest.name)} has most and is taken"
            )
        else:
            raise UserError(f"{root}: expected images, {contents(root)}; name the folder that holds them")
    if "masks" in named and "anomalous" not in named:
        doubts.append(f"{printable(named.pop('masks').name)} looks like masks, and no folder like anomalous images")
    if rest:
        names = some([f"{printable(path.name)} ({counted(count, 'image')})" for path, count in rest.items()])
        advice = (
            'say anomalous = "…" to measure with one of them, or put the defective ones in one folder, by kind'
            if "anomalous" not in named
            else "put them in the folder that they belong to"
        )
        among = named["normal"] == root
        taken = "taken for normal images, as they lie among them" if among else "left out"
        doubts.append(f"{names}: {taken}; {advice}")
    keys: dict[str, Any] = {"format": "folder", "root": str(root)}
    keys |= {key: "." if path == root else path.name for key, path in named.items()}
    told = ", ".join(f"{key} {printable(path.name) or path}" for key, path in named.items())
    return Layout(keys, f"a folder of images ({told})", [harmless(text) for text in doubts])
