"""What images are filled with: those in which nothing is to be seen are told before a detector learns nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from adkit.data.images import ImageError, Range, in_threads, reading, strips
from adkit.data.samples import Sample, spread_over
from adkit.utils.text import counted

LOOKED_AT: Final = 12
"""The number of normal images that are decoded, evenly spread over a category's."""
NARROW: Final = 0.05
"""Share of the range of values below which what images show is nearly nothing."""
FULL: Final = 255.0
"""The highest value of a decoded image."""


@dataclass(frozen=True)
class _Content:
    """What is remembered of a decoded image."""

    low: float
    high: float
    pixels: tuple[tuple[int, int], bytes]
    """The size, and a digest of every pixel."""
    deep: bool
    """Whether it is gray and of more than 8 bits."""


def contents_warning(name: str, normal: Sequence[Sample], range: Range | None = None) -> str | None:
    """Warn of a category whose normal images show nothing or all the same; None where they differ.

    Images that cannot be read, which the loader reports, are left out.

    Args:
        range: that by which images of more than 8 bits are read.
    """
    look = partial(_content, range=range)
    found = [content for content in in_threads(look, spread_over(normal, LOOKED_AT)) if content is not None]
    if not found:
        return None
    low, high = min(one.low for one in found), max(one.high for one in found)
    every = f"{counted(len(found), 'normal image')} that {'was' if len(found) == 1 else 'were'} looked at"
    if low == high:
        plain = f"{'is' if len(found) == 1 else 'are'} of one color ({low:g} of {FULL:g})"
        why = ", as transparent pixels are" if low == FULL and not any(one.deep for one in found) else ""
        return f"{name}: the {every} {plain}{why}: nothing is to be learned from them; look at how they were written"
    if len(found) > 1 and len({one.pixels for one in found}) == 1:
        return f"{name}: the {every} have all the same pixels: a detector of them knows one image; look at the files"
    if high - low < NARROW * FULL:
        if not all(one.deep for one in found):
            remedy = "stretch them before, all in the same way"
        elif range is None:
            remedy = 'set data.range = "auto"'
        else:
            remedy = f"narrow data.range, which is {range[0]:.10g} to {range[1]:.10g}"
        return (
            f"{name}: the {every} have values from {low:.3g} to {high:.3g} of {FULL:g}, {(high - low) / FULL:.1%} of "
            f"the range, in which little is to be seen: {remedy}"
        )
    return None


def _content(sample: Sample, range: Range | None) -> _Content | None:
    digest, ends = hashlib.sha256(), list[float]()
    try:
        with reading(sample.source, range) as image:
            for values in map(np.asarray, strips(image)):
                digest.update(values.tobytes())
                ends += float(values.min()), float(values.max())
            return _Content(min(ends), max(ends), (image.size, digest.digest()), deep=image.mode == "F")
    except ImageError:
        return None
