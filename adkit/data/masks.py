"""Masks: reading them, and checking that they fit their images before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adkit.data.files import images_under
from adkit.data.formats.base import Notes
from adkit.data.images import ImageError, image_size, read_image, read_raw
from adkit.data.samples import Sample, Source
from adkit.utils.text import counted, some


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a mask (h, w), which is true wherever a value is above 0 and not transparent.

    Of a folder of masks, as MVTec LOCO has them, the union counts.

    Raises:
        ImageError: unreadable, an empty folder, or masks of several sizes in one folder.
    """
    files = _files(path)
    mask = _read_file(files[0])
    for file in files[1:]:
        other = _read_file(file)
        if other.shape != mask.shape:
            raise ImageError(f"the masks in {path} are of several sizes")
        mask = mask | other
    return mask


def size_problem(sample: Sample, size: tuple[int, int], mask_size: tuple[int, int]) -> str:
    """The sentence on a mask that does not fit its image; sizes are (height, width)."""
    image, mask = f"{size[1]} × {size[0]}", f"{mask_size[1]} × {mask_size[0]}"
    return (
        f"{sample.mask}: expected a mask of its image's size, {image} pixels (width × height, "
        f"{_path(sample.source)}), found {mask}; export the mask at the size of the image"
    )


def check_masks(category: str, samples: Sequence[Sample], notes: Notes) -> list[Sample]:
    """Note every mask that does not fit its image, and drop the empty masks of normal images.

    Anomalous images whose files cannot be read are ignored here: the loader reports and counts them.
    """
    anomalous = [sample for sample in samples if sample.label]
    bare = [sample.id for sample in anomalous if sample.mask is None]
    if bare and len(bare) < len(anomalous):
        notes.problems.append(
            f"{category}: {len(bare):,} of {counted(len(anomalous), 'anomalous image')} "
            f"{'has' if len(bare) == 1 else 'have'} no mask: {some(bare)}; "
            "add the missing masks, or remove all masks to do without pixel metrics"
        )
    for sample in samples:
        if sample.mask is not None:
            try:
                problem = _misfit(sample) if sample.label else _not_empty(sample)
            except ImageError as error:
                if not sample.label:
                    notes.warnings.append(f"{category}: left out, the mask of a good image: {error.reason}")
                continue
            if problem:
                notes.problems.append(problem)
    return [s if s.label or s.mask is None else replace(s, mask=None) for s in samples]


def _misfit(sample: Sample) -> str | None:
    assert sample.mask is not None
    assert isinstance(sample.source, Path)
    size = image_size(sample.source)
    if all(image_size(file) == size for file in _files(sample.mask)):
        return None
    image = read_image(sample.source)  # a rotation may be stated behind the pixels: decode to be sure
    size, mask_size = (image.height, image.width), read_mask(sample.mask).shape
    return None if size == mask_size else size_problem(sample, size, (mask_size[0], mask_size[1]))


def _not_empty(sample: Sample) -> str | None:
    assert sample.mask is not None
    marked = int(read_mask(sample.mask).sum())
    if not marked:
        return None
    return (
        f"{sample.mask}: expected no anomalous pixel in the mask of a good image ({_path(sample.source)}), "
        f"found {marked:,}; empty the mask, or put the image among the anomalous ones"
    )


def _files(mask: Path) -> list[Path]:
    files = images_under(mask) if mask.is_dir() else [mask]
    if not files:
        raise ImageError(f"the folder of masks {mask} is empty")
    return files


def _read_file(path: Path) -> npt.NDArray[np.bool_]:
    try:
        image = read_raw(path)
    except ImageError as error:
        raise ImageError(f"its mask {path}: {error.reason}") from error
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        values = np.asarray(image.convert("RGBA"))
        shown: npt.NDArray[np.bool_] = (values[..., :3] > 0).any(axis=-1) & (values[..., 3] > 0)
        return shown
    values = np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK") else image)
    bands = values.reshape(*values.shape[:2], -1)  # (h, w, 1 or 3)
    return np.asarray((bands > 0).any(axis=-1))


def _path(source: Source) -> Path:
    return source if isinstance(source, Path) else source.path
