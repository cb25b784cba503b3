"""Which raw values of gray images of more than 8 bits become 0 and 255, as ``[data] range`` asks for.

``auto`` takes them from the images that a detector is fitted on, and from no other: neither calibration nor test
images may move them, since a new image cannot either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from adkit.data.images import GrayValues, ImageError, Range, in_threads, is_deep_file, raw_values
from adkit.data.samples import ArrayItem, Sample
from adkit.utils.text import counted

OUTLIERS: Final = 10_000
"""One pixel in so many of an image is left out at each end: a camera has a few that are always bright or dark."""


def range_of(
    name: str, asked: Range | Literal["auto"] | None, training: Sequence[Sample]
) -> tuple[Range | None, str | None]:
    """The range of a category, and a warning where it changes less than it seems to.

    Images that cannot be read, which the loader reports, are left out.

    Args:
        training: the images that are fitted on, of which ``auto`` takes the lowest and the highest raw value: of each
            image those that are left without one pixel in ``OUTLIERS`` at each end, and of these the extremes.
    """
    if asked is None:
        return None, None
    numbers = None if isinstance(asked, str) else asked
    looks = in_threads(partial(_look, values=numbers is None), training)
    read = [one for one in looks if one is not None]
    deep = [one for one in read if one.deep]
    if not deep:
        return numbers, _without_effect(name, len(read)) if read else None
    warning = _mixed(name, len(read) - len(deep), len(read)) if len(deep) < len(read) else None
    if numbers is not None:
        return numbers, warning
    low, high = min(one.low for one in deep), max(one.high for one in deep)
    if low == high:
        return None, f'{name}: data.range: "auto" found no range, for all training images have the value {low:.10g}'
    return (low, high), warning


@dataclass(frozen=True)
class _Look:
    """What there is to know of an image for a range."""

    deep: bool
    """Whether it is gray and of more than 8 bits."""
    low: float = math.nan
    high: float = math.nan


def _look(sample: Sample, values: bool) -> _Look | None:
    """Look at an image's header or, with ``values``, at its pixels; None where it cannot be read."""
    if isinstance(sample.source, ArrayItem):
        return _Look(deep=False)
    try:
        if not values:
            return _Look(is_deep_file(sample.source))
        ends = raw_values(sample.source, _ends)
        return _Look(deep=False) if ends is None else _Look(True, *ends)
    except ImageError:
        return None


def _ends(values: GrayValues) -> Range:
    """The lowest and the highest of the values that are left without the outliers at both ends."""
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ImageError("it has values that are not finite")
    last, out = values.size - 1, values.size // OUTLIERS
    ordered = np.partition(values, (out, last - out), axis=None)
    return float(ordered[out]), float(ordered[last - out])


def _without_effect(name: str, count: int) -> str:
    return (
        f"{name}: data.range: expected gray training images of more than 8 bits, found none among "
        f"{counted(count, 'image')}, so it changes nothing: remove it"
    )


def _mixed(name: str, shallow: int, count: int) -> str:
    as_is = "it is" if shallow == 1 else "they are"
    return (
        f"{name}: data.range leaves {shallow:,} of {counted(count, 'training image')} as {as_is}, in 8 bits or in "
        "color: save all images alike"
    )
