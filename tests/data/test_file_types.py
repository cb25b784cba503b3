from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adkit.data.files import images_under
from adkit.data.images import pages, read_image

BLOCK = np.full((16, 16, 3), (200, 40, 10), np.uint8)


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "a.apng", "a.jpg", "a.jpeg", "a.jpe", "a.jfif", "a.mpo", "a.tif", "a.tiff", "a.bmp", "a.dib"),
        *("a.webp", "a.gif", "a.ppm", "a.pnm", "a.jp2", "a.j2k", "a.avif", "a.qoi", "a.pcx", "a.sgi", "a.tga"),
        *("a.JFIF", "a.TGA"),
    ],
)
def test_files_that_are_found_and_read(tmp_path: Path, name: str) -> None:
    Image.fromarray(BLOCK).save(tmp_path / name)
    (found,) = images_under(tmp_path)
    assert read_image(found).getpixel((8, 8)) == pytest.approx((200, 40, 10), abs=4)


def test_bits_and_floats_of_netpbm(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.pbm")
    Image.fromarray(np.array([[0.0, 0.5]], np.float32)).save(tmp_path / "b.pfm")
    first, second = (np.asarray(read_image(path)).tolist() for path in images_under(tmp_path))
    assert (first, second) == ([[0, 255]], [[0, 127.5]])


def test_photoshop_and_sun(tmp_path: Path) -> None:
    sixteen, planes = (16).to_bytes(4, "big"), BLOCK.transpose(2, 0, 1).tobytes()
    head = b"8BPS\0\1" + bytes(6) + b"\0\3" + sixteen * 2 + b"\0\x08\0\3"  # 3 channels of 8 bits, RGB
    (tmp_path / "a.psd").write_bytes(head + bytes(14) + planes)
    fields = (16, 16, 24, 16 * 16 * 3, 1, 0, 0)
    sun = b"\x59\xa6\x6a\x95" + b"".join(field.to_bytes(4, "big") for field in fields)
    (tmp_path / "b.ras").write_bytes(sun + BLOCK[..., ::-1].tobytes())
    assert [read_image(path).getpixel((8, 8)) for path in images_under(tmp_path)] == [(200, 40, 10)] * 2
    assert pages(tmp_path / "a.psd") == 1


def test_what_a_file_is_says_its_beginning(tmp_path: Path) -> None:
    Image.fromarray(BLOCK).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tga")
    assert read_image(tmp_path / "a.tga").getpixel((0, 0)) == (200, 40, 10)


@pytest.mark.parametrize("extension", ["tif", "gif", "webp", "apng", "avif"])
def test_pages_and_frames(tmp_path: Path, extension: str) -> None:
    images = [Image.fromarray(np.roll(BLOCK, 60 * number, axis=2) // (number + 1)) for number in range(3)]
    images[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=images[1:])
    assert pages(tmp_path / f"a.{extension}") == 3
