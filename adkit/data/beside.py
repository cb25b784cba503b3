"""Masks that lie in the folder of their images: they are no images, but the masks of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from adkit.data.formats.base import Found, Notes
from adkit.data.images import ImageError, in_threads
from adkit.data.masks import Measured, measure
from adkit.data.pairing import Neighbors, neighbors, several_images, several_masks
from adkit.data.samples import Sample
from adkit.utils.text import counted, some


def masks_beside(name: str, found: Sequence[Found], notes: Notes, *, paired: bool) -> list[Found]:
    """Take from the images those that are masks of others, and give them to these.

    That is what a file is called (``x_label.bmp`` beside ``x.jpg``) and looks like: of the size of its image, in black
    and white or nearly, more than its image is. What only has such a name stays an image, with a warning.

    Args:
        name: of the categories, for the warnings.
        found: categories of the same images, or one.
        paired: whether the format has masks; without, they are left out.
    """
    parts = [part for one in found for part in (one.normal, one.test, one.calibration or ())]
    samples = {one.source: one for part in parts for one in part if isinstance(one.source, Path)}
    beside = beside_of(samples)
    notes.problems.extend(beside.problems(samples))
    left = None if paired else "left out, as this format has no masks"
    notes.warnings.extend(f"{name}: {text}" for text in beside.warnings(left))

    def images(part: Sequence[Sample]) -> list[Sample]:
        masks = beside.masks_of if paired else {}
        return [
            replace(one, mask=masks[one.source][0]) if one.source in masks else one
            for one in part
            if one.source not in beside.images_of
        ]

    return [
        replace(
            one,
            normal=images(one.normal),
            test=images(one.test),
            calibration=None if one.calibration is None else images(one.calibration),
        )
        for one in found
    ]


def beside_of(paths: Iterable[Path]) -> Beside:
    """Look which of the images are masks of others; only files that have the name of one are read."""
    beside, close = Beside(), list(neighbors(paths))
    files = list(dict.fromkeys(path for two in close for path in (two.mask, two.image)))
    beside.judge(close, dict(zip(files, in_threads(_measured, files), strict=True)))
    return beside


def _measured(path: Path) -> Measured | None:
    try:
        return measure(path)
    except (ImageError, OSError):  # the latter of a folder that cannot be listed
        return None  # it is reported as an image


@dataclass
class Beside:
    """Which files are masks of which images, by their names and looks."""

    images_of: dict[Path, list[Path]] = field(default_factory=lambda: defaultdict(list))
    masks_of: dict[Path, list[Path]] = field(default_factory=lambda: defaultdict(list))
    _doubtful: list[Neighbors] = field(default_factory=list)
    """What has the name of a mask and does not look like one, or no more than its image."""

    def judge(self, close: Sequence[Neighbors], looks: Mapping[Path, Measured | None]) -> None:
        unread: list[Neighbors] = []
        for two in close:
            mask, image = looks[two.mask], looks[two.image]
            if mask is None:
                unread.append(two)
            elif image is None or (image.size == mask.size and mask.masklike > image.masklike):
                if mask.masklike:
                    self._take(two)
            elif not two.either or (mask.masklike and mask.masklike == image.masklike and two.mask > two.image):
                self._doubtful.append(two)
        # A file that cannot be read is a mask where others of its kind are.
        kinds = {mask.suffix for mask in self.images_of}
        for two in unread:
            if two.mask.suffix in kinds and two.image not in self.images_of:
                self._take(two)

    def _take(self, two: Neighbors) -> None:
        self.images_of[two.mask].append(two.image)
        self.masks_of[two.image].append(two.mask)

    def problems(self, samples: Mapping[Path, Sample]) -> Iterator[str]:
        for mask, images in self.images_of.items():
            if len(images) > 1:
                yield several_images(mask, images)
        for image, masks in self.masks_of.items():
            other = samples[image].mask
            several = masks if other is None or other in masks else [other, *masks]
            if len(several) > 1:
                yield several_masks(image, several)

    def warnings(self, left: str | None) -> Iterator[str]:
        """The sentences on what was found.

        Args:
            left: the end of that on masks where they are left out; None: they are given to their images.
        """
        if self.images_of:
            one = len(self.images_of) == 1
            verb = "is" if one else "are"
            taken = f"{verb} taken as such, not as {'an image' if one else 'images'}"
            yield (
                f"{counted(len(self.images_of), 'mask')} {'lies' if one else 'lie'} beside the images and "
                f"{taken if left is None else f'{verb} {left}'}: "
                f"{some([f'{mask} of {images[0].name}' for mask, images in self.images_of.items()], 3)}"
            )
        if self._doubtful:
            one = len(self._doubtful) == 1
            yield (
                f"{counted(len(self._doubtful), 'image')} {'has' if one else 'have'} the name of a mask of another "
                f"({some([f'{two.mask} of {two.image.name}' for two in self._doubtful], 3)}), but "
                f"{'counts' if one else 'count'} as {'an image' if one else 'images'}, because only one of the two "
                "must look like a mask: move masks into a folder of their own"
            )
