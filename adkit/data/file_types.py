"""The types of image files that adkit reads: how their names end, how they begin, and what decodes them.

Pillow reads more, by plugins that start other programs, are asked for every file or know a type by its name alone. A
file of such a type is passed over and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Final

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PcxImagePlugin import PcxImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.PsdImagePlugin import PsdImageFile
from PIL.QoiImagePlugin import QoiImageFile
from PIL.SgiImagePlugin import SgiImageFile
from PIL.SunImagePlugin import SunImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile


@dataclass(frozen=True)
class FileType:
    """One type of image file."""

    name: str
    reader: type[ImageFile]
    extensions: tuple[str, ...]
    beginnings: tuple[bytes, ...]
    """What its files begin with; none where only the name tells."""
    starts_at: int = 0
    """The byte at which the beginning is."""
    paged: bool = False
    """Whether its files often have several pages or frames."""


FILE_TYPES: Final = (
    FileType("PNG", PngImageFile, (".png",), (b"\x89PNG\r\n\x1a\n",)),
    FileType("PNG", PngImageFile, (".apng",), (b"\x89PNG\r\n\x1a\n",), paged=True),
    FileType("JPEG", JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), (b"\xff\xd8\xff",)),
    FileType("TIFF", TiffImageFile, (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), paged=True),
    FileType("BMP", BmpImageFile, (".bmp", ".dib"), (b"BM",)),
    FileType("BMP", DibImageFile, (".dib",), tuple(bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124))),
    FileType("WebP", WebPImageFile, (".webp",), (b"RIFF",), paged=True),
    FileType("GIF", GifImageFile, (".gif",), (b"GIF8",), paged=True),
    FileType(
        "PPM",
        PpmImageFile,
        (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        (*(b"P%d" % kind for kind in range(1, 7)), b"Pf"),
    ),
    FileType(
        "JPEG 2000",
        Jpeg2KImageFile,
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    ),
    FileType("AVIF", AvifImageFile, (".avif", ".avifs"), (b"ftypavi", b"ftypmif1", b"ftypmsf1"), 4, paged=True),
    FileType("QOI", QoiImageFile, (".qoi",), (b"qoif",)),
    FileType("PCX", PcxImageFile, (".pcx",), tuple(bytes((10, version)) for version in (0, 2, 3, 5))),
    FileType("SGI", SgiImageFile, (".sgi", ".rgb", ".rgba", ".bw"), (b"\x01\xda",)),
    FileType("Sun", SunImageFile, (".ras",), (b"\x59\xa6\x6a\x95",)),
    FileType("PSD", PsdImageFile, (".psd",), (b"8BPS",)),
    FileType("TGA", TgaImageFile, (".tga", ".icb", ".vda", ".vst"), ()),
)

EXTENSIONS: Final = frozenset(extension for one in FILE_TYPES for extension in one.extensions)
"""How the names of image files end, in lower case."""
PAGED: Final = frozenset(extension for one in FILE_TYPES if one.paged for extension in one.extensions)
"""How the names of files end that often have several pages or frames."""
NAMES: Final = tuple(dict.fromkeys(one.name for one in FILE_TYPES))

_BY_NAME_ALONE: Final = MappingProxyType(
    {extension: one.reader for one in FILE_TYPES if not one.beginnings for extension in one.extensions}
)
HEAD: Final = 16
"""The number of bytes at its beginning that tell the type of a file."""


def is_paged(path: PurePath) -> bool:
    """Whether a file, by its name, is of a type whose files often have several pages or frames."""
    return path.suffix.lower() in PAGED


def reader_of(head: bytes, extension: str) -> type[ImageFile] | None:
    """What decodes a file, by its first ``HEAD`` bytes and, where no type has these, by how its name ends."""
    for one in FILE_TYPES:
        if one.beginnings and head[one.starts_at :].startswith(one.beginnings):
            return one.reader
    return _BY_NAME_ALONE.get(extension.lower())
