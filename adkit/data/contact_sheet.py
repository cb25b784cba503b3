"""A contact sheet of pairs of images, side by side with their ids, for people to judge whether they show one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from adkit.data.images import ImageError, read_image
from adkit.data.samples import Sample

MOST: Final = 12
"""Pairs on a sheet."""
_SIDE: Final = 200
_GAP: Final = 12
_LINE: Final = 16
_LINES: Final = 2
_COLUMNS: Final = 3


def contact_sheet(pairs: Sequence[tuple[Sample, Sample]]) -> Image.Image:
    """Draw the first ``MOST`` pairs in reading order: the held-out image on the left, its training image on the right.

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
        for place, sample in enumerate(pair):
            x, y = left + _GAP + place * (_SIDE + _GAP), top + _GAP
            image = _thumbnail(sample)
            sheet.paste(image, (x + (_SIDE - image.width) // 2, y + (_SIDE - image.height) // 2))
            for line, text in enumerate(_broken(sample.id, font)):
                draw.text((x, y + _SIDE + 4 + line * _LINE), text, fill="black", font=font)
    return sheet


def _thumbnail(sample: Sample) -> Image.Image:
    try:
        image = read_image(sample.source).convert("RGB")
    except ImageError:  # it was read before, but may be gone since
        return Image.new("RGB", (_SIDE, _SIDE), "silver")
    way = Image.Resampling.NEAREST if max(image.size) < _SIDE // 2 else Image.Resampling.LANCZOS
    return ImageOps.contain(image, (_SIDE, _SIDE), way)


def _broken(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break an id into lines that fit below an image; of a longer one the end is kept, which tells ids apart."""
    lines: list[str] = []
    while text and len(lines) < _LINES:
        cut = 0
        while cut < len(text) and font.getlength(text[cut:]) > _SIDE - 4:
            cut += 1
        lines.insert(0, text[cut:])
        text = text[:cut]
    if text:
        lines[0] = f"…{lines[0][1:]}"
    return lines
