"""One bad image never costs another: it has a row with its error, and the rest goes on."""

import csv
import io
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from PIL import Image

import adkit
from adkit import Detector
from adkit.data.images import ImageError, read_image
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Sample
from adkit.data.view import View
from adkit.predict.predict import find_images, predict, watch
from adkit.predict.watch import Watcher
from tests.cli.commands import adkit as adkit_command
from tests.data.closed import as_nobody
from tests.data.image_files import save
from tests.recipe.small import write_small

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX's")


@pytest.fixture
def open_folder():
    """A folder that other users may pass to by its whole path, as they may not below pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def rows_of(done):
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pipes
def test_a_pipe_named_as_an_argument_or_on_a_line_is_refused_and_never_opened(small_run, tmp_path):
    save(tmp_path / "a.png", size=(40, 48))
    os.mkfifo(tmp_path / "pipe.png")
    listed = f"{tmp_path / 'pipe.png'}\n{tmp_path / 'a.png'}\n"
    done = adkit_command("predict", small_run.folder, tmp_path / "pipe.png", tmp_path / "a.png", "-", input=listed)
    assert done.returncode == 0, done.stderr
    assert [bool(row["score"]) for row in rows_of(done)] == [False, True, False, True]
    assert rows_of(done)[0]["error"] == (
        f"{tmp_path / 'pipe.png'}: expected an image that can be read, found that it is not a file but a pipe; "
        "fix it or leave it out"
    )


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device")
def test_a_device_is_refused():
    with pytest.raises(ImageError, match=r"^it is not a file but a device$"):
        read_image(Path("/dev/zero"))


@pipes
def test_a_pipe_among_the_images_of_a_run_is_one_unreadable_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    names = [save(tmp_path / "a.png"), tmp_path / "pipe.png", save(tmp_path / "b.png")]
    bad = BadImages(0.5)
    batches = list(Loader([Sample(path.name, path, 0, "good") for path in names], View("squash", 8, 8), 4, bad))
    assert [batch.ids for batch in batches] == [("a.png", "b.png")]
    assert dict(bad.reasons) == {"pipe.png": "it is not a file but a pipe"}


@pipes
def test_a_pipe_in_a_watched_folder_is_passed_over(small_run, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    save(tmp_path / "a.png", size=(40, 48))
    watcher = Watcher([str(tmp_path)], print)
    (row,) = [next(iter(watch(Detector.load(small_run.folder), watcher, lambda: False)))]
    assert Path(row.path).name == "a.png"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_subfolder_that_cannot_be_read_is_a_row(small_run, here):
    detector = Detector.load(small_run.folder)
    for name in ("in/a.png", "in/shut/b.png", "in/x/c.png", "in/passed/d.png"):
        save(here / name, size=(40, 48))
    (here / "in/shut").chmod(0o311)
    (here / "in/passed").chmod(0o644)  # its names are there, and nothing of them
    with as_nobody():
        rows = list(predict(detector, find_images(["in"], [])))
    assert [(row.path, row.score is not None) for row in rows] == [
        ("in/a.png", True),
        ("in/x/c.png", True),
        ("in/passed/d.png", False),
        ("in/shut", False),
    ]
    assert rows[3].error == (
        "in/shut: expected an image that can be read, found that the folder cannot be read: Permission denied; "
        "fix it or leave it out"
    )
    assert "found that the file cannot be read: Permission denied" in rows[2].error


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_closed_folder_of_test_images_costs_a_run_nothing_else(small_run, open_folder):
    """After ``small_run``, nothing is left to import, from where other users may not."""
    recipe = write_small(open_folder)
    recipe["data"]["max_bad_share"] = 0.1  # of 15
    save(open_folder / "data/stripes/test/square/shut/a.png", size=(48, 48))
    (open_folder / "data/stripes/test/square/shut").chmod(0o300)
    (open_folder / "runs").mkdir()
    (open_folder / "runs").chmod(0o777)
    with as_nobody():
        report = adkit.run(recipe)
    reason = "the folder cannot be read: Permission denied"
    assert [(one.image, one.reason) for one in report.unreadable] == [("stripes/test/square/shut", reason)]
    counts = report.categories["stripes"].images
    assert (counts.test_anomalous, counts.unreadable) == (3, 1)
    assert "1 image could not be read and was left out: stripes/test/square/shut" in report.warnings


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_line_that_cannot_be_looked_at_is_a_row(small_run, here):
    save(here / "a.png", size=(40, 48))
    save(here / "shut/b.png")
    (here / "shut").chmod(0o600)
    detector = Detector.load(small_run.folder)
    lines = ["shut/b.png\n", "x" * 300 + ".png\n", "a\0.png\n", "a.png\n"]
    with as_nobody():
        rows = list(predict(detector, find_images(["-", "shut/b.png"], lines)))
    assert [row.score is not None for row in rows] == [False, False, False, True, False]
    assert "File name too long" in rows[1].error


def test_a_heatmap_whose_name_is_a_folder_is_a_row_with_its_score(small_run, tmp_path):
    """``a.png`` has the heatmap ``a.png.png``, which is the folder of those of the images in ``a.png.png``."""
    for name in ("in/0.png", "in/a.png", "in/a.png.png/b.png"):
        save(tmp_path / name, size=(40, 48))
    (tmp_path / "out/heatmaps/a.png.png").mkdir(parents=True)
    (tmp_path / "out/heatmaps/a.png.png/old.png").touch()
    done = adkit_command("predict", small_run.folder, tmp_path / "in", "--heatmaps", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert all(row["score"] for row in rows.values()) and len(rows) == 3
    path = tmp_path / "out/heatmaps/a.png.png"
    assert rows["a.png"]["error"] == f"no heatmap: {path} cannot be written: Is a directory"
    assert rows["0.png"]["error"] == rows["b.png"]["error"] == ""


NO_MEMORY = """
import resource, sys
from pathlib import Path
from PIL import Image
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Sample
from adkit.data.view import View
from adkit.detector.inputs import input_items, read_input

folder = Path(sys.argv[1])
view = View("squash", 64, 64)
samples = [Sample(name, folder / name, 0, "good") for name in ("small.png", "large.png", "clear.png", "last.png")]
bad = BadImages(1)
list(Loader(samples[:1], view, 2, bad))  # threads and libraries have what they need
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 400 * 2**20,) * 2)
print([batch.ids for batch in Loader(samples, view, 2, bad)])
print(dict(bad.reasons))
for item in input_items([sample.source for sample in samples], view):
    print(getattr(read_input(item), "problems", "read"))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's measure of memory")
def test_images_that_there_is_no_memory_for_are_told_and_the_rest_goes_on(tmp_path):
    """``large`` takes 576 MB to decode, and ``clear`` 139 MB and then 557 MB to lay it over white."""
    save(tmp_path / "small.png", size=(40, 48))
    save(tmp_path / "last.png", size=(40, 48))
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "large.png", compress_level=1)
    Image.new("P", (11_800, 11_800)).save(tmp_path / "clear.png", compress_level=1, transparency=0)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_MEMORY), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    reason = "decoding it takes more memory than is left"
    batches, reasons, *read = done.stdout.splitlines()
    assert batches == "[('small.png', 'last.png')]"
    assert reasons == str(dict.fromkeys(("large.png", "clear.png"), reason))
    expected = "expected an image that can be read, found that"
    large, clear = (
        f"{tmp_path / name}: {expected} {reason}; fix it or leave it out" for name in ("large.png", "clear.png")
    )
    assert read == ["read", str((large,)), str((clear,)), "read"]
