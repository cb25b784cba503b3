"""Which mask belongs to which image, by their names: what is unambiguous is paired, the rest is named.

The mask of ``x.jpg`` is called ``x.png``, ``x.jpg.png``, ``x_mask.png``, ``mask_x.png`` or the like, or is a folder
``x`` of masks. Names are compared as they are before they are compared loosely: in any case and Unicode form, and
without the zeros before a number.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from adkit.data.file_types import EXTENSIONS
from adkit.data.files import is_image
from adkit.utils.text import joined

_WORD = r"(?:masks?|gt|labels?|seg|segmentation|ground[ _-]?truth)"
_AFTER = re.compile(rf"[ _.-]{_WORD}[ _-]?\d*$", re.IGNORECASE)
_MASKS = re.compile(_WORD, re.IGNORECASE)
_IMAGES = re.compile(r"(?:im(?:age|g)s?|rgb)", re.IGNORECASE)
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_BEFORE = re.compile(rf"^{_WORD}[ _.-]", re.IGNORECASE)

Key = tuple[str, str]
"""A folder and what is compared of a name in it."""
Keys = Callable[[PurePath], set[Key]]


@dataclass(frozen=True)
class Pairs:
    """The masks of some images."""

    masks: dict[Path, Path] = field(default_factory=dict)
    """Image → its mask: a file, or a folder of masks."""
    unpaired: list[Path] = field(default_factory=list)
    """The masks of no image."""
    problems: list[str] = field(default_factory=list)
    """A sentence on everything that is ambiguous."""


def pair(images: Mapping[Path, PurePath], masks: Sequence[Path], folder: Path) -> Pairs:
    """Find the mask of each image.

    Args:
        images: image → where its mask would be below ``folder`` if it had the name of the image.
        masks: the masks below ``folder``.
    """
    pairs = Pairs()
    below = {mask: mask.relative_to(folder) for mask in masks}
    inside: dict[PurePath, list[Path]] = defaultdict(list)
    for mask, path in below.items():
        for parent in path.parents:
            inside[parent].append(mask)
    free = dict.fromkeys(masks)  # in their order
    open_images = dict(images)

    def settle(keys_of_image: Keys, keys_of_mask: Keys) -> None:
        if not (free and open_images):
            return
        found = _candidates(open_images, {mask: below[mask] for mask in free}, keys_of_image, keys_of_mask)
        wanted: dict[Path, list[Path]] = defaultdict(list)
        for image, candidates in found.items():
            for mask in candidates:
                wanted[mask].append(image)
        for image, candidates in found.items():
            rivals = wanted[candidates[0]]
            if len(candidates) > 1:
                pairs.problems.append(several_masks(image, candidates))
            elif len(rivals) == 1:
                pairs.masks[image] = candidates[0]
            elif image == rivals[0]:
                pairs.problems.append(several_images(candidates[0], rivals))
            del open_images[image]
        for mask in wanted:
            del free[mask]

    settle(_as_named, _plain)
    settle(_as_named, _marked)
    for image, name in list(open_images.items()):
        if (folder / name.with_suffix("")).is_dir():  # MVTec LOCO: a folder of masks for one image
            pairs.masks[image] = folder / name.with_suffix("")
            del open_images[image]
            for mask in inside[name.with_suffix("")]:
                free.pop(mask, None)
    settle(_loosely(_as_named), _loosely(_plain))
    settle(_loosely(_as_named), _loosely(_marked))
    settle(_loosely(_anywhere(_as_named)), _loosely(_at_top(_plain)))
    settle(_loosely(_anywhere(_as_named)), _loosely(_at_top(_marked)))
    paired = {image: images[image] for image in pairs.masks}
    rest = {mask: below[mask] for mask in free}
    second = _candidates(paired, rest, _as_named, lambda mask: _plain(mask) | _marked(mask))
    for image, name in paired.items():
        more = [*second.get(image, ()), *(mask for mask in inside.get(name.with_suffix(""), ()) if mask in free)]
        if more:
            pairs.problems.append(several_masks(image, [pairs.masks[image], *more]))
    pairs.unpaired.extend(free)
    return pairs


def several_masks(image: Path, masks: Iterable[Path]) -> str:
    """The sentence on an image that several files could be the mask of."""
    return (
        f"{image}: expected one mask, found {joined(map(str, masks), 'and')}: keep one, or put them into a folder "
        f"{image.stem} beside the other masks, where all of them count"
    )


def several_images(mask: Path, images: Iterable[Path]) -> str:
    """The sentence on a mask that could be of several images."""
    return (
        f"{mask}: expected the mask of one image, found {joined(map(str, images), 'and')} of that name: give each a "
        "mask that is called like it in full, folder and extension included"
    )


@dataclass(frozen=True)
class Neighbors:
    """Two files that lie beside one another, one of which has the name of a mask of the other."""

    mask: Path
    image: Path
    either: bool
    """Whether each could be the mask: ``x.png`` and ``x.jpg``."""


def neighbors(paths: Iterable[Path]) -> Iterator[Neighbors]:
    """Find the files among ``paths`` that have the name of a mask of another one that lies beside them.

    That is in the same folder, or in subfolders of it that say so, such as ``masks`` and ``images``.
    """
    alike: dict[tuple[str, str], list[Path]] = defaultdict(list)
    among_masks: set[Path] = set()
    for path in dict.fromkeys(paths):
        folder, name = os.path.split(path)
        above, own = os.path.split(folder)
        if _MASKS.fullmatch(own):
            among_masks.add(path)
        elif not _IMAGES.fullmatch(own):
            above = folder
        alike[above, _loose(os.path.splitext(name)[0])].append(path)
    for (folder, _), files in list(alike.items()):
        for mask in files:
            stems = {_loose(stem) for _, stem in _marked(PurePath(mask.name))}
            yield from (Neighbors(mask, image, False) for stem in stems for image in alike.get((folder, stem), ()))
            for image in files:
                if image != mask and not (image in among_masks and mask not in among_masks):
                    longer = is_image(PurePath(mask.stem)) and not is_image(PurePath(image.stem))  # x.jpg.png
                    apart = mask in among_masks and image not in among_masks
                    yield Neighbors(mask, image, either=not (longer or apart))


def _candidates(
    images: Mapping[Path, PurePath], masks: Mapping[Path, PurePath], keys_of_image: Keys, keys_of_mask: Keys
) -> dict[Path, list[Path]]:
    """Map each image that has some to the masks that have a key in common with it, in their order."""
    by_key: dict[Key, list[Path]] = defaultdict(list)
    for mask, name in masks.items():
        for key in keys_of_mask(name):
            by_key[key].append(mask)
    found = {}
    for image, name in images.items():
        of_one = {mask: None for key in keys_of_image(name) for mask in by_key.get(key, ())}
        if of_one:
            found[image] = list(of_one)
    return found


def _as_named(name: PurePath) -> set[Key]:
    """What a mask without a word to say so is called: like its image, or like its image's whole name."""
    return {(name.parent.as_posix(), name.stem), (name.parent.as_posix(), name.name)}


