from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from adkit.data.images import PIXEL_LIMIT, ImageError, image_size, read_image
from adkit.data.samples import ArrayFile, ArrayItem
from tests.data.image_files import save

RED, GREY = (200, 40, 10), 77


def reason(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return caught.value.reason


def first_pixel(path: Path) -> object:
    return read_image(path).getpixel((0, 0))


def png_header(width: int, height: int) -> bytes:
    """A PNG up to where its pixels would begin."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(head) - 4) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "ppm", "webp"])
def test_rgb_of_every_lossless_format(tmp_path: Path, extension: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if extension == "webp" else {}))
    np.testing.assert_array_equal(np.asarray(read_image(path)), pixels)


def test_rgb_of_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), RED).save(tmp_path / "a.jpg", quality=95)
    assert first_pixel(tmp_path / "a.jpg") == pytest.approx(RED, abs=3)


def test_gray_stays_one_band(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", GREY))
    assert image.mode == "L"
    assert image.getpixel((0, 0)) == GREY


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[0, 255]]


def test_palette(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), RED).quantize(4).save(tmp_path / "a.png")
    assert first_pixel(tmp_path / "a.png") == RED


def test_half_transparent_lies_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert first_pixel(tmp_path / "a.png") == (127, 127, 127)


def test_gray_with_transparency_lies_over_white(tmp_path: Path) -> None:
    Image.new("LA", (4, 4), (50, 0)).save(tmp_path / "a.png")
    assert first_pixel(tmp_path / "a.png") == (255, 255, 255)


def test_transparent_color_of_a_palette_lies_over_white(tmp_path: Path) -> None:
    Image.new("P", (4, 4), 0).save(tmp_path / "a.png", transparency=0)
    assert first_pixel(tmp_path / "a.png") == (255, 255, 255)


def test_transparent_value_of_a_gray_png_lies_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[9, 50]], np.uint8)).save(tmp_path / "a.png", transparency=9)
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == [[255] * 3, [50] * 3]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_strips_that_are_laid_over_white_make_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("adkit.data.images._STRIP", 20)  # two rows of 9 pixels
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 4), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGB").quantize(8)
        image.info["transparency"] = bytes(range(0, 240, 30))
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png", **image.info)
    whole = Image.new("RGBA", image.size, "white")
    whole.alpha_composite(Image.open(tmp_path / "a.png").convert("RGBA"))
    assert np.array_equal(read_image(tmp_path / "a.png"), whole.convert("RGB"))


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, extension: str) -> None:
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / f"a.{extension}")
    assert first_pixel(tmp_path / f"a.{extension}") == pytest.approx(RED, abs=3)


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, extension: str) -> None:
    Image.fromarray(np.array([[0, 257, 300, 65535]], np.uint16)).save(tmp_path / f"a.{extension}")
    image = read_image(tmp_path / f"a.{extension}")
    assert image.mode == "F"
    np.testing.assert_allclose(np.asarray(image), [[0, 1, 300 / 257, 255]], rtol=1e-6)


def test_float_of_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(read_image(tmp_path / "a.tif")).tolist() == [[0, 127.5, 255]]


@pytest.mark.parametrize("worst", [-0.1, 1.5, 255.0, np.nan])
def test_float_outside_its_range(tmp_path: Path, worst: float) -> None:
    Image.fromarray(np.array([[0.0, worst]], np.float32)).save(tmp_path / "a.tif")
    assert reason(tmp_path / "a.tif").endswith(": expected 0 to 1, unless the recipe has data.range")


def test_integers_outside_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "a.tif")
    assert reason(tmp_path / "a.tif") == (
        "an integer image has values from 0 to 70000: expected 0 to 65535, unless the recipe has data.range"
    )


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_values_of_a_range_become_0_to_255_and_those_beyond_are_clipped(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.array([[0, 800, 900, 1000, 1200, 60_000]], kind)).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif", (800, 1200))
    assert (image.mode, np.asarray(image).tolist()) == ("F", [[0, 0, 63.75, 127.5, 255, 255]])


def test_a_range_takes_what_is_outside_the_whole_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-3, 1, 5]], np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[-300_000, 100_000, 500_000]], np.int32)).save(tmp_path / "b.tif")
    assert np.asarray(read_image(tmp_path / "a.tif", (-3, 5))).tolist() == [[0, 127.5, 255]]
    assert np.asarray(read_image(tmp_path / "b.tif", (-300_000, 500_000))).tolist() == [[0, 127.5, 255]]


def test_a_range_leaves_8_bits_and_colors_alone(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 100, 255]], np.uint8))
    save(tmp_path / "b.png", np.full((1, 1, 3), 7, np.uint8))
    assert np.asarray(read_image(tmp_path / "a.png", (50, 60))).tolist() == [[0, 100, 255]]
    assert np.asarray(read_image(tmp_path / "b.png", (50, 60))).tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_with_a_range_too(tmp_path: Path, worst: float) -> None:
    Image.fromarray(np.array([[0, worst]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a float image has values from .* to .*: expected finite numbers"):
        read_image(tmp_path / "a.tif", (0, 5))


def turned(path: Path, orientation: int) -> Path:
    """2 × 3 pixels (height × width) of which only the top left one, as stored, is white."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
def test_rotation_of_the_camera_is_applied(tmp_path: Path, extension: str) -> None:
    image = read_image(turned(tmp_path / f"a.{extension}", 6)).convert("L")  # 6: turn clockwise by 90°
    assert image.size == (16, 24)
    assert [image.getpixel(at) > 200 for at in [(2, 2), (13, 2), (2, 21), (13, 21)]] == [0, 1, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
def test_header_tells_the_size_as_seen(tmp_path: Path, extension: str, orientation: int) -> None:
    path = turned(tmp_path / f"a.{extension}", orientation)
    image = read_image(path)
    assert image_size(path) == (image.height, image.width)


def test_damaged_exif_leaves_the_image_as_it_lies(tmp_path: Path) -> None:
    Image.new("L", (16, 8), GREY).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert read_image(tmp_path / "a.jpg").size == (16, 8)


@pytest.mark.parametrize("extension", ["gif", "tif", "webp", "png"])
def test_first_frame_counts(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (8, 8), (value,) * 3) for value in (10, 200)]
    lossless = {"lossless": True} if extension == "webp" else {}
    frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **lossless)
    assert first_pixel(tmp_path / f"a.{extension}") == (10, 10, 10)


