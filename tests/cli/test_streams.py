"""Commands whose output has no room, whose folder is gone, or whose names and locale are hostile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adkit.cli.main import main
from adkit.predict.rows import occupying
from tests.cli.commands import adkit

FULL = (
    "standard output: expected that it can be written to, found: No space left on device; free some space, or send it "
)
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")


def into_full(*arguments):
    with open("/dev/full", "w") as out:
        return subprocess.run([sys.executable, "-m", "adkit", *map(str, arguments)], stdout=out, stderr=-1, text=True)


@full
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "dn2"]], ids=" ".join)
def test_output_that_cannot_be_written_is_a_sentence(arguments):
    done = into_full(*arguments)
    assert (done.returncode, done.stderr) == (2, FULL + "elsewhere\n")


@full
@pytest.mark.slow
def test_rows_that_cannot_be_written_are_a_sentence(small_run, stripes):
    done = into_full("predict", small_run.folder, stripes / "stripes" / "test")
    assert done.returncode == 2
    assert done.stderr == (
        "standard output: expected a file that can be written, found: No space left on device; choose another "
        "--output\n"
    )


def test_a_working_folder_that_was_removed_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["recipes"]) == 2
    assert capsys.readouterr().err == (
        "the working folder: expected one that is there, found that it was removed; change to another one\n"
    )


def test_a_file_that_the_system_refuses_is_told_by_any_command(tmp_path):
    (tmp_path / "file").touch()
    done = adkit("plugins", "new", "scorer", "mine", "--dir", tmp_path / "file" / "below")
    assert done.returncode == 2
    assert done.stderr == (
        f"{tmp_path / 'file' / 'below'}: expected that it can be read and written, found: Not a directory; fix that, "
        "or name another place\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "cp1252"])
def test_no_locale_ends_a_command(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "adkit", "plugins", "scorer", "knn"], capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    done.stdout.decode(encoding)


def test_a_second_prediction_into_a_folder_is_refused(small_run, stripes, tmp_path):
    images, out = stripes / "stripes" / "test" / "good", tmp_path / "out"
    for options in ([], ["--watch"], ["--jsonl"]):
        with occupying(str(out)):
            done = adkit("predict", small_run.folder, images, "--output", out, *options)
        assert done.returncode == 2
        assert done.stderr == (
            f"{out}: expected to be the only prediction that writes there, found another one at work: wait until that "
            "ends, or choose another --output\n"
        )
    assert list(out.iterdir()) == []
    assert adkit("predict", small_run.folder, images, "--output", out).returncode == 0
    assert [path.name for path in out.iterdir()] == ["predictions.csv"]


def test_what_a_killed_prediction_left_of_heatmaps_goes_with_the_next(small_run, stripes, tmp_path):
    left = tmp_path / "out" / "heatmaps" / ".0123456789abcdef.draft"
    left.parent.mkdir(parents=True)
    left.touch()
    images = stripes / "stripes" / "test" / "good"
    done = adkit("predict", small_run.folder, images, "--output", tmp_path / "out", "--heatmaps")
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert len(list(left.parent.iterdir())) == 3
