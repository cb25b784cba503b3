"""`adkit predict` gives the run's scores, row by row, whatever lies between the images."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.cli.main import main
from adkit.detector.regions import Region
from adkit.predict.predict import PageWatch, find_images, heatmaps_of, watch
from adkit.predict.rows import Row, writing
from adkit.predict.watch import Watcher
from tests.cli.commands import BOTH
from tests.cli.commands import adkit as adkit_command
from tests.data.image_files import save, square
from tests.recipe.small import write_small
from tests.runner.score_rows import scores


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run on images as those of ``stripes``, with the rate that two calibration images support."""
    recipe = write_small(tmp_path_factory.mktemp("small"), threshold={"false_positive_rate": 0.34})
    return Path(adkit.run(recipe).folder)


def read(done):
    """How a prediction ended, and the rows that it printed."""
    return done, list(csv.DictReader(io.StringIO(done.stdout)))


def predicted(*arguments, **options):
    return read(adkit_command("predict", *arguments, **options))


@BOTH
def test_a_folder_gives_the_scores_of_the_run(command, fitted, stripes):
    done, rows = read(command("predict", fitted, stripes / "stripes" / "test"))
    assert done.returncode == 0, done.stderr
    found = {Path(row["path"]).relative_to(stripes).as_posix(): float(row["score"]) for row in rows}
    assert found == pytest.approx(scores(fitted), rel=1e-5)


def test_an_unreadable_image_has_a_row_and_stops_nobody(fitted, stripes):
    folder = stripes / "stripes" / "test" / "good"
    (folder / "001.png").write_bytes(b"junk")
    done, rows = predicted(fitted, folder)
    assert done.returncode == 0
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "3 images" in done.stderr
    assert "1 unreadable" in done.stderr


def test_a_sixteen_bit_image_scores_as_it_does_from_python(fitted, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (48, 48), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "sixteen.png")
    _, rows = predicted(fitted, tmp_path / "sixteen.png")
    expected = adkit.Detector.load(fitted).predict(tmp_path / "sixteen.png").scores[0]
    assert float(rows[0]["score"]) == pytest.approx(float(expected), rel=1e-6)


def test_fail_on_anomaly_exits_3(fitted, stripes):
    done, rows = predicted(fitted, stripes / "stripes" / "test", "--fail-on-anomaly")
    assert any(row["anomalous"] == "1" for row in rows)
    assert done.returncode == 3


def test_a_list_on_standard_input(fitted, stripes):
    image = stripes / "stripes" / "test" / "good" / "000.png"
    _, rows = predicted(fitted, "-", input=f"{image}\n\n")
    assert [row["path"] for row in rows] == [str(image)]


def test_jsonl_into_a_folder(fitted, stripes, tmp_path):
    predicted(fitted, stripes / "stripes" / "test" / "square", "--jsonl", "--output", tmp_path / "out")
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"path", "score", "p_value", "anomalous", "regions"}] * 3