def test_content_counts_not_the_extension(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY).rename(tmp_path / "a.jpg")
    assert first_pixel(tmp_path / "a.jpg") == GREY


def test_item_of_an_array() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    image = read_image(ArrayItem(ArrayFile(Path("a.npz"), "x", array), 1))
    np.testing.assert_array_equal(np.asarray(image), array[1])


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, extension: str, share: float) -> None:
    path = tmp_path / f"a.{extension}"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert reason(path).startswith(("the file is truncated (", "the image is damaged ("))


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_truncated_is_called_so(tmp_path: Path, extension: str) -> None:
    path = save(tmp_path / f"a.{extension}", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason(path).startswith("the file is truncated (")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert reason(tmp_path / "a.png") == "the file is empty (0 bytes)"


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html><body>404")
    assert reason(tmp_path / "a.png") == (
        "the file is not a PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000, AVIF, QOI, PCX, SGI, Sun, PSD or TGA "
        "image: it begins with b'<html><b'"
    )


def test_missing_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.png") == "the file is not there"


def test_folder_of_that_name(tmp_path: Path) -> None:
    assert reason(tmp_path) == "it is not a file but a folder"


def test_gigapixel_is_refused_from_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(40_000, 30_000))
    assert reason(tmp_path / "a.png") == (
        "40,000 × 30,000 pixels are more than the 178,956,970 that adkit decodes: cut it into tiles or make it smaller"
    )


def test_limit_holds_where_pillow_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(png_header(PIXEL_LIMIT + 1, 1))
    assert "more than the 178,956,970" in reason(tmp_path / "a.png")


def test_large_image_below_the_limit_warns_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(12_000, 12_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(tmp_path / "a.png") == (12_000, 12_000)


def test_settings_of_pillow_are_left_alone(tmp_path: Path) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    read_image(save(tmp_path / "a.png"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
