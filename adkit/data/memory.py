"""How much memory an image takes while it is decoded and brought to 0 to 255, told from its header.

Decoders differ: most fill the image row by row, others hold all of it a second to sixth time. What they hold was
measured; ``tests/data/test_memory.py`` measures it again.
"""

from __future__ import annotations

import os
from typing import IO, Final

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Mode → bytes that a decoded pixel takes; 4 in all others."""
_KEPT: Final = {"WEBP": 12, "AVIF": 4}
"""Format → bytes per pixel that its decoder keeps as long as the image is there."""
_BLOCK: Final = 2**20
"""The bytes of a PPM that are made a list at a time."""
_CODE: Final = b"\xff\x4f\xff\x51"
"""What the code of a JPEG 2000 begins with; the sides of its tiles follow after 20 bytes."""
_BOXES: Final = 1000
"""The number of boxes of a JPEG 2000 that are looked at to find its code."""


def memory_of(image: ImageFile, *, turned: bool) -> int:
    """The bytes that an opened image takes at most until ``flatten`` is done with it.

    Args:
        turned: whether it is to be turned as its camera was, for which it is copied.
    """
    pixels = image.width * image.height
    decoded = _BYTES.get(image.mode, 4) * pixels
    kept = _KEPT.get(image.format or "", 0) * pixels
    after = decoded + kept
    if turned:
        after += decoded
    if image.mode == "1":
        after = max(after, 2 * pixels + kept)
    elif image.mode not in ("L", "RGB") or "transparency" in image.info:
        after = max(after, decoded + kept + 4 * pixels)
    return max(decoded + _while_decoding(image), after)


def _while_decoding(image: ImageFile) -> int:
    """The bytes that a decoder takes at most beside the decoded pixels."""
    pixels, bands = image.width * image.height, len(image.getbands())
    if isinstance(image, JpegImageFile):
        return _coefficients(image) if "progressive" in image.info else 0
    if isinstance(image, TiffImageFile):
        return _strip(image) + _file(image) if any(tile[0] == "libtiff" for tile in image.tile) else 0
    match image.format:
        case "WEBP":
            return 14 * pixels + _file(image)
        case "AVIF":
            return 12 * pixels + _file(image)
        case "JPEG2000":
            size = 8 if image.mode.startswith("I") else 6
            return size * bands * min(pixels, _tile(image)) + _file(image)
        case "QOI" | "SGI" | "PSD":
            return 4 * pixels + _file(image) * (image.format == "SGI")
        case "PPM" if image.tile[0][0] != "raw":  # to be scaled, or in letters, which are lists before they are numbers
            letters = min(_file(image), _BLOCK) if image.tile[0][0] == "ppm_plain" else 0
            return 3 * (4 if image.mode == "I" else bands) * pixels + 50 * letters
    return 0


def _file(image: ImageFile) -> int:
    """The size of its file, which some decoders read as a whole."""
    assert image.fp is not None
    return os.fstat(image.fp.fileno()).st_size


def _coefficients(image: JpegImageFile) -> int:
    """The bytes of all coefficients, 16 bits each, that are held until the last scan of a progressive JPEG."""
    factors = [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer]
    full = max(one for one, _ in factors) * max(one for _, one in factors)
    share = sum(horizontal * vertical for horizontal, vertical in factors) / full
    return int(2 * share * image.width * image.height)


def _strip(image: TiffImageFile) -> int:
    """The bytes of a strip or tile, which libtiff decodes at a time."""
    tags = image.tag_v2
    bits = sum(tags.get(258, (1,)))
    if 322 in tags and 323 in tags:
        sides = tags[322], tags[323]
    else:
        sides = image.width, min(tags.get(278, image.height), image.height)
    return int(sides[0]) * int(sides[1]) * -(-bits // 8)


def _tile(image: ImageFile) -> int:
    """The pixels of a tile of a JPEG 2000, which is decoded at a time; those of the image where they are not found."""
    file = image.fp
    assert file is not None
    before = file.tell()
    file.seek(_code_of(file) + len(_CODE) + 20)
    sides = file.read(8)
    file.seek(before)
    whole = image.width * image.height
    return (int.from_bytes(sides[:4], "big") * int.from_bytes(sides[4:], "big") or whole) if len(sides) == 8 else whole


def _code_of(file: IO[bytes]) -> int:
    """Where in a JPEG 2000 its code begins: at once, or in one of its boxes; the end of the file where in none."""
    file.seek(0)
    if file.read(len(_CODE)) == _CODE:
        return 0
    at = 0
    for _ in range(_BOXES):
        file.seek(at)
        header = file.read(16)
        length, kind, head = int.from_bytes(header[:4], "big"), header[4:8], 8
        if length == 1:
            length, head = int.from_bytes(header[8:], "big"), 16
        if kind == b"jp2c":
            return at + head
        if length < head:  # 0: to the end
            break
        at += length
    return file.seek(0, os.SEEK_END)
