"""Following a folder that fills: no file is lost, none is taken twice."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.data.images import ImageError, read_image
from adkit.predict.predict import watch
from adkit.predict.rows import LOCK, Row, listed_rows, writing
from adkit.predict.watch import Watcher


def encoded(index, format="PNG"):
    """An image of its own as a file's bytes."""
    pixels = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


class Watch:
    """A watcher, what it said, and what it gave so far: (name, readable)."""

    def __init__(self, *folders, **options):
        self.said, self.rows = [], []
        self.watcher = Watcher([str(folder) for folder in folders], self.said.append, **options)

    def look(self, times=2):
        """Look and read; a file that is at rest is given at the second look."""
        for _ in range(times):
            for arrival in self.watcher.look():
                try:
                    read_image(arrival.path)
                    readable = True
                except ImageError:
                    readable = False
                if self.watcher.settle(arrival, readable=readable):
                    self.rows.append((arrival.path.name, readable))
        return self.rows


def test_a_file_is_given_once_when_two_looks_agree(folder):
    (folder / "a.png").write_bytes(encoded(0))
    watched = Watch(folder)
    assert watched.look(1) == []
    assert watched.look(5) == [("a.png", True)]


def test_links_to_folders_are_followed(folder, tmp_path):
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera/a.jfif").write_bytes(encoded(0, "JPEG"))
    (folder / "link").symlink_to(tmp_path / "camera")
    (folder / "back").symlink_to(folder)
    assert Watch(folder).look() == [("a.jfif", True)]


def test_a_file_that_still_grows_is_waited_for(folder):
    data, watched = encoded(0), Watch(folder)
    for end in range(100, len(data), 1000):
        (folder / "a.png").write_bytes(data[:end])
        assert watched.look(1) == []
    (folder / "a.png").write_bytes(data)
    assert watched.look(1) == []
    assert watched.look(1) == [("a.png", True)]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("missing", [1, 12, 500])
def test_a_file_that_rests_half_written_is_waited_for(folder, format, missing):
    data, watched, path = encoded(0, format), Watch(folder), folder / f"a.{format.lower()}"
    path.write_bytes(data[:-missing])
    assert watched.look(5) == []
    path.write_bytes(data)
    assert watched.look(5) == [(path.name, True)]


def test_a_file_that_cannot_be_decoded_is_given_up_when_patience_is_over(folder):
    (folder / "a.png").write_bytes(b"junk")
    watched = Watch(folder, patience=0.2)
    assert watched.look() == []
    time.sleep(0.25)
    assert watched.look(3) == [("a.png", False)]
    (folder / "a.png").write_bytes(encoded(0))
    assert watched.look(3) == [("a.png", False), ("a.png", True)]


def test_a_file_that_cannot_be_decoded_is_not_decoded_at_every_look(folder):
    (folder / "a.png").write_bytes(b"junk")
    watcher = Watcher([str(folder)], print)
    watcher.look()
    (arrival,) = watcher.look()
    assert not watcher.settle(arrival, readable=False)
    assert watcher.look() == []


def test_a_png_that_never_ends_is_read_when_patience_is_over(folder):
    (folder / "a.png").write_bytes(encoded(0) + b"more")
    watched = Watch(folder, patience=0.2)
    assert watched.look() == []
    time.sleep(0.25)
    assert watched.look() == [("a.png", True)]


def test_a_file_that_is_replaced_is_given_again(folder):
    watched = Watch(folder)
    (folder / "a.png").write_bytes(encoded(0))
    watched.look()
    (folder / "a.png").write_bytes(encoded(1) + b"")
    os.utime(folder / "a.png", ns=(1, 1))
    assert watched.look(4) == [("a.png", True)] * 2


def test_a_file_that_changes_while_it_is_read_counts_only_later(folder):
    watched = Watch(folder)
    (folder / "a.png").write_bytes(encoded(0))
    watched.watcher.look()
    (arrival,) = watched.watcher.look()
    os.utime(folder / "a.png", ns=(1, 1))
    assert not watched.watcher.settle(arrival, readable=True)
    assert watched.look() == [("a.png", True)]


