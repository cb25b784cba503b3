"""Draws the maps of a detector over the images, in colors that mean the same in all of them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adkit.data.images import ImageError, reading
from adkit.data.view import View
from adkit.detector.regions import Region
from adkit.errors import UserError
from adkit.utils.atomic import whole_file
from adkit.utils.colors import color_limits, colored

FOLDER = "heatmaps"
"""The folder of the output in which the heatmaps lie."""
SUFFIX = ".png"
"""What the names of heatmaps add to those of their images."""
LONGEST = 2048
"""The longer side in pixels above which an overlay is drawn smaller than its image."""
OUTSIDE = "_"
"""The folder for heatmaps of images from outside the base, which lie there by their absolute paths."""
LONGEST_NAME = 255
"""Bytes of a name above which usual file systems refuse a file."""
LONGEST_PATH = 4000
"""Bytes of an absolute path above which a heatmap goes by a digest alone; Linux refuses more than 4,095."""
_OF_THE_NAME = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL}
"""What the system says of a name that a heatmap cannot have, where another one could be written."""


def overlay(
    image: Image.Image,
    values: NDArray[np.float32],
    view: View,
    threshold: float | None,
    regions: Sequence[Region] = (),
) -> Image.Image:
    """Color an image by its map, from violet through red to yellow, and box its regions.

    Args:
        image: an image of mode L, RGB or F (0 to 255), which is drawn smaller where it is larger than LONGEST.
        values: (H, W) raw map over the input; parts of the image that the input does not show stay as they are.
        view: how the image became the input.
        threshold: raw value above which a pixel is anomalous; None where the detector has none.
        regions: boxes in pixels of the image.

    Returns:
        The overlay, of mode RGB.
    """
    shrink = min(1.0, LONGEST / max(image.size))
    width, height = (max(1, round(side * shrink)) for side in image.size)
    base = image.convert("L") if image.mode == "F" else image
    if base.size != (width, height):  # which comes first, for large images are not copied
        base = base.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    base = base.convert("RGB")
    # These are the axes of the smaller image; they differ from those of the larger one by less than a pixel.
    drawn = colored(base, view.restore(values, (height, width)), *color_limits(values, threshold))
    _box(drawn, regions, (width / image.width, height / image.height))
    return drawn


def _box(drawn: Image.Image, regions: Sequence[Region], scale: tuple[float, float]) -> None:
    """Draw a white line between dark ones around each region, over its edge only at the edge of the image."""
    pen = ImageDraw.Draw(drawn)
    thick = max(1, round(max(drawn.size) / 500))
    for region in regions:
        for line, color in enumerate(("black", "white", "black")):
            out, within = (3 - line) * thick, line * thick
            left, top = (max(start * by - out, within) for start, by in zip((region.x, region.y), scale, strict=True))
            ends = (region.x + region.width, region.y + region.height)
            right, bottom = (
                min(end * by + out, side - within) - 1 for end, by, side in zip(ends, scale, drawn.size, strict=True)
            )
            if left < right and top < bottom:  # an image of a few pixels has no room for it
                pen.rectangle((left, top, right, bottom), outline=color, width=thick)


def file_name(name: str) -> str:
    """The name of the heatmap of an image of that name: ``name.png``, where file systems take that.

    A longer one is the beginning of the name and a digest of all of it, of ``LONGEST_NAME`` bytes, which no other
    heatmap's name has: no two names give one.
    """
    if len(os.fsencode(name + SUFFIX)) < LONGEST_NAME:
        return name + SUFFIX
    end = f"-{_digest(name)}{SUFFIX}"
    while len(os.fsencode(name + end)) > LONGEST_NAME:
        name = name[:-1]
    return name.ljust(len(name) + LONGEST_NAME - len(os.fsencode(name + end)), "_") + end


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


class Heatmaps:
    """Draws overlays into ``output/heatmaps``, one per image, in folders like those of the images.

    ``a/b.png`` below the base becomes ``a/b.png.png``, so that it and ``a/b.jpg`` keep a heatmap each; an image from
    elsewhere lies in the folder ``_`` by its absolute path. A name that would be too long is cut and ends in a digest
    of all of it, and where the path would be too long, the name is its digest alone, in the folder ``_``.
    """

    def __init__(self, output: Path, base: Path, view: View, threshold: float | None) -> None:
        """Write below ``output``; ``base`` is the folder that the names are relative to."""
        self.folder = output / FOLDER
        self._base = os.path.abspath(base)
        self._view = view
        self._threshold = threshold

    def path_of(self, image: Path) -> Path:
        """The path of an image's heatmap; no two images share one."""
        absolute = Path(os.path.abspath(image))
        below = absolute.parts[len(Path(self._base).parts) :] if absolute.is_relative_to(self._base) else ()
        if not below or below[0] == OUTSIDE:
            drive = absolute.drive.strip(":\\/").replace("\\", "/")
            below = (OUTSIDE, *filter(None, drive.split("/")), *absolute.parts[1:])
        path = self.folder.joinpath(*below[:-1], file_name(below[-1]))
        if len(os.fsencode(os.path.abspath(path))) > LONGEST_PATH:
            return self.folder / OUTSIDE / (_digest(str(absolute)) + SUFFIX)
        return path

    def draw(
        self, image: Path, size: tuple[int, int], values: NDArray[np.float32], regions: Sequence[Region] = ()
    ) -> str | None:
        """Write the heatmap of an image of ``size`` (height, width), whole or not at all.

        Returns:
            Why there is no heatmap: the image went away or changed after it was scored, there is no memory to draw, or
            its heatmap's name is taken by a folder or is none here. None where it was drawn.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            with reading(image, self._view.range) as read:
                if (read.height, read.width) != size:
                    return f"the image changed from {size[1]} × {size[0]} to {read.width} × {read.height} pixels"
                drawn = overlay(read, values, self._view, self._threshold, regions)
        except ImageError as error:
            return error.reason
        return self._write(drawn, self.path_of(image))

    def _write(self, drawn: Image.Image, path: Path) -> str | None:
        try:
            with whole_file(path) as draft:
                drawn.save(draft, "PNG", compress_level=1)  # half to a fifth of the time for a tenth more bytes
        except OSError as error:
            if error.errno in _OF_THE_NAME and self.folder.is_dir():
                return f"{path} cannot be written: {error.strerror}"
            raise UserError(
                f"{path}: expected a heatmap that can be written, found: {error.strerror or error}; choose another "
                "--output"
            ) from error
        return None
