"""Regions of an image: boxes around what a map has above the pixel threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adkit.data.view import Axis, View

ROUNDING = 1e-6
"""Pixels by which the edge of a box may miss a whole number and still count as lying on it."""


@dataclass(frozen=True)
class Region:
    """A box in pixels of the image: columns ``x`` to ``x + width``, the end excluded, and rows likewise."""

    x: int
    y: int
    width: int
    height: int
    peak: float
    """Highest raw value of the map inside the region."""


def find_regions(
    values: NDArray[np.float32], threshold: float, view: View, size: tuple[int, int]
) -> tuple[Region, ...]:
    """Find boxes around connected pixels above ``threshold``, across corners too, the highest peak first.

    The threshold is one of the map at the size of the input, so the pixels are compared and joined there, and only
    the edges of the boxes go through the axes back to the image, outward to whole pixels. That invents no values
    between the map's own, and costs as much for an image of 48 million pixels as for a small one.

    Args:
        values: (H, W) raw map, over the input.
        view: how the image became the input; padding is ignored.
        size: (height, width) of the image.
    """
    y, x = view.axes(size)
    shown = values[y.start : y.stop, x.start : x.stop]  # (h, w)
    above = shown > threshold
    if not above.any():
        return ()

    from skimage.measure import label  # slow to import, and only needed where there is something

    labels: NDArray[np.int64] = label(above, connectivity=2)  # type: ignore[no-untyped-call]
    rows, columns = np.nonzero(above)
    which = labels[above] - 1  # (pixels above,)
    count = int(which.max()) + 1
    top, bottom = _extent(rows, which, count)
    left, right = _extent(columns, which, count)
    peak = np.full(count, -np.inf, np.float32)
    np.maximum.at(peak, which, shown[above])

    def region(index: int) -> Region:
        first_row, end_row = _stretch(y, int(top[index]), int(bottom[index]))
        first_column, end_column = _stretch(x, int(left[index]), int(right[index]))
        return Region(
            first_column, first_row, end_column - first_column, end_row - first_row, float(f"{peak[index]:.9g}")
        )

    return tuple(region(int(index)) for index in np.argsort(-peak, kind="stable"))


def _extent(
    positions: NDArray[Any], which: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the first position of each region and one past its last."""
    first = np.full(count, np.iinfo(np.int64).max)
    last = np.full(count, -1)
    np.minimum.at(first, which, positions)
    np.maximum.at(last, which, positions)
    return first, last + 1


def _stretch(axis: Axis, first: int, end: int) -> tuple[int, int]:
    """Convert a stretch of the part of the input that shows the image to pixels of the image, at least one."""
    edges = axis.to_image(np.array([first, end], np.float64) + axis.start)
    begin = min(max(math.floor(edges[0] + ROUNDING), 0), axis.length - 1)
    return begin, max(min(math.ceil(edges[1] - ROUNDING), axis.length), begin + 1)
