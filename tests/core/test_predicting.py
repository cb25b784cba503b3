"""`adkit predict` gives the run's scores, row by row, whatever lies between the pictures."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit import UserError
from adkit.predicting import Row, find_pictures, writing


@pytest.fixture
def fitted(small_recipe):
    small_recipe["threshold"] = {"false_positive_rate": 0.34}  # what two calibration pictures support
    return Path(adkit.run(small_recipe).folder)


def command(*arguments, **options):
    done = subprocess.run(
        [sys.executable, "-m", "adkit", "predict", *map(str, arguments)], capture_output=True, text=True, **options
    )
    return done, list(csv.DictReader(io.StringIO(done.stdout)))


def expected(fitted):
    with (fitted / "scores.csv").open(newline="") as file:
        return {row["id"]: float(row["score"]) for row in csv.DictReader(file) if row["split"] == "test"}


def test_a_folder_gives_the_scores_of_the_run(fitted, stripes):
    done, rows = command(fitted, stripes / "stripes" / "test")
    assert done.returncode == 0, done.stderr
    found = {Path(row["path"]).relative_to(stripes).as_posix(): float(row["score"]) for row in rows}
    assert found == pytest.approx(expected(fitted), rel=1e-5)


def test_an_unreadable_picture_has_a_row_and_stops_nobody(fitted, stripes):
    folder = stripes / "stripes" / "test" / "good"
    (folder / "001.png").write_bytes(b"junk")
    done, rows = command(fitted, folder)
    assert done.returncode == 0
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "3 pictures" in done.stderr
    assert "1 unreadable" in done.stderr


def test_a_sixteen_bit_picture_scores_as_it_does_from_python(fitted, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (48, 48), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "sixteen.png")
    _, rows = command(fitted, tmp_path / "sixteen.png")
    expected = adkit.Detector.load(fitted).predict(tmp_path / "sixteen.png").scores[0]
    assert float(rows[0]["score"]) == pytest.approx(float(expected), rel=1e-6)


def test_fail_on_anomaly_exits_3(fitted, stripes):
    done, rows = command(fitted, stripes / "stripes" / "test", "--fail-on-anomaly")
    assert any(row["anomalous"] == "1" for row in rows)
    assert done.returncode == 3


def test_a_list_on_standard_input(fitted, stripes):
    picture = stripes / "stripes" / "test" / "good" / "000.png"
    _, rows = command(fitted, "-", input=f"{picture}\n\n")
    assert [row["path"] for row in rows] == [str(picture)]


def test_jsonl_into_a_folder(fitted, stripes, tmp_path):
    command(fitted, stripes / "stripes" / "test" / "square", "--jsonl", "--output", tmp_path / "out")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"path", "score", "p_value", "anomalous"}] * 3


def test_find_pictures_in_folders_files_globs_and_lines(tmp_path):
    names = ["a/1.png", "a/b/2.jpg", "3.bmp", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = [str(tmp_path / "a"), str(tmp_path / "3.bmp"), str(tmp_path / "**" / "*.jpg"), "-"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(paths, [f"{tmp_path / 'x.png'}\n"])]
    assert found == ["a/1.png", "a/b/2.jpg", "3.bmp", "a/b/2.jpg", "x.png"]


@pytest.mark.parametrize("name", ["nowhere", "*.png", "empty"])
def test_a_path_with_no_picture(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected a"):
        list(find_pictures([str(tmp_path / name)], []))


def test_a_row_is_on_disk_when_it_is_written(tmp_path):
    with writing(str(tmp_path), jsonl=False) as write:
        write(Row("a.png", 1.5, 0.25, True))
        assert (tmp_path / "predictions.csv").read_text() == ("path,score,p_value,anomalous,error\na.png,1.5,0.25,1,\n")


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="expected a file that can be written"),
        writing(os.fspath(tmp_path / "file"), jsonl=False),
    ):
        pass
