"""A contact sheet of pairs of images, side by side with their ids, for people to judge whether they show one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from adkit.data.images import ImageError, Range, reading
from adkit.data.samples import Sample

MOST: Final = 12
"""Pairs on a sheet."""
_SIDE: Final = 200
_GAP: Final = 12
_LINE: Final = 16
_LINES: Final = 3
_COLUMNS: Final = 3
_ROLES: Final = ("held out", "training")


def contact_sheet(pairs: Sequence[tuple[Sample, Sample]], range: Range | None = None) -> Image.Image:
    """Draw the first ``MOST`` pairs in reading order: the held-out image on the left, its training image on the right.

    Args:
        range: that by which images of more than 8 bits are read.

    Returns:
        RGB, of as many rows as are needed. Images are enlarged or made smaller to one size, their shape is kept.
    """
    pairs = pairs[:MOST]
    width = 2 * _SIDE + 3 * _GAP
    height = _SIDE + _LINES * _LINE + 3 * _GAP
    columns = min(_COLUMNS, max(1, len(pairs)))
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * width, max(1, rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for number, pair in enumerate(pairs):
        left, top = number % columns * width, number // columns * height
        draw.rectangle((left + 3, top + 3, left + width - 4, top + height - 4), outline="silver")
        for place, (role, sample) in enumerate(zip(_ROLES, pair, strict=True)):
            x, y = left + _GAP + place * (_SIDE + _GAP), top + _GAP
            image = _thumbnail(sample, range)
            sheet.paste(image, (x + (_SIDE - image.width) // 2, y + (_SIDE - image.height) // 2))
            for line, text in enumerate((role, *_caption(sample.id, font))):
                draw.text((x, y + _SIDE + 4 + line * _LINE), text, fill="black" if line else "gray", font=font)
    return sheet


def _thumbnail(sample: Sample, range: Range | None) -> Image.Image:
    try:
        with reading(sample.source, range) as image:
            way = Image.Resampling.NEAREST if max(image.size) < _SIDE // 2 else Image.Resampling.LANCZOS
            shown = image.convert("RGB") if image.mode == "F" else image
            return ImageOps.contain(shown, (_SIDE, _SIDE), way).convert("RGB")
    except ImageError:  # it was read before, but may be gone since
        return Image.new("RGB", (_SIDE, _SIDE), "silver")


def _caption(id: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The folder and the name of an image, each of which fits below it: its end, which tells ids apart."""
    folder, slash, name = id.rpartition("/")
    lines = []
    for text in (folder + slash, name) if folder else (name,):
        cut = 0
        while cut < len(text) and font.getlength(text[cut:]) > _SIDE - 8:
            cut += 1
        lines.append(f"…{text[cut + 1 :]}" if cut else text)
    return lines
