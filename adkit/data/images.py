"""Decoding images: from a file of any usual kind to gray or RGB pixels, or to a sentence that says what is wrong.

Pillow's ``Image.open`` is avoided on purpose. It warns of large images through process-wide filters,
which threads cannot change safely, its limit is a global that others may lift, and it tries every format that
it knows, some of which start other programs. Here the first bytes choose among the types of ``file_types``.
"""

from __future__ import annotations

import builtins
import errno
import math
import os
import shlex
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from adkit.data.budget import LARGE_IMAGES, MOST, SMALL
from adkit.data.file_types import HEAD, NAMES, reader_of
from adkit.data.memory import memory_of
from adkit.data.samples import ArrayItem, Source
from adkit.utils.container import available_memory, cores
from adkit.utils.text import joined

T = TypeVar("T")
R = TypeVar("R")
Size = tuple[int, int]
"""(height, width) of an image in pixels, as it is meant to be seen."""
GrayValues = npt.NDArray[np.integer] | npt.NDArray[np.floating]

Range = tuple[float, float]
"""The raw values (low, high) of a gray image of more than 8 bits that become 0 and 255."""

PIXEL_LIMIT = 178_956_970
"""Number of pixels above which an image is refused from its header alone: 716 MB once decoded in color."""

_VIDEOS = (
    *((4, b"ftyp" + brand) for brand in (b"isom", b"iso", b"mp4", b"avc1", b"M4V", b"qt  ", b"3gp", b"dash", b"MSNV")),
    (8, b"AVI "),
    (0, b"\x1aE\xdf\xa3"),  # Matroska and WebM
    (0, b"FLV\x01"),
    (0, b"\0\0\x01\xba"),  # MPEG
    (0, b"\0\0\x01\xb3"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # WMV
)
"""The place and the first bytes of what videos begin with."""
_STRIP = 2**18
"""The number of pixels that are brought to other values at a time."""
_ORIENTATION = 0x0112
_NO_MEMORY = "decoding it takes more memory than is left"
_SMALLER = "cut it into tiles or make it smaller"
_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ImageError(Exception):
    """A file that cannot be read as an image; ``reason`` is a clause, which ends the sentence "PATH: …"."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_image(source: Source, range: Range | None = None) -> Image.Image:
    """Decode an image as it is meant to be seen.

    Transparent pixels show a white background, a camera's rotation (EXIF) is applied, only the first
    of several frames is read, and color profiles are not applied.

    Args:
        range: the raw values of gray images of more than 8 bits that become 0 and 255, those beyond being clipped;
            None: 0 and 65535 for integers, 0 and 1 for floats, and values beyond are refused. Other images have their
            values whatever the range.

    Returns:
        Mode ``L`` or ``RGB`` of 0 to 255, or for gray images of more than 8 bits mode ``F`` of 0 to 255
        with fractions.

    Raises:
        ImageError: missing, empty, truncated, not a file or no image in it, too large for adkit or the memory that is
            left, or values outside their range or not finite.
    """
    with reading(source, range) as image:
        return image


def nothing(size: Size) -> int:
    """No bytes, for a block that makes nothing of the size of an image."""
    return 0


@contextmanager
def reading(source: Source, range: Range | None = None, more: Callable[[Size], int] = nothing) -> Iterator[Image.Image]:
    """Decode an image as ``read_image`` does, for the block, which may not read another one.

    Large ones wait for others to end, so that together they take no more memory than they may.

    Args:
        range: as ``read_image`` has it.
        more: the bytes that the block takes for an image of a size, beside those of the image.
    """
    with within_memory(), ExitStack() as held:
        if isinstance(source, ArrayItem):
            yield Image.fromarray(source.pixels)
        else:
            yield flatten(_decoded(source, held, more), range)


@contextmanager
def within_memory() -> Iterator[None]:
    """Raise what there is no memory for in the block, around an image that is too large for it, as ImageError."""
    try:
        yield
    except MemoryError as error:
        raise ImageError(_NO_MEMORY) from error


def read_raw(path: Path) -> Image.Image:
    """Decode a file in its own mode, turned as it is meant to be seen; raises ImageError."""
    with ExitStack() as held:
        return _decoded(path, held)


def raw_values(path: Path, look: Callable[[GrayValues], T]) -> T | None:
    """What ``look`` finds in the raw values (h, w) of a gray image of more than 8 bits; None of any other image.

    Raises:
        ImageError: as ``read_image``, but that values may lie outside their range.
    """
    with within_memory(), ExitStack() as held:
        image = _decoded(path, held, _values)
        return look(np.asarray(image)) if is_deep(image) else None


def _values(size: Size) -> int:
    """The bytes of an array of an image's values and, while it is made and looked at, of two copies of it."""
    return 12 * size[0] * size[1]


def is_deep_file(path: Path) -> bool:
    """Whether a file is a gray image of more than 8 bits, by its header alone; raises ImageError."""
    with _opened(path) as image:
        return is_deep(image)


def is_deep(image: Image.Image) -> bool:
    """Whether an image that was not flattened is gray and of more than 8 bits: of integers or floats."""
    return image.mode.startswith("I") or image.mode == "F"


def _decoded(path: Path, held: ExitStack, more: Callable[[Size], int] = nothing) -> Image.Image:
    """As ``read_raw``; ``held`` gives the memory back that the image is allowed, ``more`` is as in ``reading``."""
    with _opened(path) as image:
        beside = more(_seen_size(image))
        upright, turned = (memory_of(image, turned=one) + beside for one in (False, True))
        need = upright if _stated_orientation(image) == 1 else turned
        _check_memory(need)
        if need > SMALL:
            held.enter_context(LARGE_IMAGES.taken(need))
            if need > (free := available_memory()):
                raise ImageError(f"{_takes(need)}, and {free / 1e6:,.0f} MB are free: {_SMALLER}")
        image.load()
        if _orientation(image) == 1:
            return image
        _check_memory(turned)  # a PNG may state it behind its pixels
        return ImageOps.exif_transpose(image)


def _check_memory(need: int) -> None:
    """Raise ImageError for an image that needs more bytes than any may take."""
    if need > MOST:
        raise ImageError(f"{_takes(need)}, and an image may take {MOST / 1e6:,.0f} MB: {_SMALLER}")


def _takes(need: int) -> str:
    return f"decoding it takes {need / 1e6:,.0f} MB of memory"


def frames_of(video: Path) -> str:
    """The line that writes the frames of a video as images, for a shell."""
    return f"mkdir frames && ffmpeg -i {shlex.quote(str(video))} frames/%06d.png"


def image_size(path: Path) -> Size:
    """Read an image's (height, width), as it is meant to be seen, from its header alone.

    A PNG that states a rotation behind its pixels is the exception: only decoding reveals its size.
    """
    with _opened(path) as image:
        return _seen_size(image)


def _seen_size(image: ImageFile) -> Size:
    """The size of an image as it is meant to be seen, as far as its header tells."""
    width, height = image.size
    # Pillow has turned the size of a TIFF already.
    turned = _stated_orientation(image) >= 5 and not isinstance(image, TiffImageFile)
    return (width, height) if turned else (height, width)


def _stated_orientation(image: ImageFile) -> int:
    """The orientation that is stated before the pixels; to ask a PNG for one behind them would decode it."""
    return 1 if isinstance(image, PngImageFile) and "exif" not in image.info else _orientation(image)


def pages(path: Path) -> int:
    """Count the pages or frames of a file, of which ``read_image`` reads the first; 1 where it cannot be read."""
    try:
        with _opened(path) as image:
            return max(int(getattr(image, "n_frames", 1)), 1)  # a PSD without layers says 0
    except ImageError:
        return 1  # reading it says why


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """Open an image, not decoded yet; whatever fails until the end of the block is raised as ImageError."""
    try:
        _check_kind(path)  # a pipe is never opened, for who opens one waits, perhaps for ever
        with path.open("rb") as file:
            yield _open(file, path.suffix)
    except ImageError:
        raise
    except Exception as error:  # decoders of broken files, and parsers of their headers, raise nearly anything
        raise ImageError(_reason(error)) from error


def _check_kind(path: Path) -> None:
    """Raise ImageError unless ``path`` is that of a file."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        try:
            os.scandir(path).close()
        except OSError as error:
            raise ImageError(f"the folder cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _OTHER_KINDS if is_kind(mode)), "something else")
        raise ImageError(f"it is not a file but {kind}")


def _open(file: BinaryIO, extension: str) -> ImageFile:
    head = file.read(HEAD)
    file.seek(0)
    if not head:
        raise ImageError("the file is empty (0 bytes)")
    if any(head[at:].startswith(magic) for at, magic in _VIDEOS):
        raise ImageError(f"it is a video, from which {frames_of(Path(file.name))} takes the frames")
    reader = reader_of(head, extension)
    if reader is None:
        raise ImageError(f"the file is not a {joined(NAMES, 'or')} image: it begins with {head[:8]!r}")
    image = reader(file)
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise ImageError(
            f"{width:,} × {height:,} pixels are more than the {PIXEL_LIMIT:,} that adkit decodes: {_SMALLER}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return 1  # a block that cannot be parsed states no rotation; viewers show such an image as it lies
    return value if value in range(1, 9) else 1


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOENT:
            return "the file is not there"
        return f"the file cannot be read: {os.strerror(error.errno)}"
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    text = str(error) or type(error).__name__
    truncated = isinstance(error, EOFError) or "truncated" in text.lower() or "eof" in text.lower()
    return f"the file is truncated ({text})" if truncated else f"the image is damaged ({text})"


def flatten(image: Image.Image, range: Range | None = None) -> Image.Image:
    """Bring a decoded image to one of the modes and to the values that ``read_image`` gives; raises ImageError.

    This alone says how pixels become 0 to 255: in a run, in ``Detector.predict`` and before an exported file.
    """
    mode = image.mode
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or ("transparency" in image.info and mode in ("1", "L", "P", "RGB")):
        return _by_strips(image, "RGB", _over_white)
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    if is_deep(image):
        ends = [(values.min(), values.max()) for values in map(np.asarray, strips(image))]
        to_bytes = _scaling(mode, (float(np.min(ends)), float(np.max(ends))), range)  # nan, if there is one
        return _by_strips(image, "F", lambda strip: Image.fromarray(to_bytes(np.asarray(strip))))
    return image.convert("RGB")  # palette, CMYK, YCbCr, LAB, HSV


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """Copies of so many rows of an image at a time, from its top, that none of all of it is made."""
    rows = max(1, _STRIP // image.width)
    for top in builtins.range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_strips(image: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    changed, top = Image.new(mode, image.size), 0
    for strip in strips(image):
        changed.paste(change(strip), (0, top))
        top += strip.height
    return changed


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _scaling(mode: str, ends: Range, range: Range | None) -> Callable[[GrayValues], npt.NDArray[np.float32]]:
    """The function that brings raw values, which lie between ``ends``, to 0 to 255, as ``read_image`` says."""
    lowest, highest = ends
    kind, top = ("a float", 1) if mode == "F" else ("an integer", 65535)
    said = f"{kind} image has values from {lowest:.10g} to {highest:.10g}"
    if range is None:
        if not (lowest >= 0 and highest <= top):  # false for nan, too
            raise ImageError(f"{said}: expected 0 to {top}, unless the recipe has data.range")
        if mode == "F":
            return lambda values: values.astype(np.float32) * np.float32(255)
        return lambda values: values.astype(np.float32) / np.float32(257)  # 65535 / 255
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ImageError(f"{said}: expected finite numbers")
    low, high = range

    def scaled(values: GrayValues) -> npt.NDArray[np.float32]:
        parts = np.subtract(values, low, dtype=np.float64)
        with np.errstate(over="ignore"):  # far beyond a narrow range: infinite, and clipped
            parts /= high - low
        np.clip(parts, 0, 1, out=parts)
        parts *= 255
        return parts.astype(np.float32)

    return scaled


def in_threads(look: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What ``look`` gives for each item, such as a file to be decoded, in their order."""
    with ThreadPoolExecutor(decoding_threads(), thread_name_prefix="adkit-look") as pool:
        return list(pool.map(look, items))


def decoding_threads() -> int:
    """The number of threads that decode at a time: one per core that this process may use."""
    return cores()
