"""Small pictures of test images, with their maps and the outlines of their masks, each within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adkit.data.images import ImageError, Range, in_threads, reading
from adkit.data.masks import read_mask
from adkit.data.samples import Sample, Source
from adkit.data.view import View
from adkit.report.page.record import Box, Mean, Patch, Picture

MAP_SIDE: Final = 96
"""The longer side of a small map in pixels; levels have seldom more cells."""
_SIZES: Final = ((256, 82), (256, 70), (192, 75), (160, 70), (128, 70), (96, 65), (64, 60), (48, 50), (32, 40))
"""The longer side and the quality of a JPEG, from the best down: the first that is small enough is taken."""
_MAP_SHARE: Final = 3
"""A map may take one part of so many of an image's bytes."""
_PATCH: Final = 72
"""The side of a patch in pixels."""
_AROUND: Final = 7
"""The side of a patch in cells."""
_AT_ONCE: Final = 8
"""Images whose patches are held at a time."""
_OUTLINE: Final = 4_000
"""Letters of a path above which outlines are drawn more coarsely."""


@dataclass(frozen=True)
class Thumbnails:
    """How images are made small: all of a run alike."""

    view: View
    """How an image becomes the input, which maps are of."""
    mask_threshold: float
    bytes: int
    """What a picture with its map may take, before base64."""

    def of(self, sample: Sample, row: int, values: NDArray[np.float32] | None) -> Picture:
        """The picture of a test image; one that can no longer be read has none.

        Args:
            values: (h, w) the raw map over the input; None where there is none.
        """
        try:
            limit = self.bytes - (0 if values is None else self.bytes // _MAP_SHARE)
            image, size = small_image(sample.source, limit, self.view.range)
        except ImageError:
            return Picture(row=row, width=1, height=1, image=None, map=None, low=0, high=0, outline=None)
        low = high = 0.0
        drawn = None
        if values is not None:
            drawn, low, high = _small_map(values, self.view, size, self.bytes // _MAP_SHARE)
        outline = None if sample.mask is None else _outline(sample.mask, self.mask_threshold, size)
        return Picture(
            row=row, width=size[0], height=size[1], image=image, map=drawn, low=low, high=high, outline=outline
        )


@dataclass(frozen=True)
class Cell:
    """A cell of a level: where it lies in the input, in pixels of the input."""

    center: tuple[float, float]
    """(y, x)."""
    size: tuple[float, float]
    """(height, width)."""


def patches(sample: Sample, cells: Sequence[Cell], view: View) -> list[Patch]:
    """Cells of an image with what is around them; those of an image that can no longer be read have no picture."""
    try:
        with reading(sample.source, view.range) as image:
            shown = _of_bytes(image)
            return [_patch(sample.id, shown, cell, view) for cell in cells]
    except ImageError:
        return [Patch(image=sample.id, place=(0, 0), picture=None, box=(0, 0, 0, 0)) for _ in cells]


def mean_patches(samples: Sequence[Sample], cells: Sequence[Cell], view: View) -> list[Mean]:
    """What is around cells on average over some images, each in its own pixels; none if no image can be read."""
    sums, boxes, count = np.zeros((len(cells), _PATCH, _PATCH, 3), np.float32), list[Box](), 0

    def cuts(sample: Sample) -> list[_Cut]:
        try:
            with reading(sample.source, view.range) as image:
                shown = _of_bytes(image)
                return [_cut(shown, cell, view, Image.Resampling.BILINEAR) for cell in cells]
        except ImageError:
            return []

    for start in range(0, len(samples), _AT_ONCE):
        for found in in_threads(cuts, samples[start : start + _AT_ONCE]):
            for total, one in zip(sums, found, strict=bool(found)):
                total += np.asarray(one.picture.convert("RGB"))
            count += bool(found)
            boxes = boxes or [one.box for one in found]
    pictures = (Image.fromarray(np.rint(total / count).astype(np.uint8)) for total in sums) if count else ()
    return [Mean(picture=_jpeg(one), box=box, images=count) for one, box in zip(pictures, boxes, strict=True)]


@dataclass(frozen=True)
class _Cut:
    """What is around a cell of an image."""

    picture: Image.Image
    place: tuple[int, int]
    """The cell's center, (x, y) in pixels of the image."""
    box: Box


def _patch(id: str, image: Image.Image, cell: Cell, view: View) -> Patch:
    cut = _cut(image, cell, view)
    return Patch(image=id, place=cut.place, picture=_jpeg(cut.picture), box=cut.box)


def _cut(image: Image.Image, cell: Cell, view: View, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> _Cut:
    axes = view.axes((image.height, image.width))
    (top, bottom), (left, right) = (
        axis.to_image(np.array([at - side / 2, at + side / 2])).tolist()
        for axis, at, side in zip(axes, cell.center, cell.size, strict=True)
    )
    # A square of the image around the cell, moved inside where the image has room.
    cell_side = max(bottom - top, right - left)
    side = max(1.0, cell_side, min(_AROUND * cell_side, min(image.size)))
    corner = [
        min(max((first + last - side) / 2, 0.0), max(length - side, 0.0))
        for first, last, length in ((left, right, image.width), (top, bottom, image.height))
    ]
    bounds = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    cut = image.transform((_PATCH, _PATCH), Image.Transform.EXTENT, bounds, resampling)
    return _Cut(
        cut,
        (round((left + right) / 2), round((top + bottom) / 2)),
        ((left - corner[0]) / side, (top - corner[1]) / side, (right - left) / side, (bottom - top) / side),
    )


def _jpeg(patch: Image.Image) -> str:
    file = io.BytesIO()
    patch.save(file, "JPEG", quality=80)
    return _text(file.getvalue())


def small_image(source: Source, limit: int, range: Range | None = None) -> tuple[str, tuple[int, int]]:
    """An image as a JPEG of at most about ``limit`` bytes, in base64, and its (width, height).

    Args:
        range: that by which images of more than 8 bits are read.

    Raises:
        ImageError: it cannot be read.
    """
    with reading(source, range) as image:  # which may be large: it is not copied
        full = _within(_of_bytes(image), _SIZES[0][0])
    data, shown = b"", full
    for side, quality in _SIZES:
        shown = _within(full, side)
        file = io.BytesIO()
        shown.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if len(data) <= limit:
            break
    return _text(data), shown.size


def _of_bytes(image: Image.Image) -> Image.Image:
    """An image as ``read_image`` gives it, in whole values of 0 to 255; itself if it has them."""
    return image.convert("L") if image.mode == "F" else image


def _within(image: Image.Image, side: int) -> Image.Image:
    """An image made smaller until neither side is longer than ``side``; itself if neither is."""
    if max(image.size) <= side:
        return image
    # Pillow's own ways give images of which one side is 3,000 times the other a side of 0.
    width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _small_map(values: NDArray[np.float32], view: View, size: tuple[int, int], limit: int) -> tuple[str, float, float]:
    """A map laid over the image as a gray PNG, and the values that black and white stand for."""
    data, low, high = b"", 0.0, 0.0
    for side in (MAP_SIDE, 64, 48, 32, 24, 16):
        shrink = min(1.0, side / max(size))
        width, height = (max(1, round(length * shrink)) for length in size)
        laid = view.restore(values, (height, width))
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        steps = (np.nan_to_num(laid, nan=low) - low) / ((high - low) or 1.0) * 255
        file = io.BytesIO()
        Image.fromarray(np.rint(steps.clip(0, 255)).astype(np.uint8)).save(file, "PNG", compress_level=6)
        data = file.getvalue()
        if len(data) <= limit:
            break
    return _text(data), low, high


def _outline(mask: Path, threshold: float, size: tuple[int, int]) -> str | None:
    """The outlines of a mask in the pixels of a picture of ``size`` (width, height), as the path of an SVG."""
    from skimage.measure import find_contours  # slow to import

    try:
        read = read_mask(mask, threshold)
    except ImageError:
        return None
    covered = Image.fromarray(read.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    inside = np.pad(np.asarray(covered, np.float64) / 255, 1)
    # A defect of less than half a small pixel is to be seen, too.
    level = min(0.5, float(inside.max()) / 2)
    if level == 0:
        return ""
    contours = find_contours(inside, level)  # type: ignore[no-untyped-call]
    path = ""
    for step in (2, 3, 5, 8, 13, 21):
        # Centers of pixels lie at one half; the padding has moved them by one.
        lines = [[f"{x - 0.5:.4g} {y - 0.5:.4g}" for y, x in line[::step]] for line in contours]
        path = "".join(f"M{'L'.join(line)}Z" for line in lines if len(line) > 2)
        if len(path) <= _OUTLINE:
            break
    return path


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
