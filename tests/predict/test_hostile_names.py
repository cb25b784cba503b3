"""Names that would break rows, start formulas, take over a terminal, or are too long for their heatmap."""

import csv
import io
import json
import logging
import os
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from PIL import Image

from adkit import Detector, Report, UserError
from adkit.data.view import View
from adkit.predict.heatmaps import LONGEST_NAME, Heatmaps, file_name
from adkit.predict.predict import watch
from adkit.predict.rows import PartRow, listed_rows, writing
from adkit.predict.watch import Watcher
from adkit.runner.folder import run_folder
from adkit.utils.escapes import unescaped
from adkit.utils.table import content
from tests.cli.commands import adkit as adkit_command
from tests.cli.commands import adkit_process
from tests.recipe.small import write_small

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names of bytes are POSIX's")

NAMES = (
    b"a\rb.png",
    b"a\nb.png",
    b'a"\nb,.png',
    b"\x1b[2J\x1b]0;owned\x07.png",
    b"caf\xe9.png",
    "\x9b2J\u202e\u2028.png".encode(),
    b"=HYPERLINK(0).png",
    b"@x.png",
    b"'x.png",
    rb"back\x41slash.png",
    b"x" * 248 + b".png",
)


def png(value):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The working directory, with an image of each name in it."""
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number, name in enumerate(NAMES):
        try:
            Path(os.fsdecode(name)).write_bytes(png(number))
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    return folder


def safe(text):
    """Whether nothing in a text of lines acts on a terminal."""
    text.encode("utf-8")
    return not any((ord(letter) < 32 and letter != "\n") or 0x7F <= ord(letter) < 0xA0 for letter in text)


def test_a_row_is_a_line_that_gives_the_name_back(small_run, hostile):
    done = adkit_command("predict", small_run.folder, ".")
    header, *lines = done.stdout.split("\n")[:-1]
    assert header == "path,score,p_value,anomalous,regions,error"
    assert len(lines) == len(NAMES)
    assert safe(done.stdout) and safe(done.stderr)
    assert all(line[0] not in "=@" for line in lines)
    read = [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))]
    assert {os.fsencode(unescaped(content(path))) for path in read} == set(NAMES)


def test_a_line_of_json_gives_the_name_back(small_run, hostile):
    done = adkit_command("predict", small_run.folder, ".", "--jsonl")
    read = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert {os.fsencode(unescaped(path)) for path in read} == set(NAMES)


def test_what_is_said_of_names_is_harmless(small_run, hostile):
    for name in NAMES:
        Path(os.fsdecode(name)).write_bytes(b"junk")
    done = adkit_command("predict", small_run.folder, ".")
    assert done.stderr.count("\n") == len(NAMES) + 1
    assert safe(done.stderr)
    assert (
        r"\x1b[2J\x1b]0;owned\x07.png: expected an image that can be read, found that the file is not a PNG"
        in done.stderr
    )


@pytest.mark.parametrize("jsonl", [False, True])
def test_a_watch_of_any_names_goes_on_where_it_ended(small_run, hostile, tmp_path, jsonl):
    detector, out = Detector.load(small_run.folder), str(tmp_path / "out")

    with writing(out, jsonl=jsonl, append=True) as write:
        watcher = Watcher(["."], print, listed=listed_rows(out, jsonl=jsonl))
        for row in islice(watch(detector, watcher, lambda: False), len(NAMES)):
            write(row)
    again = Watcher(["."], print, listed=listed_rows(out, jsonl=jsonl))
    assert [again.look() for _ in range(3)] == [[], [], []]
    assert set(listed_rows(out, jsonl=jsonl)) == {os.fsdecode(name) for name in NAMES}


def test_a_row_of_a_part_is_a_line_too(tmp_path):
    with writing(str(tmp_path), jsonl=False, parts=True) as write:
        write(PartRow("=1\r\n2", 1, 0, "a.png", -0.5, 0.25, True))
    assert (tmp_path / "parts.csv").read_bytes().split(b"\n")[1:] == [b"'=1\\x0d\\x0a2,1,0,a.png,-0.5,0.25,1", b""]


def test_every_image_has_a_heatmap_whatever_its_name(small_run, hostile, tmp_path):
    done = adkit_command("predict", small_run.folder, ".", "--heatmaps", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    drawn = {os.fsencode(path.name) for path in (tmp_path / "out" / "heatmaps").iterdir()}
    assert len(drawn) == len(NAMES)
    assert {name + b".png" for name in NAMES if len(name) < 250} <= drawn


def test_a_name_that_is_too_long_ends_in_its_digest():
    assert file_name("a" * 250) == "a" * 250 + ".png"
    names = ["a" * 251, "a" * 250 + "b", "é" * 126 + "a", "é" * 125 + "b" * 5, "写" * 85]
    found = [file_name(name) for name in names]
    assert [len(os.fsencode(name)) for name in found] == [LONGEST_NAME] * len(names)
    assert len(set(found)) == len(names)
    assert found[0] == "a" * 186 + f"-{sha256(b'a' * 251).hexdigest()}.png"


def test_a_path_that_is_too_long_is_a_digest(tmp_path):
    heatmaps = Heatmaps(tmp_path / "out", tmp_path, View("squash", 64, 64), 1.0)
    deep = tmp_path.joinpath(*["d" * 200] * 20)
    paths = {heatmaps.path_of(deep / name) for name in ("x.png", "y.png")}
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path / "out" / "heatmaps" / "_"}
    assert {len(path.name) for path in paths} == {64 + len(".png")}


@pytest.mark.slow
def test_a_list_of_any_names_in_any_locale(small_run, hostile):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    listed = b"".join(name + b"\n" for name in NAMES if b"\n" not in name)
    done = adkit_process(
        "predict", small_run.folder, "-", input=os.fsdecode(listed), env=environment, errors="surrogateescape"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 + len(NAMES) - 2
    assert done.stdout.isascii() and safe(done.stdout)


def test_categories_and_kinds_are_shown_as_they_are_and_do_nothing(tmp_path):
    recipe = write_small(tmp_path)
    root = Path(recipe["data"]["root"])
    name, kind = "[red]\x1b[2J", "=[bold]\x07"
    (root / "stripes").rename(root / name)
    (root / name / "test" / "square").rename(root / name / "test" / kind)
    (root / name / "ground_truth" / "square").rename(root / name / "ground_truth" / kind)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe))
    for command in ("check", "run"):
        done = adkit_command(command, path)
        assert done.returncode == 0, done.stderr
        assert safe(done.stdout) and safe(done.stderr)
        assert r"[red]\x1b[2J" in done.stdout
    with (tmp_path / "runs" / "small" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["category"] for row in rows} == {r"[red]\x1b[2J"}
    assert {row["kind"] for row in rows} == {"good", r"'=[bold]\x07"}
    assert {content(row["kind"]) for row in rows} == {"good", r"=[bold]\x07"}
    assert all(float(row["score"]) == np.float32(row["score"]) for row in rows)


def test_a_log_takes_every_name(tmp_path, monkeypatch):
    # What pytest catches of logs is sent from process to process as UTF-8.
    monkeypatch.setattr(logging.getLogger("adkit"), "propagate", False)

    def fail():
        with run_folder(tmp_path / "run") as ledger:
            (ledger.folder / "state.json").write_text('{"categories": ["a"], "images": 1, "stored": false}')
            (ledger.folder / "finished").mkdir()
            (ledger.folder / "finished" / "0.json").touch()
            raise UserError("caf\udce9 \x1b[2J")

    with pytest.raises(UserError):
        fail()
    log = (tmp_path / ".run.partial" / "run" / "log.txt").read_text(encoding="utf-8")
    assert log.endswith("ERROR adkit: caf\\xe9 \\x1b[2J\n")


def test_an_argument_that_is_refused_is_quoted_without_harm(capsys):
    done = adkit_command("predict", "detector", "image", "--\x1b[2J")
    assert done.returncode == 2
    assert r"adkit: error: unrecognized arguments: --\x1b[2J" in done.stderr


def test_a_folder_of_any_name_takes_runs_predictions_and_exports(tmp_path):
    path, out = tmp_path / "recipe.toml", Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x1b[2J"))
    path.write_text(tomli_w.dumps(write_small(tmp_path)))
    run, images = out / "small", tmp_path / "data" / "stripes" / "test" / "good"
    for arguments in (
        ("run", path, "--output", out),
        ("predict", run, images, "--output", out / "rows", "--heatmaps"),
        ("export", run, "--format", "torchscript", "--output", tmp_path / "exported"),
    ):
        done = adkit_command(*arguments)
        assert done.returncode == 0, done.stderr
        assert safe(done.stdout) and safe(done.stderr)
    done = adkit_command("export", run, "--format", "torchscript")
    assert (done.returncode, done.stderr) == (
        2,
        f"{tmp_path}/caf\\xe9\\x1b[2J/small/detector/export/torchscript: expected a path in UTF-8, as other runtimes "
        "take, found one that is not: choose another --output\n",
    )
    assert Report.load(run / "report.json").folder == f"{tmp_path}/caf\\xe9\\x1b[2J/small"
