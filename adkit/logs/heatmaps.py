"""Heatmaps for logs, of the small pictures that the page of a run shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from adkit.report.page.record import PageRecord, Picture
from adkit.utils.colors import color_limits, colored

MOST: Final = 24
"""Heatmaps of a category that are logged: the first that its page shows."""


def heatmaps(record: PageRecord, threshold: float | None) -> Iterator[tuple[str, Image.Image]]:
    """Yield ids of test images, with each image beside itself under its map.

    Args:
        threshold: the value above which a pixel is anomalous; None where there is none.
    """
    names = dict(record.names)
    for picture in record.pictures[:MOST]:
        if (drawn := _beside(picture, threshold)) is not None:
            yield names.get(picture.row, str(picture.row)), drawn


def _beside(picture: Picture, threshold: float | None) -> Image.Image | None:
    if picture.image is None or picture.map is None:
        return None
    plain = _opened(picture.image).convert("RGB")
    steps = _opened(picture.map).convert("L").resize(plain.size, Image.Resampling.BILINEAR)
    values = picture.low + np.asarray(steps, np.float32) / 255 * (picture.high - picture.low)
    drawn = Image.new("RGB", (2 * plain.width, plain.height))
    drawn.paste(plain, (0, 0))
    drawn.paste(colored(plain, values, *color_limits(values, threshold)), (plain.width, 0))
    return drawn


def _opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))
