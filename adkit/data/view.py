"""How an image becomes the square input that an extractor sees, and the way back.

Along each axis the input is the image scaled and shifted: ``input = scale * image + offset``, both
measured in pixels from the outer edge of the first one. Cropping is only a matter of the offset, so that an
image is resampled once, straight from the part that is seen, and a mask goes straight to the metrics' grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from adkit.data.formats.base import DataTable, MaskResize, Resize
from adkit.data.images import Range

Positions = npt.NDArray[np.floating]
P = TypeVar("P", float, npt.NDArray[np.floating])
"""A position, or an array of them."""
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def to_planes(pixels: Pixels, out: npt.NDArray[np.float32]) -> None:
    """Write the pixels that ``View.input`` gave into ``out`` (3, H, W), as RGB in [0, 1]."""
    if pixels.ndim == 3:
        np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out)
    else:
        np.divide(pixels, np.float32(255), out=out[0])
        out[1:] = out[0]


ROUNDING: Final = 1e-6
"""Share of a pixel by which the edge of a cell may miss that of a pixel and still be taken for the same."""


@dataclass(frozen=True)
class Axis:
    """Where the image lies in the input along one axis."""

    length: int
    """Length of the image in pixels."""
    scale: float
    """Pixels of the input per pixel of the image."""
    offset: float
    """Where in the input the image begins, in pixels of the input; below 0 where its beginning is cropped."""
    start: int
    """First pixel of the input that shows the image."""
    stop: int
    """One past the last pixel of the input that shows the image."""

    def to_input(self, position: P) -> P:
        """Convert positions along the image to positions along the input, both in pixels."""
        return position * self.scale + self.offset

    def to_image(self, position: P) -> P:
        """Convert positions along the input to positions along the image, both in pixels."""
        return (position - self.offset) / self.scale

    @property
    def seen(self) -> tuple[float, float]:
        """The stretch (first, last) of the image that the input shows, in pixels of the image."""
        first, last = self.to_image(float(self.start)), self.to_image(float(self.stop))
        return max(first, 0.0), min(last, float(self.length))


@dataclass(frozen=True)
class View:
    """The geometry and the range of values that ``[data]`` asks for; inputs are square."""

    resize: Resize
    image_size: int
    """Side in pixels that the image is resized to."""
    crop: int
    """Side of the input in pixels."""
    range: Range | None = None
    """The raw values that become 0 and 255, as ``adkit.data.images.read_image`` has it."""

    @classmethod
    def of(cls, table: DataTable, range: Range | None = None) -> View:
        """The view that a ``[data]`` table describes.

        Args:
            range: that of the category, as ``Category.range`` has it.
        """
        return cls(table.resize, table.image_size, table.crop or table.image_size, range)

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of the input that the extractor gets."""
        return self.crop, self.crop

    @property
    def shows_all(self) -> bool:
        """Whether the input shows every part of an image, whatever its size."""
        return self.resize != "short_side" and self.crop >= self.image_size

    def axes(self, size: tuple[int, int]) -> tuple[Axis, Axis]:
        """The axes (y, x) of an image of ``size`` (height, width)."""
        y, x = (self._axis(length, size) for length in size)
        return y, x

    def _axis(self, length: int, size: tuple[int, int]) -> Axis:
        if self.resize == "pad":
            # A whole number of pixels, so that no pixel is part image and part padding.
            resized = max(1, round(length * self.image_size / max(size)))
            offset = (self.image_size - resized) // 2 - (self.image_size - self.crop) // 2
            start, stop = max(offset, 0), min(offset + resized, self.crop)
            return Axis(length, resized / length, offset, start, stop)
        scale = self.image_size / (length if self.resize == "squash" else min(size))
        return Axis(length, scale, (self.crop - scale * length) / 2, 0, self.crop)

    def region(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The part (top, left, bottom, right) of the input that shows an image of ``size`` (height, width)."""
        y, x = self.axes(size)
        return y.start, x.start, y.stop, x.stop

    def memory(self, size: tuple[int, int]) -> int:
        """The bytes that ``input`` takes at most beside an image of ``size`` (height, width).

        Pillow first makes all rows that are seen as wide as the input, which is more than the image where it is narrow.
        """
        y, x = self.axes(size)
        rows = min(size[0], math.ceil(y.seen[1] - y.seen[0] + 2 * max(1.0, 1 / y.scale)))
        return 4 * (x.stop - x.start) * (rows + y.stop - y.start)

    def input(self, image: Image.Image) -> Pixels:
        """Resample an image of mode L, RGB or F to the input, bilinearly with antialiasing.

        Returns:
            (H, W) gray or (H, W, 3) RGB: uint8, or float32 for mode F, of 0 to 255.
        """
        y, x = self.axes((image.height, image.width))
        part = (x.stop - x.start, y.stop - y.start)
        box = (x.seen[0], y.seen[0], x.seen[1], y.seen[1])
        shown: Pixels = np.asarray(image.resize(part, Image.Resampling.BILINEAR, box=box))
        if shown.shape[:2] == self.size:
            return shown
        # The mean color makes the faintest edge where the image ends, and leaves its statistics alone.
        mean = shown.mean(axis=(0, 1))
        fill = np.rint(mean) if shown.dtype == np.uint8 else mean
        input = np.empty((*self.size, *shown.shape[2:]), dtype=shown.dtype)  # (H, W) or (H, W, 3)
        input[...] = fill
        input[y.start : y.stop, x.start : x.stop] = shown
        return input

    def mask(
        self, mask: npt.NDArray[np.bool_], metric_size: int, resize: MaskResize = "nearest"
    ) -> npt.NDArray[np.bool_]:
        """Read a mask of the image's size on a grid of ``metric_size``² cells that tile the input.

        The mask is resampled once, as it was drawn; cells in the padding are not anomalous.

        Args:
            resize: ``nearest`` reads the pixel of the mask that a cell's center lies in; with ``area`` a cell is
                anomalous where the mask's mean over it is above 0: where it covers any part of an anomalous pixel.

        Returns:
            (metric_size, metric_size) bool.
        """
        y, x = self.axes((mask.shape[0], mask.shape[1]))
        if resize == "nearest":
            (rows, rows_in), (columns, columns_in) = (self._points(axis, metric_size) for axis in (y, x))
            # A row at a time, and then a column: a third of the time of both at once.
            read: npt.NDArray[np.bool_] = mask.take(rows, axis=0).take(columns, axis=1)
            read[~rows_in], read[:, ~columns_in] = False, False
            return read
        (top, bottom), (left, right) = (self._covered(axis, metric_size) for axis in (y, x))
        counts = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
        counts[1:, 1:] = mask.cumsum(0).cumsum(1)
        below, above = counts[bottom], counts[top]
        found: npt.NDArray[np.bool_] = below[:, right] - below[:, left] - above[:, right] + above[:, left] > 0
        return found

    def _points(self, axis: Axis, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        centers = (np.arange(count) + 0.5) * (self.crop / count)  # in the input
        index = np.floor(axis.to_image(centers)).astype(np.int64)
        inside = (centers >= axis.start) & (centers < axis.stop)
        return index.clip(0, axis.length - 1), inside

    def _covered(self, axis: Axis, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first pixel of the image that each cell covers, and one past the last; equal where it covers none."""
        edges = (np.arange(count + 1) * (self.crop / count)).clip(axis.start, axis.stop)  # in the input
        at = axis.to_image(edges).clip(0, axis.length)
        at = np.where(np.abs(at - np.rint(at)) < ROUNDING, np.rint(at), at)
        first = np.floor(at[:-1])
        return first.astype(np.int64), np.where(at[1:] > at[:-1], np.ceil(at[1:]), first).astype(np.int64)

    def restore(self, values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Resample a map of the input, (h, w) of any size, to the image of ``size`` (height, width), bilinearly.

        Returns:
            (height, width) float32, nan where the input does not show the image.
        """
        y, x = self.axes(size)
        to_map = (values.shape[0] / self.crop, values.shape[1] / self.crop)
        rows = _between(y, size[0], to_map[0], values.shape[0])
        columns = _between(x, size[1], to_map[1], values.shape[1])
        upper, lower = values[rows.low], values[rows.high]  # (height, w)
        along = upper + (lower - upper) * rows.weight[:, None]
        left, right = along[:, columns.low], along[:, columns.high]  # (height, width)
        restored = (left + (right - left) * columns.weight).astype(np.float32)
        restored[~np.logical_and.outer(rows.seen, columns.seen)] = np.nan
        return restored


@dataclass(frozen=True)
class _Between:
    """The two cells of a map that each pixel of the image lies between, along one axis."""

    low: npt.NDArray[np.int64]
    """(pixels,) number of the cell before each pixel."""
    high: npt.NDArray[np.int64]
    """(pixels,) number of the cell after each pixel."""
    weight: Positions
    """(pixels,) share of the cell after, in [0, 1]."""
    seen: npt.NDArray[np.bool_]
    """(pixels,) whether the input shows each pixel."""


def _between(axis: Axis, length: int, to_map: float, cells: int) -> _Between:
    """Find the two cells of the map that each pixel of the image lies between."""
    centers = axis.to_input(np.arange(length) + 0.5)
    position = (centers * to_map - 0.5).clip(0, cells - 1)
    low = np.floor(position).astype(np.int64)
    seen = (centers >= axis.start) & (centers < axis.stop)
    return _Between(low, np.minimum(low + 1, cells - 1), position - low, seen)
