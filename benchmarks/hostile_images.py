"""Puts hostile images, names and things that are no files through adkit as users do, and counts what comes of them.

    python benchmarks/hostile_images.py [--mutations 300] [--seed 0] [--free 0.65e9]

Every kind is put through ``predict`` of a folder, of paths, and of a list on standard input (``--jsonl``), through
``predict --watch``, beside files that grow and vanish, and, as a test image, through ``run``: a batch of kinds at a
time, and each command in a process of its own, whose peak memory and time are measured. Then as many valid files of all
formats, with some bytes changed, as ``--mutations`` says go the same way.

Every file must have one row: with a score, or with an error. A score must be that of the same pixels as Pillow alone
decodes them, where it does; all ways must agree; and images beside the hostile ones must keep their scores to the
last bit. Anything else (a crash, a traceback, a hang, a row that is lost, broken or there twice, a control character on
the terminal, more memory than ``MEMORY``) is a fault, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_detectors import SMALL, Found, in_worker
from PIL import Image, ImageOps

from adkit import Detector
from adkit.cli.main import main as adkit_main
from adkit.cli.streams import prepare as prepare_streams
from adkit.plugin.registry import discover
from adkit.utils.escapes import unescaped
from adkit.utils.table import content
from adkit.utils.text import counted

MEMORY = 1.5e9
"""Bytes of resident memory that a command may reach."""
FREE = 0.65e9
"""Bytes that commands take to be free, so that what is refused for its size does not depend on the machine."""
SECONDS = 240.0
"""How long a command may take for a batch."""
BATCH = 40
WITNESSES = 3
"""Images beside those of every batch."""
OUTCOMES = ("scored as Pillow reads it", "scored", "refused", "passed over")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa")
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Make = Callable[[Path, np.random.Generator], None]

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "apng": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 90}),
    "jpeg": ("JPEG", {"quality": 80, "progressive": True}),
    "tif": ("TIFF", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
    "webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "avif": ("AVIF", {}),
    "qoi": ("QOI", {}),
    "pcx": ("PCX", {}),
    "sgi": ("SGI", {}),
    "tga": ("TGA", {}),
}
"""How a name ends → what Pillow calls the format, and how it is to write it."""


def picture(random: np.random.Generator, mode: str = "RGB", size: tuple[int, int] = (40, 28)) -> Image.Image:
    """Blocks of color, which every format keeps roughly."""
    small = Image.fromarray(random.integers(0, 256, (7, 10, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if mode in ("LA", "RGBA", "PA"):
        small.putalpha(Image.fromarray(random.integers(0, 256, size[::-1], np.uint8)))
    return small.convert(mode)


def encoded(image: Image.Image, ending: str, **options: Any) -> bytes:
    name, usual = FORMATS[ending]
    buffer = io.BytesIO()
    image.save(buffer, name, **usual | options)
    return buffer.getvalue()


def _cut(share: float) -> Callable[[bytes, np.random.Generator], bytes]:
    return lambda data, random: data[: int(share * len(data))]


def _zeros(data: bytes, random: np.random.Generator) -> bytes:
    at = len(data) // 3
    return data[:at] + bytes(len(data) // 10) + data[at + len(data) // 10 :]


def _noise(data: bytes, random: np.random.Generator) -> bytes:
    return data[:16] + random.bytes(len(data) - 16)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "whole": lambda data, random: data,
    "half": _cut(0.5),
    "nearly whole": _cut(0.97),
    "its first bytes": lambda data, random: data[:20],
    "zeros inside": _zeros,
    "noise behind its beginning": _noise,
    "more behind it": lambda data, random: data + random.bytes(1000),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png_of(width: int, height: int, depth: int, color: int, data: bytes) -> bytes:
    """A PNG of any header with compressed ``data``."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, ending: str, **options: Any) -> Make:
    return lambda path, random: path.write_bytes(encoded(image, ending, **options)) and None


