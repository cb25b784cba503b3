"""``[data] range`` from the recipe to the detector: a run, what it leaves and what is done with that see the same."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import adkit
from adkit import Detector
from adkit.cli.check import check
from adkit.cli.main import main
from adkit.detector.manifest import read_manifest
from adkit.export.export import export
from adkit.predict.predict import watch
from adkit.predict.watch import Watcher
from tests.recipe.small import write_small
from tests.runner.score_rows import scores
from tests.runner.test_resume import go_on, interrupt, outcome


def deepened(folder: Path, kind: Any = np.uint16) -> None:
    """Make the images below a folder gray, with the raw values 800 to 1,200 for 0 to 255."""
    for path in folder.rglob("*.png"):
        if "ground_truth" not in path.parts:
            gray = np.asarray(Image.open(path).convert("L"), np.float64)
            Image.fromarray(np.rint(800 + gray * 400 / 255).astype(kind)).save(path)


def deep_recipe(folder: Path) -> dict[str, Any]:
    """The smallest recipe with images of 16 bits, which use a part of them."""
    recipe = write_small(folder)
    recipe["data"]["range"] = "auto"
    deepened(folder / "data")
    return recipe


@pytest.fixture(scope="module")
def deep_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[adkit.Report, Path]:
    """A run of that, and the folder of its images."""
    folder = tmp_path_factory.mktemp("deep")
    return adkit.run(deep_recipe(folder)), folder / "data"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_run_the_detector_and_the_command_give_the_same_scores(deep_run, capsys, tmp_path) -> None:
    report, data = deep_run
    run = scores(report)
    paths = [data / id for id in run]
    expected = list(run.values())
    detector = Detector.load(report.folder, "cpu")
    np.testing.assert_allclose(detector.predict(paths).scores, expected, rtol=1e-5)
    np.testing.assert_allclose(detector.predict([pixels(path) for path in paths]).scores, expected, rtol=1e-5)
    np.testing.assert_allclose(detector.predict([Image.open(path) for path in paths]).scores, expected, rtol=1e-5)
    for kind in (np.int16, np.int32, np.float32, np.float64):
        arrays = [pixels(path).astype(kind) for path in paths]
        np.testing.assert_allclose(detector.predict(arrays).scores, expected, rtol=1e-5)
    assert main(["predict", report.folder, *map(str, paths), "--output", str(tmp_path)]) == 0
    with (tmp_path / "predictions.csv").open(newline="") as file:
        np.testing.assert_allclose([float(row["score"]) for row in csv.DictReader(file)], expected, rtol=1e-5)


def test_a_watch_gives_the_same_score(deep_run, tmp_path) -> None:
    report, data = deep_run
    id, score = next(iter(scores(report).items()))
    shutil.copy(data / id, tmp_path / "a.png")
    row = next(iter(watch(Detector.load(report.folder, "cpu"), Watcher([str(tmp_path)], print), lambda: False)))
    assert row.score == pytest.approx(float(score), rel=1e-5)


def test_the_range_is_in_the_report_and_the_detector(deep_run) -> None:
    report, data = deep_run
    values = [pixels(path) for path in (data / "stripes/train/good").iterdir()]
    low, high = report.categories["stripes"].range
    assert min(map(np.min, values)) <= low < high <= max(map(np.max, values))
    assert adkit.Report.load(Path(report.folder) / "report.json").categories["stripes"].range == (low, high)
    manifest = read_manifest(Path(report.folder) / "detector" / "manifest.json")
    assert manifest.preprocessing.range == Detector.load(report.folder).view.range == (low, high)


def test_the_range_brings_back_what_8_bits_show(deep_run, small_run) -> None:
    """Images of 0 to 255, brought to 800 to 1,200: the range of 400 values undoes it but for rounding."""
    report, data = deep_run
    detector = Detector.load(report.folder, "cpu")
    low, high = detector.view.range
    path = data / "stripes/test/square/000.png"
    seen = 255 * (pixels(path).astype(np.float64) - low) / (high - low)
    assert seen.max() - seen.min() > 100  # of 255, where a division by 257 leaves less than 2
    eight = Image.fromarray(np.rint(seen.clip(0, 255)).astype(np.uint8))
    assert detector.predict(eight).scores[0] == pytest.approx(detector.predict(path).scores[0], rel=0.02)


def test_a_test_image_beyond_the_range_is_clipped(deep_run) -> None:
    report, data = deep_run
    detector = Detector.load(report.folder, "cpu")
    low, high = detector.view.range
    inside = pixels(data / "stripes/test/square/000.png").astype(np.int32)
    beyond, clipped = inside.copy(), inside.clip(int(low), int(high))
    beyond[:9], clipped[:9] = 1_000_000, int(high)
    beyond[-9:], clipped[-9:] = -5, int(low)
    assert detector.predict(beyond).scores == detector.predict(clipped).scores != detector.predict(inside).scores


def test_a_range_of_numbers_is_taken_as_it_is(tmp_path) -> None:
    recipe = deep_recipe(tmp_path)
    recipe["data"]["range"] = [790, 1300.5]
    report = adkit.run(recipe)
    assert report.categories["stripes"].range == Detector.load(report.folder).view.range == (790, 1300.5)
    again = adkit.run(Path(report.folder) / "recipe.toml", output=tmp_path / "again")
    assert scores(again) == scores(report)


def test_floats_outside_0_to_1_are_read(tmp_path) -> None:
    recipe = write_small(tmp_path)
    for path in (tmp_path / "data").rglob("*.png"):
        if "ground_truth" not in path.parts:
            gray = np.asarray(Image.open(path).convert("L"), np.float32)
            Image.fromarray(gray * 10 - 700).save(path.with_suffix(".tif"))
            path.unlink()
    recipe["data"]["range"] = "auto"
    report = adkit.run(recipe)
    assert (report.images.unreadable, report.images.train) == (0, 6)
    assert Detector.load(report.folder).view.range == report.categories["stripes"].range


def test_categories_have_detectors_of_their_own_ranges(tmp_path) -> None:
    recipe = deep_recipe(tmp_path)
    recipe["data"]["calibration"] = 0  # else each keeps other images back
    shutil.copytree(tmp_path / "data/stripes", tmp_path / "data/other")
    for path in (tmp_path / "data/other").rglob("*.png"):
        if "ground_truth" not in path.parts:
            Image.fromarray(pixels(path) + np.uint16(5000)).save(path)
    report = adkit.run(recipe)
    low, high = report.categories["stripes"].range
    assert report.categories["other"].range == (low + 5000, high + 5000)
    for name, category in report.categories.items():
        assert Detector.load(Path(report.folder) / "detector" / name).view.range == category.range
    stripes, other = (scores(report, category=name).values() for name in ("stripes", "other"))
    np.testing.assert_array_equal(list(stripes), list(other))


def test_an_interrupted_run_of_classes_goes_on_with_the_same_range(classes, tmp_path) -> None:
    deepened(tmp_path / "classes")
    classes["data"]["range"] = "auto"
    undisturbed = adkit.run(classes, output=tmp_path / "whole")
    interrupt(classes, "fit", "red")
    resumed, _ = go_on(classes)
    assert outcome(resumed) == outcome(undisturbed)
    assert len({category.range for category in resumed.categories.values()}) == 1
    run = scores(resumed, category="red")
    found = Detector.load(Path(resumed.folder) / "detector" / "red", "cpu").predict(
        [tmp_path / "classes" / id for id in run]
    )
    np.testing.assert_allclose(found.scores, list(run.values()), rtol=1e-5)


def test_a_run_whose_range_changed_is_not_gone_on_with(tmp_path, monkeypatch) -> None:
    recipe = deep_recipe(tmp_path)
    shutil.copytree(tmp_path / "data/stripes", tmp_path / "data/zebra")
    interrupt(recipe, "fit", "zebra")
    monkeypatch.setattr("adkit.data.ranges.OUTLIERS", 5)
    with pytest.raises(adkit.UserError, match=r"found that the range of raw values changed: stripes was \["):
        go_on(recipe)


def test_check_tells_the_range(tmp_path) -> None:
    recipe = deep_recipe(tmp_path)
    recipe["data"]["calibration"] = 0
    for number, path in enumerate(sorted((tmp_path / "data/stripes/train/good").iterdir())):
        Image.fromarray(np.full((8, 8), 800 + number, np.uint16)).save(path)
    assert "  stripes: raw values from 800 to 807 become 0 to 255\n" in check(recipe)


def test_check_looks_at_features_by_the_range(tmp_path, capsys) -> None:
    recipe = deep_recipe(tmp_path)
    for path in (tmp_path / "data/stripes/train").rglob("*.png"):
        Image.fromarray(pixels(path).astype(np.float32) * 100).save(path.with_suffix(".tif"))
        path.unlink()
    text = check(recipe, contact_sheet=tmp_path / "sheet.png")
    assert "no sign of near copies" in text  # and not that no image can be read, which ends the check


def test_auxiliary_images_are_read_by_the_range_of_the_data(tmp_path) -> None:
    recipe = deep_recipe(tmp_path)
    del recipe["localizer"]
    random = np.random.default_rng(0)
    (tmp_path / "other/good").mkdir(parents=True)
    for number in range(4):
        values = random.uniform(700, 1300, (48, 48)).astype(np.float32)  # floats that only a range takes
        Image.fromarray(values).save(tmp_path / f"other/good/{number}.tif")
    (tmp_path / "other/good/notes.txt").touch()
    recipe["extractor"]["levels"] = ["layer1"]
    recipe |= {
        "adapter": {"use": "fcdd", "channels": 2},
        "training": {"batch_size": 4, "minibatches": 1},
        "scorer": {"use": "logit"},
        "auxiliary": {"format": "folder", "root": str(tmp_path / "other")},
    }
    report = adkit.run(recipe)
    assert not [text for text in report.warnings if "auxiliary" in text or "[data]" in text]
    assert report.passed_over == {".txt": 1}  # what lies among them is counted, too
    assert "auxiliary  4 images" in (text := check(recipe)) and "passed over 1 × .txt" in text


def test_heatmaps_are_drawn_over_what_the_detector_sees(deep_run, tmp_path) -> None:
    report, data = deep_run
    image = data / "stripes/test/good/000.png"
    assert main(["predict", report.folder, str(image), "--heatmaps", "--output", str(tmp_path)]) == 0
    (drawn,) = (tmp_path / "heatmaps").rglob("*.png")
    low, high = report.categories["stripes"].range
    expected = 255 * (pixels(image) - low) / (high - low)
    assert pixels(drawn).mean() == pytest.approx(expected.clip(0, 255).mean(), abs=40)  # not next to 4, by 257


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TorchScript's age
def test_an_exported_file_says_the_range_and_gives_the_same_score(deep_run, tmp_path) -> None:
    import torch

    report, data = deep_run
    image = data / "stripes/test/square/000.png"
    done = export(report.folder, "torchscript", tmp_path / "out", [image])
    assert done.parity.score < 1e-5
    statement = json.loads(done.statement.read_text())
    low, high = statement["preprocessing"]["range"]
    assert (low, high) == report.categories["stripes"].range
    assert (
        f"bring gray values v of more than 8 bits to 0 to 255 as 255 · (v - {low}) / ({high} - {low}), clipped, and "
        "leave those of 8 bits"
    ) in statement["preprocessing"]["steps"][0]
    # By what the statement says alone:
    gray = (255 * (pixels(image).astype(np.float64) - low) / (high - low)).clip(0, 255).astype(np.float32)
    resized = np.asarray(Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR)) / np.float32(255)
    score = torch.jit.load(done.file)(torch.from_numpy(resized).expand(1, 3, 64, 64))[0]
    assert float(score) == pytest.approx(float(scores(report)["stripes/test/square/000.png"]), rel=1e-4)