def test_find_images_in_folders_files_globs_and_lines(tmp_path):
    names = ["a/1.png", "a/b/2.jpg", "3.bmp", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = [str(tmp_path / "a"), str(tmp_path / "3.bmp"), str(tmp_path / "**" / "*.jpg"), "-"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(paths, [f"{tmp_path / 'x.png'}\n"])]
    assert found == ["a/1.png", "a/b/2.jpg", "3.bmp", "a/b/2.jpg", "x.png"]


def with_masks(folder):
    """Three images of noise, of which two have a mask beside them."""
    random = np.random.default_rng(0)
    for name in "abc":
        save(folder / f"{name}.png", random.integers(1, 250, (48, 40), np.uint8))
    for name in "ab":
        save(folder / f"{name}_mask.png", square((48, 40), 3, 3, 9))
    return folder


def test_masks_beside_the_images_of_a_folder_are_left_out_and_told(fitted, tmp_path):
    folder = with_masks(tmp_path / "in")
    done, rows = predicted(fitted, folder)
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert done.stderr.splitlines()[0] == (
        f"{folder}: 2 masks lie beside the images and are left out, unless they are named: {folder / 'a_mask.png'} of "
        f"a.png, {folder / 'b_mask.png'} of b.png"
    )


def test_a_mask_that_is_named_is_scored(tmp_path):
    folder, told = with_masks(tmp_path), []
    paths = [str(folder / "a_mask.png"), str(folder / "*_mask.png")]
    found = [path.name for path in find_images(paths, [], say=told.append)]
    assert (found, told) == (["a_mask.png", "a_mask.png", "b_mask.png"], [])


def test_pages_of_which_the_first_is_scored_are_told_once(fitted, tmp_path):
    pages = [Image.new("L", (40, 48), value) for value in (10, 90, 200)]
    for name in ("a.tif", "b.tif", "c.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    done, rows = predicted(fitted, tmp_path)
    assert len(rows) == 3
    assert [line for line in done.stderr.splitlines() if "pages" in line] == [
        f"{tmp_path / 'a.tif'}: it has 3 pages or frames, of which the first alone is scored, as of every such file: "
        "save each that shows a part as a file of its own"
    ]


def test_pages_are_told_by_a_watch_too(fitted, tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (40, 48)).save(tmp_path / "in/a.tif", save_all=True, append_images=[Image.new("L", (40, 48), 9)])
    told = []
    watcher = Watcher([str(tmp_path / "in")], print)
    next(iter(watch(Detector.load(fitted), watcher, lambda: False, None, PageWatch(told.append))))
    assert [text.partition(": ")[2][:29] for text in told] == ["it has 2 pages or frames, of "]


@pytest.mark.parametrize("name", ["nowhere", "*.png", "empty"])
def test_a_path_with_no_image(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected a"):
        list(find_images([str(tmp_path / name)], []))


def test_a_row_is_on_disk_when_it_is_written(tmp_path):
    with writing(str(tmp_path), jsonl=False) as write:
        write(Row("a.png", 1.5, 0.25, True))
        assert (tmp_path / "predictions.csv").read_text() == (
            "path,score,p_value,anomalous,regions,error\na.png,1.5,0.25,1,,\n"
        )


def test_regions_are_json_in_a_cell_and_a_list_in_a_line(tmp_path):
    row = Row("a.png", 1.5, regions=(Region(1, 2, 3, 4, 0.5),))
    expected = [{"x": 1, "y": 2, "width": 3, "height": 4, "peak": 0.5}]
    for jsonl in (False, True):
        with writing(str(tmp_path), jsonl=jsonl) as write:
            write(row)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert json.loads(next(csv.DictReader(file))["regions"]) == expected
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["regions"] == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told(tmp_path):
    (tmp_path / "predictions.csv").symlink_to("/dev/full")
    with (
        pytest.raises(UserError, match=r"predictions\.csv: expected a file that can be written, found: No space left"),
        writing(str(tmp_path), jsonl=False),
    ):
        pass


def test_heatmaps_are_drawn_for_every_image_and_not_read_again(fitted, stripes):
    folder = stripes / "stripes" / "test"
    for _ in range(2):
        done, rows = predicted(fitted, folder, "--heatmaps", "--output", folder / "out")
        assert done.returncode == 0, done.stderr
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = {path.relative_to(folder / "out" / "heatmaps") for path in (folder / "out" / "heatmaps").rglob("*.png")}
    assert {Path(row["path"]).relative_to(folder) for row in rows} == {path.with_suffix("") for path in drawn}
    assert len(rows) == 6


def test_heatmaps_need_an_output_and_maps(fitted, small_recipe, stripes):
    image = stripes / "stripes" / "test" / "good" / "000.png"
    detector = Detector.load(fitted)
    with pytest.raises(UserError, match=r"^--heatmaps: expected a folder to write to, found none; give one with"):
        heatmaps_of(detector, "name", None, [str(image)])
    small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe["run"]["name"] = "pooled"
    pooled = Detector.load(adkit.run(small_recipe).folder)
    with pytest.raises(UserError, match=r"^name: --heatmaps expected a detector that says where"):
        heatmaps_of(pooled, "name", "out", [str(image)])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [(["in"], "x.png.png"), (["in/x.png"], "in/x.png.png"), (["in", "b"], "in/x.png.png"), (["*/*"], "in/x.png.png")],
)
def test_heatmaps_are_named_below_the_one_folder_or_the_current_one(fitted, tmp_path, monkeypatch, paths, expected):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/x.png").touch()
    heatmaps = heatmaps_of(Detector.load(fitted), "name", "out", paths)
    assert heatmaps.path_of(Path("in/x.png")) == Path("out/heatmaps") / expected


def test_fail_on_anomaly_is_refused_beside_watch(tmp_path):
    done, _ = predicted(tmp_path, tmp_path, "--watch", "--fail-on-anomaly")
    assert done.returncode == 2
    assert "--fail-on-anomaly: expected a prediction that ends by itself, found --watch" in done.stderr


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="expected a file that can be written"),
        writing(os.fspath(tmp_path / "file"), jsonl=False),
    ):
        pass


def test_fail_on_anomaly_exits_4_where_an_image_cannot_be_judged(fitted, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"junk")
    assert predicted(fitted, tmp_path / "broken.png", "--fail-on-anomaly")[0].returncode == 4
    assert predicted(fitted, tmp_path / "broken.png")[0].returncode == 0