def _modes() -> Iterator[tuple[str, str, Make]]:
    """Kind, ending, and how it is made, of what is odd in its pixels."""
    random = np.random.default_rng(1)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield f"PNG {mode}", "png", saved(picture(random, mode), "png")
    gray = picture(random, "L")
    transparent = picture(random).quantize(16)
    yield "PNG with a transparent color", "png", saved(transparent, "png", transparency=3)
    yield "PNG all transparent", "png", saved(Image.new("RGBA", (40, 28), (9, 9, 9, 0)), "png")
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"):
        yield f"TIFF {mode}", "tif", saved(picture(random, mode if mode != "LAB" else "RGB").convert(mode), "tif")
    yield "JPEG CMYK", "jpg", saved(picture(random, "CMYK"), "jpg")
    yield "JPEG gray", "jpg", saved(gray, "jpg")
    wide = random.integers(0, 65536, (28, 40)).astype(np.uint16)
    yield "PNG of 16 bits", "png", saved(Image.fromarray(wide), "png")
    yield "TIFF of 16 bits", "tif", saved(Image.fromarray(wide), "tif")
    yield "PNG of 16 bits, little used", "png", saved(Image.fromarray(wide % 400 + 800), "png")
    yield "TIFF of 32 bits", "tif", saved(Image.fromarray(wide.astype(np.int32)), "tif")
    yield "TIFF of 32 bits, negative", "tif", saved(Image.fromarray(wide.astype(np.int32) - 1000), "tif")
    floats = random.random((28, 40), np.float32)
    yield "TIFF of floats", "tif", saved(Image.fromarray(floats), "tif")
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("1e30", 1e30)):
        strange = floats.copy()
        strange[3, 4] = value
        yield f"TIFF of floats with {name}", "tif", saved(Image.fromarray(strange), "tif")
    for orientation in (3, 6, 8, 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"JPEG turned {orientation}", "jpg", saved(picture(random), "jpg", exif=exif)
    yield "JPEG with a broken EXIF block", "jpg", saved(picture(random), "jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    yield "PNG with a broken color profile", "png", saved(picture(random), "png", icc_profile=b"\0" * 50)
    frames = [picture(random) for _ in range(3)]
    for ending in ("gif", "apng", "webp", "tif"):
        yield f"{ending} of three frames", ending, saved(frames[0], ending, save_all=True, append_images=frames[1:])
    for width, height in ((1, 1), (1, 3000), (3000, 1), (2, 2)):
        yield f"PNG of {width} × {height}", "png", saved(picture(random, size=(width, height)), "png")


def _headers() -> Iterator[tuple[str, str, Make]]:
    """What claims more than there is, or takes much more than its file."""

    def written(data: bytes) -> Make:
        return lambda path, random: path.write_bytes(data) and None

    def large(width: int, height: int, depth: int, color: int, row: int) -> Make:
        """A PNG of zeros, of so many bytes a row, which is made when it is written."""

        def make(path: Path, random: np.random.Generator) -> None:
            path.write_bytes(png_of(width, height, depth, color, zlib.compress(bytes(height * (row + 1)), 9)))

        return make

    def wide(ending: str) -> Make:
        fast = {"speed": 10} if ending == "avif" else {}
        plain = (90, 120, 30)
        return lambda path, random: saved(Image.new("RGB", (8_000, 8_000), plain), ending, **fast)(path, random)

    for width, height in ((100_000, 100_000), (2**31 - 1, 1), (0, 10), (13_300, 13_300)):
        yield f"PNG that claims {width} × {height}", "png", written(png_of(width, height, 8, 2, zlib.compress(b"")))
    yield "PNG of 144 Mpx in black and white", "png", large(12_000, 12_000, 1, 0, 12_000 // 8)
    yield "PNG of 49 Mpx, transparent", "png", large(7_000, 7_000, 8, 6, 7_000 * 4)
    yield "PNG of 177 Mpx, transparent", "png", large(13_300, 13_300, 8, 6, 13_300 * 4)
    yield "PNG of 177 Mpx", "png", large(13_300, 13_300, 8, 2, 13_300 * 3)
    yield "PNG of 1 × 10000000", "png", large(1, 10_000_000, 8, 0, 1)
    for ending in ("jp2", "webp", "avif"):
        yield f"{ending} of 64 Mpx", ending, wide(ending)
    header = b"BM" + bytes(12) + (40).to_bytes(4, "little")
    sides = (50_000).to_bytes(4, "little", signed=True) + (-50_000).to_bytes(4, "little", signed=True)
    yield "BMP that claims 50000 × 50000", "bmp", written(header + sides + bytes((1, 0, 24, 0)) + bytes(24))
    yield (
        "GIF that claims 65535 × 65535",
        "gif",
        written(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08;"),
    )
    yield "PPM that claims 99999 × 99999", "ppm", written(b"P6 99999 99999 255\n")
    yield "PGM in letters without an end", "pgm", written(b"P2 9 9 255\n" + b"9" * 100_000)
    yield "empty", "png", written(b"")
    yield "text", "jpg", written(b"not a picture\n" * 50)
    yield "a page of a web server", "png", written(b"<!DOCTYPE html><html><body>404</body></html>")
    yield "a video", "png", written(b"\0\0\0\x20ftypisom" + bytes(200))
    yield "a PNG that is called JPEG", "jpg", saved(picture(np.random.default_rng(2)), "png")
    yield "a JPEG that is called TIFF", "tif", saved(picture(np.random.default_rng(3)), "jpg")


NAMES = (
    b"a\rb",
    b"a\nb",
    b'quote"\nand,comma',
    b"\x1b[2J\x1b]0;owned\x07",
    b"caf\xe9",
    "\x9b2J\u202e\u2028".encode(),
    b"=HYPERLINK(0)",
    b"+1",
    b"-rf",
    b"@x",
    b"'x",
    rb"back\x41slash",
    b" space before and behind ",
    b"%s{0}$HOME`id`",
    "e\u0301 \u00e9".encode(),
    b"x" * 251,
)
"""Names, without an ending, of a sound image; the last one has four bytes for it."""


def _things() -> Iterator[tuple[str, str, Make]]:
    """What has the name of an image and is none."""

    def bound(path: Path, random: np.random.Generator) -> None:
        # The path of a socket has 107 bytes at most, so it is bound from where it lies.
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path.name)
        finally:
            os.chdir(here)

    yield "a pipe", "png", lambda path, random: os.mkfifo(path)
    yield "a socket", "png", bound
    yield "a link to a device", "png", lambda path, random: path.symlink_to("/dev/zero")
    yield "a link that leads nowhere", "png", lambda path, random: path.symlink_to("nowhere")
    yield "a link to itself", "png", lambda path, random: path.symlink_to(path.name)
    yield "an empty folder", "png", lambda path, random: path.mkdir()
    yield "a link to a folder above", "png", lambda path, random: path.symlink_to("..")


@dataclass(frozen=True)
class Case:
    group: str
    kind: str
    name: bytes
    make: Make


def kinds() -> list[Case]:
    cases = []

    def add(group: str, kind: str, name: bytes, make: Make) -> None:
        cases.append(Case(group, kind, name, make))

    def damaged(ending: str, how: Callable[[bytes, np.random.Generator], bytes]) -> Make:
        return lambda path, random: path.write_bytes(how(encoded(picture(random), ending), random)) and None

    for ending in FORMATS:
        for damage, how in DAMAGES.items():
            add("damaged", f"{ending}, {damage}", f"d{len(cases):03}.{ending}".encode(), damaged(ending, how))
    for group, found in (("pixels", _modes()), ("claims", _headers()), ("no files", _things())):
        for kind, ending, make in found:
            add(group, kind, f"k{len(cases):03}.{ending}".encode(), make)
    for name in NAMES:
        add("names", repr(name), name + b".png", damaged("png", DAMAGES["whole"]))
    return cases


def mutations(count: int, seed: int) -> Iterator[Case]:
    endings = list(FORMATS)

    def mutated(ending: str) -> Make:
        def make(path: Path, random: np.random.Generator) -> None:
            data = bytearray(encoded(picture(random), ending))
            for _ in range(int(random.integers(1, 12))):
                at = int(random.integers(len(data)))
                if random.random() < 0.8:
                    data[at] = int(random.integers(256))
                elif random.random() < 0.5:
                    del data[at : at + int(random.integers(1, 30))]
                else:
                    data[at:at] = random.bytes(int(random.integers(1, 30)))
                if not data:
                    break
            path.write_bytes(data)

        return make

    for number in range(count):
        ending = endings[number % len(endings)]
        yield Case("mutated", f"{ending}, mutation {number}", f"m{number:05}.{ending}".encode(), mutated(ending))


@dataclass(frozen=True)
class Place:
    """What all batches share."""

    work: Path
    """Folder of the sound images, and of the batches."""
    witnesses: dict[str, str] = field(default_factory=dict)
    """Name of each image that lies in every batch → its score in the first one."""


def prepare(work: Path) -> Place:
    random = np.random.default_rng(0)
    (work / "good").mkdir()
    for number in range(24):
        picture(random).save(work / "good" / f"{number}.png")
    return Place(work)


def recipe_of(hostile: Path, place: Place, runs: Path) -> dict[str, Any]:
    """The recipe of a run that fits on the sound images and tests on hostile ones."""
    run = {"name": "batch", "output": str(runs), "device": "cpu", "precision": "float32", "synthetic": 0}
    data = {"format": "folder", "root": str(place.work), "normal": "good", "anomalous": str(hostile)}
    shape = {"image_size": 64, "batch_size": 8, "calibration": 0.25, "max_bad_share": 1.0}
    extractor = SMALL | {"levels": ["layer1", "layer2"]}
    return {"run": run, "data": data | shape, "extractor": extractor, "scorer": {"use": "knn", "k": 1}}


def command(arguments: Sequence[str], folder: Path, stop: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Carry out ``adkit`` with ``arguments`` in this process, which is a fork; what it printed, and how it ended.

    Args:
        stop: asked again and again in a thread; once it is true, the process is interrupted as by Ctrl-C.
    """
    printed = {}
    for number, name in ((1, "out"), (2, "err")):
        printed[name] = folder / name
        os.dup2(os.open(printed[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if stop is not None:

        def wait() -> None:
            while not stop():
                time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=wait, daemon=True).start()
    status = adkit_main(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    return {"status": status} | {name: path.read_text("utf-8", "surrogateescape") for name, path in printed.items()}


def rows_of(text: str) -> dict[str, list[dict[str, str]]]:
    """Name of a file → its rows, of CSV as ``predict`` writes it."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        found.setdefault(os.path.basename(unescaped(content(row["path"]))), []).append(row)
    return found


def objects_of(text: str) -> dict[str, list[dict[str, str]]]:
    """Name of a file → its rows, as CSV would have them, of JSON lines as ``predict --jsonl`` writes them."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in text.splitlines():
        row = {"score": "", "error": ""} | {key: str(value) for key, value in json.loads(line).items()}
        found.setdefault(os.path.basename(unescaped(row["path"])), []).append(row)
    return found


def grow_and_vanish(sound: bytes, whole: Path) -> None:
    """Write ``whole`` in two pieces, and around it an image that is gone again and one that never ends."""
    gone, half = whole.with_name("gone.png"), whole.with_name("half.png")
    time.sleep(2)
    gone.write_bytes(sound)
    whole.write_bytes(sound[: len(sound) // 2])
    half.write_bytes(sound[: len(sound) // 2])
    time.sleep(0.5)
    gone.unlink()
    time.sleep(2)
    half.unlink()
    with whole.open("ab") as file:
        file.write(sound[len(sound) // 2 :])


def expected_pixels(path: Path) -> np.ndarray[Any, Any] | None:
    """(h, w, 3) uint8, as Pillow alone reads an image of 8 bits; None where it does not."""
    try:
        if not path.is_file():
            return None
        with Image.open(path) as image:
            if image.width * image.height > 60e6 or image.mode not in EIGHT_BITS:
                return None
            image.load()
            turned = ImageOps.exif_transpose(image)
            if "A" in turned.mode or "a" in turned.mode or "transparency" in turned.info:
                white = Image.new("RGBA", turned.size, "white")
                white.alpha_composite(turned.convert("RGBA"))
                turned = white
            return np.array(turned.convert("RGB"))
    except Exception:  # noqa: BLE001  broken files raise nearly anything
        return None


def expected_scores(run: Path, paths: Sequence[Path]) -> dict[str, float]:
    """Name, in hexadecimal bytes → the score of the pixels that Pillow reads."""
    detector = Detector.load(run, "cpu")
    pixels = {path.name: expected_pixels(path) for path in paths}
    return {
        os.fsencode(name).hex(): float(detector.predict(one).scores[0])
        for name, one in pixels.items()
        if one is not None
    }


def expected(run: Path, paths: Sequence[Path]) -> dict[str, float]:
    """``expected_scores``, computed in a fork, so that this process stays small."""
    answer, _ = in_worker(lambda: expected_scores(run, paths), SECONDS)
    if isinstance(answer, str):
        raise SystemExit(f"Pillow: {answer}")
    return dict(answer)


def try_batch(number: int, cases: Sequence[Case], place: Place, found: Found, seed: int, free: float) -> None:
    """Put a batch through every way, and judge what came of it."""
    folder = place.work / f"batch-{number}"
    hostile, outputs = folder / "in", folder / "out"
    hostile.mkdir(parents=True)
    outputs.mkdir()
    paths = {os.fsdecode(case.name): case for case in cases}

    def make_all() -> None:
        for name, case in paths.items():
            case.make(hostile / name, np.random.default_rng([seed, zlib.crc32(case.name)]))
        random = np.random.default_rng(7)
        for witness in range(WITNESSES):
            picture(random).save(hostile / f"w{witness}.png")

    made, _ = in_worker(make_all, SECONDS)  # in a fork, for what commands take begins with what this process takes
    if made is not None:
        raise SystemExit(f"batch {number}: {made}")
    names = [*paths, *(f"w{witness}.png" for witness in range(WITNESSES))]
    listed = {name for name in names if (hostile / name).is_file()}

    def fault(what: str) -> None:
        found.faults.append(f"batch {number}: {what}")

    def carried_out(what: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        answer, peak = in_worker(work, SECONDS, int(free))
        found.peak, found.slowest = max(found.peak, peak), max(found.slowest, time.monotonic() - began)
        if peak > MEMORY:
            fault(f"{what}: {peak / 1e9:.2f} GB of memory")
        if isinstance(answer, str):
            fault(f"{what}: {answer}")
            return None
        if "out" in answer:
            text = answer["out"] + answer["err"]
            if answer["status"] != 0 or "Traceback" in text or ACTING.search(text):
                fault(f"{what}: status {answer['status']}, {text[-1500:]!r}")
            if answer["status"] != 0:
                return None
        return answer

    scores: dict[str, dict[str, dict[str, str]]] = {}

    def rows(what: str, by_name: dict[str, list[dict[str, str]]], wanted: set[str]) -> None:
        for name in sorted(wanted | by_name.keys()):
            of_name = by_name.get(name, [])
            if len(of_name) != (name in wanted) and not (name not in listed and len(of_name) == 1):
                fault(f"{what}: {counted(len(of_name), 'row')} of {name!r} ({kind_of(name)})")
            for row in of_name:
                if bool(row["score"]) == bool(row["error"]):
                    fault(f"{what}: neither a score nor an error: {row}")
        scores[what] = {name: of_name[0] for name, of_name in by_name.items() if of_name}

    def kind_of(name: str) -> str:
        return paths[name].kind if name in paths else "a witness"

    def run_it() -> dict[str, Any]:
        import tomli_w

        recipe = recipe_of(hostile, place, outputs)
        (outputs / "recipe.toml").write_bytes(tomli_w.dumps(recipe).encode("utf-8", "surrogateescape"))
        return command(["run", str(outputs / "recipe.toml")], outputs)

    if not carried_out("run", run_it):
        return
    judge_run(outputs / "batch", scores, listed, fault)
    run = str(outputs / "batch")
    out = outputs / "folder"
    if carried_out("folder", lambda: command(["predict", run, str(hostile), "--output", str(out)], outputs)):
        rows("folder", rows_of((out / "predictions.csv").read_text("utf-8")), listed)
    each = [str(hostile / name) for name in names if name not in listed or name.startswith("w")]
    each += [str(hostile / name) for name in listed if not name.startswith("w")]
    there = {Path(path).name for path in each if os.path.lexists(path) and not os.path.isdir(path)}
    missing = {name for name in there if not (hostile / name).exists()}  # links that lead nowhere are refused at once
    given = [path for path in each if Path(path).name in there - missing]
    if carried_out("paths", lambda: command(["predict", run, *given, "--output", str(outputs / "paths")], outputs)):
        rows("paths", rows_of((outputs / "paths" / "predictions.csv").read_text("utf-8")), there - missing)
    # A list has a line for each, so names of several lines cannot be in it.
    on_lines = [path for path in given if len(path.splitlines()) == 1 and path.strip() == path]
    (outputs / "list").write_bytes(b"".join(os.fsencode(path) + b"\n" for path in on_lines))

    def of_list() -> dict[str, Any]:
        os.dup2(os.open(outputs / "list", os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape")
        return command(["predict", run, "-", "--jsonl"], outputs)

    if answer := carried_out("list", of_list):
        rows("list", objects_of(answer["out"]), {Path(path).name for path in on_lines})
    watched, out = folder / "watched", outputs / "watch"
    watched.mkdir()
    deadline = time.monotonic() + 0.8 * SECONDS

    def all_there() -> bool:
        file = out / "predictions.csv"
        return time.monotonic() > deadline or (
            file.exists() and listed <= rows_of(file.read_text("utf-8", "surrogateescape")).keys()
        )

    def watch() -> dict[str, Any]:
        sound = (hostile / names[-1]).read_bytes()
        threading.Thread(target=grow_and_vanish, args=(sound, watched / names[-1]), daemon=True).start()
        for name in names[:-1]:
            source = hostile / name
            if source.is_file():
                shutil.copyfile(source, watched / name)
            elif name in paths:
                paths[name].make(watched / name, np.random.default_rng(0))
        return command(["predict", run, str(watched), "--watch", "--output", str(out)], outputs, all_there)

    if carried_out("watch", watch):
        by_name = rows_of((out / "predictions.csv").read_text("utf-8"))
        if unwanted := [row for row in by_name.pop("gone.png", []) + by_name.pop("half.png", []) if row["error"]]:
            fault(f"watch: rows of images that were gone: {unwanted}")
        rows("watch", by_name, listed)
    wanted = expected(outputs / "batch", [hostile / name for name in sorted(listed)])
    for name in names:
        answers = {what: of_name[name] for what, of_name in scores.items() if name in of_name}
        values = {np.float32(row["score"] or "nan").tobytes() for row in answers.values()}
        if len(values) > 1:
            fault(
                f"{name!r} ({kind_of(name)}): scores differ: { {what: row['score'] for what, row in answers.items()} }"
            )
        row = answers.get("folder") or answers.get("paths")
        if name not in paths and place.witnesses.setdefault(name, answers["folder"]["score"]) != row["score"]:
            fault(f"{name!r}, beside others before: {place.witnesses[name]}, now {row['score']}")
        pixels = wanted.get(os.fsencode(name).hex())
        if row is None:
            outcome = "passed over"
        elif row["error"]:
            outcome = "refused"
        elif pixels is None:
            outcome = "scored"
        else:
            outcome = "scored as Pillow reads it"
            if not np.isclose(float(row["score"]), pixels, rtol=1e-5, atol=1e-7):
                fault(f"{name!r} ({kind_of(name)}): score {row['score']}, and {pixels} of what Pillow reads")
        found.counts[paths[name].group if name in paths else "witnesses", outcome] += 1
    shutil.rmtree(folder)


def judge_run(
    run: Path, scores: dict[str, dict[str, dict[str, str]]], listed: set[str], fault: Callable[[str], None]
) -> None:
    """Add what a run made of its test images to ``scores``."""
    report = json.loads((run / "report.json").read_text("utf-8"))
    unreadable = {os.path.basename(unescaped(one["image"])): one["reason"] for one in report["unreadable"]}
    with (run / "scores.csv").open(encoding="utf-8", newline="") as file:
        tested = [row for row in csv.DictReader(file) if row["label"] == "1"]
    found: dict[str, dict[str, str]] = {}
    for row in tested:
        name = os.path.basename(unescaped(content(row["id"])))
        if name in found:
            fault(f"run: two rows of {name!r}")
        found[name] = {"score": row["score"], "error": ""}
    if both := unreadable.keys() & found.keys():
        fault(f"run: {sorted(both)} have a score and are unreadable")
    found |= {name: {"score": "", "error": error} for name, error in unreadable.items()}
    if lost := listed - found.keys():
        fault(f"run: lost {sorted(lost)}")
    scores["run"] = found


def table(found: Found) -> str:
    groups = list(dict.fromkeys(group for group, _ in found.counts))
    lines = ["| | " + " | ".join(OUTCOMES) + " |", "|---|" + "---|" * len(OUTCOMES)]
    lines += [f"| {group} | {' | '.join(str(found.counts[group, one]) for one in OUTCOMES)} |" for group in groups]
    return "\n".join(lines)


def main() -> int:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds whose description has this in it, without mutations")
    parser.add_argument("--free", type=float, default=FREE, help="bytes of memory that commands take to be free")
    options = parser.parse_args()
    prepare_streams()
    Image.core.set_block_size(int(os.environ["PILLOW_BLOCK_SIZE"].rstrip("m")) * 2**20)  # Pillow is imported already
    torch.set_num_threads(1)  # the commands are forks of this process, so what they import is imported here, once
    discover()
    found = Found()
    cases = kinds()
    chosen = [case for case in cases if options.only is None or options.only in case.kind]
    if options.only is None:
        chosen += mutations(options.mutations, options.seed)
    with tempfile.TemporaryDirectory() as work:
        place = prepare(Path(work))
        batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
        for number, batch in enumerate(batches):
            try_batch(number, batch, place, found, options.seed, options.free)
            print(f"{number + 1} of {counted(len(batches), 'batch', 'batches')}", file=sys.stderr, flush=True)
    print(f"{counted(len(cases), 'kind')}, {counted(len(chosen), 'file')}, {len(batches) * 5} commands\n")
    print(table(found))
    print(found.ending("command"))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