def _plain(name: PurePath) -> set[Key]:
    return {(name.parent.as_posix(), name.stem)}


def _marked(name: PurePath) -> set[Key]:
    """What a mask is of that says so before or behind: ``mask_x``, ``x_mask``, ``x_mask.jpg``, ``x_label2``."""
    if not _MASKS.search(name.stem):  # quicker than all that follows
        return set()
    stems = {name.stem, PurePath(name.stem).stem if is_image(PurePath(name.stem)) else name.stem}
    left = {word.sub("", stem) for word in (_AFTER, _BEFORE) for stem in stems} - stems
    return {(name.parent.as_posix(), stem) for stem in left if stem}


def _loosely(keys: Keys) -> Keys:
    """The same keys whatever their case, Unicode form, zeros before numbers and the image's extension."""
    return lambda name: {(_loose(folder), _loose(stem)) for folder, stem in keys(name)}


def _loose(name: str) -> str:
    stem, extension = os.path.splitext(name)
    stem = stem if extension.lower() in EXTENSIONS else name
    if not stem.isascii():
        stem = unicodedata.normalize("NFC", stem)
    folded = stem.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", folded)
    return _ZEROS.sub("", folded)


def _anywhere(keys: Keys) -> Keys:
    """The same keys without their folders, of images whose masks are all in one."""
    return lambda name: {("", stem) for _, stem in keys(name)}


def _at_top(keys: Keys) -> Keys:
    """The same keys of what lies in no subfolder; none of anything else."""
    return lambda name: {("", stem) for folder, stem in keys(name) if folder == "."}
