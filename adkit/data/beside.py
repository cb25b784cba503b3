"""Masks that lie in the folder of their images: they are no images, but the masks of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from adkit.data.formats.base import Found, Notes
from adkit.data.images import ImageError, decoding_threads
from adkit.data.masks import Measured, measure
from adkit.data.pairing import neighbors, several_images, several_masks
from adkit.data.samples import Sample
from adkit.utils.text import counted, some


def masks_beside(found: Found, notes: Notes, *, paired: bool) -> Found:
    """Take from the images those that are masks of others, and give them to these.

    That is what a file is called (``x_label.bmp`` beside ``x.jpg``) and looks like: of the size of its image, black or
    white or nearly, while its image is not. What only has such a name stays an image, with a warning.

    Args:
        paired: whether the format has masks; without, they are left out.
    """
    parts = [found.normal, found.test, found.calibration or ()]
    samples = {one.source: one for part in parts for one in part if isinstance(one.source, Path)}
    close = list(neighbors(samples))
    if not close:
        return found
    files = list(dict.fromkeys(path for two in close for path in (two.mask, two.image)))
    with ThreadPoolExecutor(decoding_threads(), thread_name_prefix="adkit-mask") as pool:
        looks = dict(zip(files, pool.map(_measured, files), strict=True))
    images_of: dict[Path, list[Path]] = defaultdict(list)
    masks_of: dict[Path, list[Path]] = defaultdict(list)
    doubtful: list[tuple[Path, Path]] = []
    for two in close:
        mask, image = looks[two.mask], looks[two.image]
        if mask is not None and mask.masklike and not (image and (image.masklike or image.size != mask.size)):
            images_of[two.mask].append(two.image)
            masks_of[two.image].append(two.mask)
        elif not two.either:
            doubtful.append((two.mask, two.image))
    _refuse(images_of, masks_of, samples, notes)
    _warn(found.name, images_of, doubtful, notes, paired)

    def images(part: Sequence[Sample]) -> list[Sample]:
        return [
            replace(one, mask=masks_of[one.source][0]) if paired and one.source in masks_of else one
            for one in part
            if one.source not in images_of
        ]

    calibration = None if found.calibration is None else images(found.calibration)
    return replace(found, normal=images(found.normal), test=images(found.test), calibration=calibration)


def _measured(path: Path) -> Measured | None:
    try:
        return measure(path)
    except ImageError:
        return None  # the loader reports it as an image


def _refuse(
    images_of: dict[Path, list[Path]], masks_of: dict[Path, list[Path]], samples: dict[Path, Sample], notes: Notes
) -> None:
    notes.problems.extend(several_images(mask, images) for mask, images in images_of.items() if len(images) > 1)
    for image, masks in masks_of.items():
        other = samples[image].mask
        several = masks if other is None or other in masks else [other, *masks]
        if len(several) > 1:
            notes.problems.append(several_masks(image, several))


def _warn(
    name: str,
    images_of: dict[Path, list[Path]],
    doubtful: Sequence[tuple[Path, Path]],
    notes: Notes,
    paired: bool,
) -> None:
    if images_of:
        one = len(images_of) == 1
        shown = some([f"{mask} of {images[0].name}" for mask, images in images_of.items()], 3)
        taken = f"{'is' if one else 'are'} taken as such, not as {'an image' if one else 'images'}"
        left = f"{'is' if one else 'are'} left out, as this format has no masks"
        notes.warnings.append(
            f"{name}: {counted(len(images_of), 'mask')} {'lies' if one else 'lie'} beside the images and "
            f"{taken if paired else left}: {shown}"
        )
    if doubtful:
        one = len(doubtful) == 1
        shown = some([f"{mask} of {image.name}" for mask, image in doubtful], 3)
        notes.warnings.append(
            f"{name}: {counted(len(doubtful), 'image')} {'has' if one else 'have'} the name of a mask of another "
            f"({shown}), but {'counts' if one else 'count'} as {'an image' if one else 'images'}, because only one of "
            "the two must look like a mask: move masks into a folder of their own"
        )