def test_a_file_that_is_taken_away_counts_if_it_was_read(folder):
    watched = Watch(folder)
    (folder / "a.png").write_bytes(encoded(0))
    (folder / "b.png").write_bytes(encoded(1))
    watched.watcher.look()
    arrivals = watched.watcher.look()
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    assert [watched.watcher.settle(arrival, readable=True) for arrival in arrivals] == [True, True]
    assert not watched.watcher.settle(arrivals[0], readable=False)


def test_hidden_and_temporary_names_are_left_until_they_are_renamed(folder):
    for name in (".a.png", "b.png.part", "c.tmp", "d.txt"):
        (folder / name).write_bytes(encoded(0))
    watched = Watch(folder)
    assert watched.look() == []
    (folder / "b.png.part").rename(folder / "b.png")
    assert watched.look() == [("b.png", True)]


def test_subfolders_are_followed_but_for_the_hidden_and_the_left_out(folder):
    for name in ("deep/er", "named.png", ".hidden", "out"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{Path(name).name[-2:]}.png").write_bytes(encoded(0))
    assert sorted(Watch(folder, without=folder / "out").look()) == [("er.png", True), ("ng.png", True)]


def test_paths_are_as_the_folder_was_written(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "a.png").write_bytes(encoded(0))
    watcher = Watcher(["./in", "in/../in", str(folder)], print)
    watcher.look()
    assert [str(arrival.path) for arrival in watcher.look()] == ["in/a.png"]


def test_files_come_in_the_order_in_which_they_were_written(folder):
    for when, name in enumerate(("c.png", "a.png", "b.png"), 1):
        (folder / name).write_bytes(encoded(0))
        os.utime(folder / name, (when, when))
    assert [name for name, _ in Watch(folder).look()] == ["c.png", "a.png", "b.png"]


def test_a_folder_may_come_late_and_go_for_a_while(folder):
    watched = Watch(folder / "line")
    watched.look(3)
    assert watched.said == [f"{folder}/line: there is no such folder; waiting for it"]
    (folder / "line").mkdir()
    (folder / "line" / "a.png").write_bytes(encoded(0))
    watched.look(3)
    (folder / "line").rename(folder / "away")
    watched.look(3)
    (folder / "away").rename(folder / "line")
    assert watched.look(3) == [("a.png", True)]
    assert [sentence.split(": ")[1] for sentence in watched.said] == [
        "there is no such folder; waiting for it",
        "it can be read now",
    ] * 2


def test_what_is_listed_is_not_given_again_unless_it_changes(folder):
    for name in "abc":
        (folder / f"{name}.png").write_bytes(encoded(0) if name != "c" else b"junk")
    listed = {str(folder / "a.png"): False, str(folder / "b.png"): True, str(folder / "c.png"): True}
    watched = Watch(folder, listed=listed, patience=0.1)
    watched.look()
    time.sleep(0.15)
    assert watched.look(3) == [("b.png", True)]  # it was not whole then; c still is not, and has its row
    os.utime(folder / "a.png", ns=(1, 1))
    assert watched.look(3) == [("b.png", True), ("a.png", True)]


def test_a_name_that_is_not_utf8_is_found_in_the_list(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/\xe9.png")
    Path(path).write_bytes(encoded(0))
    for jsonl in (False, True):
        with writing(str(folder / "out"), jsonl=jsonl) as write:
            write(Row(path, 1.0))
        assert Watch(folder, listed=listed_rows(str(folder / "out"), jsonl=jsonl)).look() == []


def test_what_is_no_folder_is_refused(folder):
    (folder / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.png: --watch expected a folder, found a file"):
        Watcher([str(folder / "a.png")], print)
    with pytest.raises(UserError, match=r"^-: --watch expected a folder, found standard input"):
        Watcher(["-"], print)


def test_a_replaced_file_among_many_is_found(folder):
    for index in range(5000):
        (folder / f"{index}.png").touch()
    watcher = Watcher([str(folder)], print, listed={str(folder / f"{i}.png"): False for i in range(5000)})
    watcher.look()
    (folder / "4321.png").write_bytes(encoded(0))
    assert [arrival.path.name for _ in range(8) for arrival in watcher.look()][:1] == ["4321.png"]


def fill(folder, numbers):
    for number in numbers:
        (folder / f"{number:06}.jpg").touch()


def clear(folder, numbers):
    for number in numbers:
        (folder / f"{number:06}.jpg").unlink()


def given(watcher, looks=2):
    """The numbers of the files given in some looks; each counts as read."""
    numbers = []
    for _ in range(looks):
        for arrival in watcher.look():
            assert watcher.settle(arrival, readable=True)
            numbers.append(int(arrival.path.stem))
    return numbers


def test_memory_does_not_grow_with_the_files_that_came_and_went(folder, monkeypatch):
    monkeypatch.setattr("adkit.predict.watch.GONE", 200)
    watcher, taken = Watcher([str(folder)], print), []
    tracemalloc.start()
    try:
        for hour in range(15):
            numbers = range(200 * hour, 200 * hour + 200)
            fill(folder, numbers)
            assert sorted(given(watcher)) == list(numbers)
            clear(folder, numbers)
            traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/adkit/*")]).traces
            taken.append(sum(trace.size for trace in traces))
    finally:
        tracemalloc.stop()
    assert taken[-1] - taken[4] < 130_000  # to remember 2,000 names would take more than 400 kB


def test_a_file_that_went_and_came_back_is_given_again_only_if_it_changed(folder):
    fill(folder, [1, 2])
    watcher = Watcher([str(folder)], print)
    assert sorted(given(watcher)) == [1, 2]
    (folder / "away").mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        (folder / name).rename(folder / "away" / f"{name}.old")
    assert given(watcher) == []
    for name in ("000001.jpg", "000002.jpg"):
        (folder / "away" / f"{name}.old").rename(folder / name)
    (folder / "000002.jpg").write_bytes(b"another")
    assert given(watcher, looks=4) == [2]


def test_the_files_that_were_read_last_are_remembered_when_they_are_gone(folder, monkeypatch):
    monkeypatch.setattr("adkit.predict.watch.GONE", 3)
    watcher = Watcher([str(folder)], print)
    for number in range(7):
        fill(folder, [number])
        os.utime(folder / f"{number:06}.jpg", (1, 1))
        assert given(watcher) == [number]
    clear(folder, range(6))
    assert given(watcher) == []
    fill(folder, range(6))
    for number in range(6):
        os.utime(folder / f"{number:06}.jpg", (1, 1))
    assert given(watcher) == [0, 1, 2]


def test_files_that_are_there_are_remembered_however_many(folder, monkeypatch):
    monkeypatch.setattr("adkit.predict.watch.GONE", 1)
    other = folder.with_name("in2")
    other.mkdir()
    fill(folder, range(2000))
    fill(other, range(2000, 4000))
    watcher = Watcher([str(folder), str(other)], print)
    assert sorted(given(watcher)) == list(range(4000))
    assert given(watcher, looks=4) == []


@pytest.mark.parametrize("empty", [False, True])
def test_nothing_of_a_watched_folder_that_drops_out_is_forgotten(folder, monkeypatch, empty):
    """A drive that is not mounted leaves an empty folder, or none."""
    monkeypatch.setattr("adkit.predict.watch.GONE", 1)
    other, away = folder.with_name("other"), folder.with_name("away")
    other.mkdir()
    fill(folder, range(10))
    watcher = Watcher([str(folder), str(other)], lambda sentence: None)
    assert sorted(given(watcher)) == list(range(10))
    folder.rename(away)
    if empty:
        folder.mkdir()
    for number in range(10, 20):  # the other folder goes on
        fill(other, [number])
        assert given(watcher) == [number]
        clear(other, [number])
    if empty:
        folder.rmdir()
    away.rename(folder)
    assert given(watcher, looks=4) == []


@pytest.mark.parametrize("jsonl", [False, True])
def test_a_watch_that_is_begun_again_gives_nothing_twice(folder, monkeypatch, jsonl):
    """Its rows have more files that are gone than are remembered."""
    monkeypatch.setattr("adkit.predict.watch.GONE", 100)
    output = str(folder.with_name("out"))
    for begin in (0, 1000, 2000):
        fill(folder, range(begin, begin + 1000))
        watcher = Watcher([str(folder)], print, listed=listed_rows(output, jsonl=jsonl))
        with writing(output, jsonl=jsonl, append=True) as write:
            numbers = given(watcher)
            for number in numbers:
                write(Row(str(folder / f"{number:06}.jpg"), 1.0))
        assert sorted(numbers) == list(range(begin, begin + 1000))
        assert given(watcher) == []
        clear(folder, range(begin, begin + 500))


def test_a_file_whose_size_cannot_be_asked_for_hides_no_other(folder):
    fill(folder, range(20))
    (folder / "000020.jpg").symlink_to("000020.jpg")  # a link to itself
    fill(folder, range(21, 40))
    said = []
    assert sorted(given(Watcher([str(folder)], said.append))) == [*range(20), *range(21, 40)]
    (sentence,) = said
    assert sentence.startswith(f"{folder}: it cannot be read: ")


class Camera(threading.Thread):
    """Writes files as cameras and copying programs do: at once, in pieces with pauses, under another name first."""

    def __init__(self, folder, count, longest, seed=0):
        super().__init__()
        self._folder, self._count, self._longest = folder, count, longest
        self._random = random.Random(seed)

    def run(self):
        for index in range(self._count):
            time.sleep(self._random.uniform(0, self._longest / 4))
            format = self._random.choice(["PNG", "JPEG", "BMP"])
            path = self._folder / f"{index % 7}" / f"{index:03}.{format.lower()}"
            path.parent.mkdir(exist_ok=True)
            self._random.choice([self._at_once, self._in_pieces, self._renamed])(path, encoded(index, format))

    def _at_once(self, path, data):
        path.write_bytes(data)

    def _in_pieces(self, path, data):
        cuts = [0, *sorted(self._random.sample(range(1, len(data)), 3)), len(data)]
        with path.open("wb", buffering=0) as file:
            for begin, end in pairwise(cuts):
                file.write(data[begin:end])
                time.sleep(self._random.uniform(0, self._longest))

    def _renamed(self, path, data):
        part = path.with_name(self._random.choice([f".{path.name}", f"{path.name}.part", f"{path.name}.tmp"]))
        self._in_pieces(part, data)
        part.rename(path)


@pytest.mark.slow
def test_a_hundred_files_at_random_times_are_each_given_once(folder):
    camera, watched = Camera(folder, 100, longest=0.03), Watch(folder)
    camera.start()
    while camera.is_alive():
        watched.look(1)
        time.sleep(0.01)
    watched.look(3)
    assert sorted(int(Path(name).stem) for name, _ in watched.rows) == list(range(100))
    assert all(readable for _, readable in watched.rows)


@pytest.mark.parametrize("jsonl", [False, True])
def test_rows_are_continued_whatever_was_cut_off(tmp_path, jsonl):
    """However much of the last row is on the disk, the others are listed and a new one follows in its place."""
    rows = [Row("a.png", 1.0), Row('b "\n.png', 2.0, 0.5, True), Row("c.png", error="broken"), Row("d.png", 3.0)]
    output = str(tmp_path)
    with writing(output, jsonl=jsonl) as write:
        for row in rows:
            write(row)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    expected = {"a.png": False, 'b "\n.png': False, "c.png": True}
    assert listed_rows(output, jsonl=jsonl) == {**expected, "d.png": False}
    last = whole.index(b'{"path": "d' if jsonl else b"d.png")
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end] + b"\0" * (end % 2))
        assert listed_rows(output, jsonl=jsonl) == expected
        with writing(output, jsonl=jsonl, append=True) as write:
            write(rows[3])
        assert path.read_bytes() == whole


def test_a_header_that_was_cut_off_is_written_again(tmp_path):
    (tmp_path / "predictions.csv").write_text("path,sc")
    assert listed_rows(str(tmp_path), jsonl=False) == {}
    with writing(str(tmp_path), jsonl=False, append=True) as write:
        write(Row("a.png", 1.0))
    assert listed_rows(str(tmp_path), jsonl=False) == {"a.png": False}


@pytest.mark.parametrize(("text", "jsonl"), [("a,b\n", False), ("[1]\n", True), ("path\n" * 3, False), ("x\n", True)])
def test_a_file_of_something_else_is_refused(tmp_path, text, jsonl):
    path = tmp_path / ("predictions.jsonl" if jsonl else "predictions.csv")
    path.write_text(text)
    with pytest.raises(UserError, match="expected the rows of an earlier watch by this version, found b'"):
        listed_rows(str(tmp_path), jsonl=jsonl)
    assert path.read_text() == text


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run on eight small images."""
    root = tmp_path_factory.mktemp("run")
    (root / "parts" / "good").mkdir(parents=True)
    for index in range(8):
        (root / "parts" / "good" / f"{index}.png").write_bytes(encoded(1000 + index))
    recipe = {
        "run": {"name": "small", "output": str(root / "runs"), "device": "cpu", "precision": "float32"},
        "data": {"format": "folder", "root": str(root / "parts"), "normal": "good", "image_size": 32},
        "extractor": {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["layer1"]},
        "scorer": {"use": "knn", "k": 1},
        "localizer": {"use": "bilinear"},
    }
    return Path(adkit.run(recipe).folder)


def test_rows_are_those_of_the_detector(fitted, folder):
    for index in range(20):
        (folder / f"{index:02}.png").write_bytes(encoded(index))
        os.utime(folder / f"{index:02}.png", (index, index))
    detector = Detector.load(fitted, "cpu")
    rows = list(islice(watch(detector, Watcher([str(folder)], print), lambda: False), 20))
    expected = detector.predict(sorted(folder.iterdir()))
    assert [Path(row.path).name for row in rows] == [f"{index:02}.png" for index in range(20)]
    np.testing.assert_allclose([row.score for row in rows], expected.scores, rtol=1e-5)


def test_a_batch_in_hand_is_finished(fitted, folder):
    for index in range(20):
        (folder / f"{index:02}.png").write_bytes(encoded(index))
    asked = threading.Event()
    rows = watch(Detector.load(fitted, "cpu"), Watcher([str(folder)], print), asked.is_set)
    next(rows)
    asked.set()
    assert len(list(rows)) == 15


def command(fitted, folder, output, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "adkit", "predict", fitted, folder, "--watch", "--output", output, *options],
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_of(output, jsonl):
    """Those that are whole."""
    path = output / ("predictions.jsonl" if jsonl else "predictions.csv")
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if line.endswith("\n")]
    return [json.loads(line) for line in lines] if jsonl else list(csv.DictReader(lines))


def wait_for_rows(least, process, output, jsonl, seconds=120):
    deadline = time.monotonic() + seconds
    while len(rows_of(output, jsonl)) < least:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("jsonl", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM)])
def test_a_watch_that_is_killed_and_begun_again_has_one_row_a_file(fitted, folder, tmp_path, jsonl, number):
    output, options = tmp_path / "out", ["--jsonl"] if jsonl else []
    camera = Camera(folder, 16, longest=0.4)
    camera.start()
    process = command(fitted, folder, output, *options)
    wait_for_rows(5, process, output, jsonl)
    process.kill()
    process.communicate()
    (path,) = (path for path in output.iterdir() if path.name != LOCK)  # the lock of who was killed lies there
    os.truncate(path, path.stat().st_size - 7)  # what a power failure leaves of the last row
    process = command(fitted, folder, output, *options)
    camera.join()
    wait_for_rows(16, process, output, jsonl)
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].endswith(" anomalous, 0 unreadable")
    rows = rows_of(output, jsonl)
    assert sorted(int(Path(row["path"]).stem) for row in rows) == list(range(16))
    assert list(output.iterdir()) == [path]
    assert all(row["score"] for row in rows)