@pytest.fixture
def tree(tmp_path):
    for name in ("a/deep/one.png", "b/two.png", "b/notes.txt", "three.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "tree"


def found(paths, lines=()):
    return sorted(path.name for path in find_images(map(str, paths), lines))


def test_a_glob_looks_into_the_folders_that_it_matches(tree):
    assert found([f"{tree}/*"]) == ["one.png", "three.png", "two.png"]
    assert found([f"{tree}/**"]) == ["one.png", "three.png", "two.png"]


def test_a_glob_passes_over_what_is_no_image_and_says_when_nothing_is_left(tree):
    assert found([f"{tree}/b/*"]) == ["two.png"]
    with pytest.raises(UserError, match="a glob that matches some, found nothing there"):
        found([f"{tree}/b/*.txt"])


def test_a_folder_on_a_line_is_looked_through(tree):
    assert found(["-"], [f"{tree}/b\n", "\n", f"{tree}/three.png\n"]) == ["three.png", "two.png"]


def test_a_threshold_given_is_used_and_promises_nothing(fitted, stripes):
    folder = stripes / "stripes" / "test"
    done, rows = predicted(fitted, folder, "--threshold", "13.6")
    assert done.stderr.startswith("threshold 13.6: nothing is promised about how often a new normal image is called ")
    assert [row["anomalous"] == "1" for row in rows] == [float(row["score"]) > 13.6 for row in rows]
    done, rows = predicted(fitted, folder, "--threshold", "-1", "--fail-on-anomaly")
    assert {row["anomalous"] for row in rows} == {"1"}
    assert done.returncode == 3


def test_a_rate_given_is_used_and_its_promise_told(fitted, stripes):
    manifest = json.loads((fitted / "detector" / "manifest.json").read_text())
    low = min(manifest["calibration"])
    done, rows = predicted(fitted, stripes / "stripes" / "test", "--false-positive-rate", "0.7")
    assert done.stderr.splitlines()[0] == (
        f"threshold {low:.6g}: a new normal image is called anomalous with a chance of at most 0.7"
    )
    assert [row["anomalous"] == "1" for row in rows] == [np.float32(row["score"]) > np.float32(low) for row in rows]


def test_a_rate_that_cannot_be_kept_and_two_thresholds_are_told(fitted, stripes):
    folder = stripes / "stripes" / "test"
    done, _ = predicted(fitted, folder, "--false-positive-rate", "0.01")
    assert "at most 0.333; 0.01 was asked for, which takes 99 calibration scores instead of 2" in done.stderr
    done, _ = predicted(fitted, folder, "--false-positive-rate", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("false-positive rate: expected a number between 0 and 1, both excluded, found 2.0")
    done, _ = predicted(fitted, folder, "--false-positive-rate", "0.1", "--threshold", "1")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr


def test_a_recipe_may_set_the_threshold(small_recipe, stripes):
    small_recipe["threshold"] = {"value": 13.6}
    report = adkit.run(small_recipe)
    threshold = report.categories["stripes"].threshold
    assert (threshold.value, threshold.false_positive_rate_asked) == (13.6, None)
    assert threshold.promise.startswith("nothing is promised about how often a new normal image is called anomalous")
    assert not any("cannot promise" in text for text in report.warnings)
    detector = Detector.load(report.folder)
    assert detector.threshold == 13.6
    assert detector.pixel_threshold == report.categories["stripes"].pixel_threshold.value
    with (Path(report.folder) / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["anomalous"] == "1" for row in rows] == [float(row["score"]) > 13.6 for row in rows]


def test_a_recipe_may_set_the_threshold_without_calibration_images(small_recipe):
    small_recipe["threshold"] = {"value": 13}
    small_recipe["data"]["calibration"] = 0
    report = adkit.run(small_recipe)
    threshold = report.categories["stripes"].threshold
    assert (threshold.value, threshold.false_positive_rate_supported, threshold.calibration_images) == (13, None, 0)
    detector = Detector.load(report.folder)
    assert (detector.threshold, detector.pixel_threshold) == (13, None)


@pytest.mark.parametrize("name", ["line 3.mp4", "A.MOV"])
def test_a_video_is_refused_with_the_line_that_takes_its_frames(fitted, tmp_path, name):
    video = tmp_path / name
    video.write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41")
    done, rows = predicted(fitted, video)
    quoted = f"'{video}'" if " " in name else video
    assert (done.returncode, rows) == (2, [])
    assert done.stderr == (
        f"{video}: expected images, found a video; take its frames and name their folder: mkdir frames && ffmpeg -i "
        f"{quoted} frames/%06d.png\n"
    )


def test_a_video_among_images_is_a_row(fitted, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81")
    done, rows = predicted(fitted, tmp_path / "a.png")
    assert done.returncode == 0
    assert (
        f"it is a video, from which mkdir frames && ffmpeg -i {tmp_path / 'a.png'} frames/%06d.png takes the frames"
        in (rows[0]["error"])
    )


def test_a_folder_that_is_written_to_is_left_out_by_whatever_link(tmp_path):
    for name in ("real/a.png", "real/out/heatmaps/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / "day").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in ("real", "cam", "link"):
        found = find_images([str(tmp_path / root)], [], tmp_path / "real" / "out")
        assert [path.name for path in found] == ["a.png"]


def test_a_path_that_is_refused_leaves_earlier_rows(small_run, tmp_path):
    (tmp_path / "predictions.csv").write_text("earlier rows\n")
    arguments = ["predict", str(small_run.folder), str(tmp_path / "gone"), "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert (tmp_path / "predictions.csv").read_text() == "earlier rows\n"
