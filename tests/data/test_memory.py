"""What an image takes while it is decoded is told by its header, and measured here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from adkit.data import images
from adkit.data.budget import MOST
from adkit.data.images import ImageError, read_image
from adkit.data.memory import memory_of
from adkit.data.view import View

SIDE = 1600
ROOM = 12_000_000
"""Bytes that strips of rows, buffers of decoders and their code take, whatever the size of the image."""
MEASURE = """
import json, os, sys
from pathlib import Path
from PIL import Image
from adkit.data import images
from adkit.data.memory import memory_of

def status(key):
    return int(Path('/proc/self/status').read_text().split(key + ':')[1].split()[0]) * 1024

def took(path):
    reading, writing = os.pipe()
    if not os.fork():  # in which nothing that was freed before is used again
        Path('/proc/self/clear_refs').write_text('5')
        before = status('VmRSS')
        images.read_image(path)
        os.write(writing, str(status('VmHWM') - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reading, 99))

images.available_memory()  # imports what it takes before anything is measured
found = {}
for path in map(Path, sys.argv[1:]):
    with images._opened(path) as image:
        told = memory_of(image, turned=images._stated_orientation(image) != 1)
    found[path.name] = told, took(path)
print(json.dumps(found))
"""


def write_all(folder):
    """An image of noise in every format and mode of which decoding takes another amount."""
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)).resize((SIDE, SIDE))
    gray, alpha, palette = rgb.convert("L"), rgb.copy(), rgb.quantize(64, Image.Quantize.FASTOCTREE)
    alpha.putalpha(gray)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(gray, np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    fast = {"compress_level": 1}
    saved = {
        "rgb.png": (rgb, fast),
        "turned.png": (rgb, fast | {"exif": exif}),
        "rgba.png": (alpha, fast),
        "la.png": (alpha.convert("LA"), fast),
        "palette.png": (palette, fast),
        "transparent.png": (palette, fast | {"transparency": 3}),
        "bits.png": (gray.convert("1"), fast),
        "deep.png": (deep, fast),
        "rgb.jpg": (rgb, {}),
        "turned.jpg": (rgb, {"exif": exif}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "progressive-444.jpg": (rgb, {"progressive": True, "subsampling": 0}),
        "progressive-gray.jpg": (gray, {"progressive": True}),
        "rgb.tif": (rgb, {}),
        "turned.tif": (rgb, {"exif": exif}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "one-strip.tif": (rgb, {"compression": "tiff_adobe_deflate", "strip_size": 1 << 30}),
        "lab.tif": (Image.merge("LAB", rgb.split()), {}),
        "floats.tif": (floats, {}),
        "lossy.webp": (rgb, {}),
        "lossless.webp": (alpha, {"lossless": True, "method": 0}),
        "animated.webp": (rgb, {"save_all": True, "append_images": [gray.convert("RGB")], "method": 0}),
        "rgb.gif": (palette, {}),
        "rgb.bmp": (rgb, {}),
        "rgb.ppm": (rgb, {}),
        # Of one color, because Pillow reads and writes the format pixel by pixel in Python.
        "rgb.qoi": (Image.new("RGB", rgb.size, "teal"), {}),
        "rgba.qoi": (Image.new("RGBA", rgb.size, "teal"), {}),
        "rgb.pcx": (rgb, {}),
        "rgb.sgi": (rgb, {}),
        "rgba.tga": (alpha, {}),
    }
    if features.check("jpg_2000"):
        saved |= {"gray.jp2": (gray, {}), "rgba.jp2": (alpha, {}), "deep.jp2": (deep, {})}
        saved |= {"rgb.jp2": (rgb, {}), "tiles.jp2": (rgb, {"tile_size": (256, 256)})}
    if features.check("avif"):
        saved |= {"gray.avif": (gray, {"speed": 10}), "rgba.avif": (alpha, {"speed": 10})}
        saved |= {"444.avif": (rgb, {"speed": 10, "subsampling": "4:4:4"})}
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    (folder / "letters.pgm").write_bytes(b"P2 %d %d 255\n" % gray.size + b"77 " * SIDE**2)
    (folder / "scaled.ppm").write_bytes(b"P6 %d %d 100\n" % rgb.size + bytes(3 * SIDE**2))
    (folder / "scaled.pgm").write_bytes(b"P5 %d %d 1000\n" % rgb.size + bytes(2 * SIDE**2))


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets peaks in /proc")
@pytest.mark.slow
def test_images_take_at_most_what_is_told_by_their_headers_and_no_less_than_half(tmp_path):
    write_all(tmp_path)
    paths = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert len(found) == len(paths) > 35
    wrong = {name: (told, took) for name, (told, took) in found.items() if not told / 2 - ROOM < took < told + ROOM}
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "mode", "options", "each"),
    [
        ("a.png", "L", {}, 1),
        ("a.png", "RGB", {}, 4),
        ("a.png", "1", {}, 2),
        ("a.png", "P", {}, 5),
        ("a.png", "P", {"transparency": 0}, 5),
        ("a.png", "RGBA", {}, 8),
        ("a.png", "I;16", {}, 6),
        ("a.tif", "F", {}, 8),
        ("a.jpg", "RGB", {"progressive": True, "subsampling": 0}, 10),
        ("a.jpg", "RGB", {"progressive": True, "subsampling": 2}, 7),
        ("a.jpg", "L", {"progressive": True}, 3),
    ],
)
def test_the_memory_of_an_image_is_known_from_its_header(tmp_path, name, mode, options, each):
    Image.new(mode, (32, 16)).save(tmp_path / name, **options)
    with images._opened(tmp_path / name) as image:
        assert memory_of(image, turned=False) == 512 * each


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
@pytest.mark.parametrize("ending", ["jp2", "j2k"])
def test_a_jpeg_2000_is_decoded_tile_by_tile(tmp_path, ending):
    path = tmp_path / f"a.{ending}"

    def told():
        with images._opened(path) as image:
            return memory_of(image, turned=False)

    image = Image.new("RGB", (64, 32))
    image.save(path)
    whole = 2048 * 4 + 2048 * 18 + path.stat().st_size
    assert told() == whole
    if ending == "jp2":  # what looks like the code in another box counts for nothing
        data = path.read_bytes()
        boast = b"\xff\x4f\xff\x51" + bytes(20) + b"\0\0\0\1" * 2
        at = data.index(b"jp2c") - 4
        path.write_bytes(data[:at] + (len(boast) + 8).to_bytes(4, "big") + b"free" + boast + data[at:])
        assert told() == whole + len(boast) + 8
    image.save(path, tile_size=(16, 8))
    assert told() == 2048 * 4 + 128 * 18 + path.stat().st_size


def test_an_image_that_is_turned_is_there_twice(tmp_path):
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png")
    with images._opened(tmp_path / "a.png") as image:
        assert memory_of(image, turned=True) == 512 * 8


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return caught.value.reason


def test_what_needs_more_than_an_image_may_take_is_refused_however_much_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST", 10_000)
    Image.new("RGBA", (40, 40)).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png") == (
        "decoding it takes 0 MB of memory, and an image may take 0 MB: cut it into tiles or make it smaller"
    )
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (40, 40)


def test_every_rgb_image_of_the_pixels_that_are_decoded_may_be():
    assert 4 * images.PIXEL_LIMIT < MOST


def test_a_rotation_behind_the_pixels_is_counted_once_it_is_known(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    chunk, rest = data[start : start + length], data[:start] + data[start + length :]
    (tmp_path / "a.png").write_bytes(rest[:-12] + chunk + rest[-12:])
    assert read_image(tmp_path / "a.png").size == (40, 40)
    monkeypatch.setattr(images, "MOST", 10_000)
    assert refusal(tmp_path / "a.png").startswith("decoding it takes")


def test_a_narrow_image_takes_what_it_is_made_wide_to():
    view = View("squash", 64, 64)
    assert view.memory((1_000_000, 1)) == 4 * 64 * (1_000_000 + 64)
    assert view.memory((1, 1_000_000)) == 4 * 64 * (1 + 64)


def test_a_line_that_would_be_made_wide_is_refused(tmp_path):
    from adkit.data.loader import BadImages, Loader
    from adkit.data.samples import Sample

    paths = [tmp_path / "line.png", tmp_path / "short.png"]
    for path, length in zip(paths, (3_000_000, 30), strict=True):
        Image.new("L", (1, length)).save(path)
    bad = BadImages(0.5)
    samples = [Sample(path.name, path, 0, "good") for path in paths]
    (batch,) = Loader(samples, View("squash", 64, 64), 4, bad)
    assert batch.ids == ("short.png",)
    assert dict(bad.reasons) == {
        "line.png": "decoding it takes 771 MB of memory, and an image may take 720 MB: cut it into tiles or make it "
        "smaller"
    }


def over_white(image):
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


WHOLE = {
    "RGBA": over_white,
    "LA": over_white,
    "P": over_white,
    "I;16": lambda image: Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(257)),
    "I": lambda image: Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(257)),
    "F": lambda image: Image.fromarray(np.asarray(image) * np.float32(255)),
}
"""Mode → what its pixels become when all of them are brought to 0 to 255 at once."""


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize("size", [(37, 29), (1, 50), (50, 1), (500, 3)])
def test_strips_give_the_pixels_of_the_whole(monkeypatch, mode, size):
    monkeypatch.setattr(images, "_STRIP", 100)
    random = np.random.default_rng(0)
    gray = random.integers(0, 65536, size[::-1])
    image = {
        "I;16": lambda: Image.fromarray(gray.astype(np.uint16)),
        "I": lambda: Image.fromarray(gray.astype(np.int32)),
        "F": lambda: Image.fromarray(random.random(size[::-1], np.float32)),
        "RGBA": lambda: Image.fromarray(random.integers(0, 256, (*size[::-1], 4), np.uint8)),
        "LA": lambda: Image.fromarray(random.integers(0, 256, (*size[::-1], 2), np.uint8)),
        "P": lambda: Image.fromarray((gray % 256).astype(np.uint8)).convert("P"),
    }[mode]()
    assert image.mode == mode
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    found, expected = images.flatten(image), WHOLE[mode](image)
    assert (found.mode, found.tobytes()) == (expected.mode, expected.tobytes())


def test_a_value_that_is_none_is_found_in_any_strip(monkeypatch):
    monkeypatch.setattr(images, "_STRIP", 4)
    for place in range(12):
        values = np.full((6, 2), 0.5, np.float32)
        values.flat[place] = np.nan
        with pytest.raises(ImageError, match="values from nan to nan"):
            images.flatten(Image.fromarray(values))
