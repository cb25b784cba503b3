"""Whole runs on small images with a real backbone of random weights."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import adkit
from adkit import UserError
from adkit.data.masks import read_mask
from adkit.metrics import METRICS
from adkit.report.report import Report
from tests.data.categories import write_category
from tests.recipe.small import write_small_classes
from tests.runner.score_rows import rows


def test_a_run_leaves_its_files(small_run):
    assert sorted(path.name for path in Path(small_run.folder).iterdir()) == [
        "detector",
        "log.txt",
        "page",
        "recipe.toml",
        "report.html",
        "report.json",
        "scores.csv",
    ]


def test_report_json_is_the_report(small_run):
    assert Report.load(Path(small_run.folder) / "report.json") == small_run


def test_report_json_has_the_promised_keys(small_run):
    data = json.loads((Path(small_run.folder) / "report.json").read_text())
    promised = "schema name categories mean timings peak_memory_bytes versions seed device precision images warnings"
    assert set(promised.split()) <= set(data), "adkit/report/report.py: others read these keys; see docs/running.md"
    assert set(data["categories"]["stripes"]["metrics"]) == set(METRICS)
    assert set(data["mean"]) == {*METRICS, "sem"}
    assert data["schema"] == "adkit.report/3", "adkit/report/report.py: the schema changes with the keys' meaning"


def test_images_are_counted(small_run):
    counts = small_run.categories["stripes"].images
    assert counts.model_dump() == {
        "train": 6,
        "groups": None,
        "stopping": 0,
        "calibration": 2,
        "test_normal": 3,
        "test_anomalous": 3,
        "unreadable": 0,
    }


def test_metrics_are_those_of_the_scores_in_the_file(small_run):
    test = rows(small_run, split="test")
    expected = roc_auc_score([int(row["label"]) for row in test], [float(row["score"]) for row in test])
    assert small_run.categories["stripes"].metrics["image_auroc"] == pytest.approx(expected, abs=1e-12)


def test_the_same_recipe_twice_gives_the_same_bytes(small_recipe, small_run):
    one = Path(small_run.folder, "scores.csv").read_bytes()
    other = Path(adkit.run(small_recipe).folder, "scores.csv").read_bytes()
    assert one == other


def test_the_resolved_recipe_gives_the_same_scores(small_run, tmp_path):
    first = Path(small_run.folder)
    again = Path(adkit.run(first / "recipe.toml", output=tmp_path / "again").folder)
    assert (first / "scores.csv").read_bytes() == (again / "scores.csv").read_bytes()


def test_the_resolved_recipe_spells_out_defaults(small_run):
    folder = Path(small_run.folder)
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert recipe["data"]["resize"] == "squash"
    assert recipe["scorer"]["metric"] == "l2"
    assert recipe["threshold"]["false_positive_rate"] == 0.05


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_change_scores(small_recipe, small_run, batch_size):
    expected = np.array([float(row["score"]) for row in rows(small_run)])  # in batches of 4
    small_recipe["data"]["batch_size"] = batch_size
    found = np.array([float(row["score"]) for row in rows(adkit.run(small_recipe))])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_permuting_test_labels_changes_no_threshold(small_recipe, small_run, stripes):
    before = small_run.categories["stripes"].threshold.value
    test = stripes / "stripes" / "test"
    (test / "good").rename(test / "swap")
    (test / "square").rename(test / "good")
    (test / "swap").rename(test / "square")
    for mask in (stripes / "stripes" / "ground_truth" / "square").iterdir():
        mask.unlink()
    (stripes / "stripes" / "ground_truth" / "square").rmdir()
    (stripes / "stripes" / "ground_truth").rmdir()
    assert adkit.run(small_recipe).categories["stripes"].threshold.value == before


def test_too_few_calibration_images_are_told(small_run):
    threshold = small_run.categories["stripes"].threshold
    assert threshold.false_positive_rate_supported == pytest.approx(1 / 3)
    assert any("2 calibration images cannot promise a false-positive rate of 0.05" in w for w in small_run.warnings)


def test_the_false_alarms_seen_on_test_images_have_an_interval(small_run):
    threshold = small_run.categories["stripes"].threshold
    low, high = threshold.test_false_positive_interval
    assert 0 <= low <= threshold.test_false_positive_rate <= high <= 1


def test_no_calibration_no_threshold(small_recipe):
    small_recipe["data"]["calibration"] = 0
    report = adkit.run(small_recipe)
    assert report.categories["stripes"].threshold is None
    assert {row["split"] for row in rows(report)} == {"test"}


def test_a_broken_image_is_reported_and_left_out(small_recipe, stripes):
    broken = stripes / "stripes" / "test" / "good" / "001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    small_recipe["data"]["max_bad_share"] = 0.2
    report = adkit.run(small_recipe)
    assert [item.image for item in report.unreadable] == ["stripes/test/good/001.png"]
    assert report.categories["stripes"].images.test_normal == 2
    assert all(row["id"] != "stripes/test/good/001.png" for row in rows(report))


def test_a_broken_image_of_many_classes_is_listed_once(classes):
    (Path(classes["data"]["root"]) / "test" / "red" / "0.png").write_bytes(b"")
    classes["data"]["max_bad_share"] = 0.2
    report = adkit.run(classes)
    assert report.images.unreadable == 1
    assert [item.categories for item in report.unreadable] == [["blue", "green", "red"]]


def test_two_calibration_images_promise_one_in_three(small_run):
    threshold = small_run.categories["stripes"].threshold
    assert threshold.promise == "a new normal image is called anomalous with a chance of at most 0.333"
    assert not threshold.approximate


def test_pooled_images_that_are_parts_of_their_own_promise_the_same(small_recipe, small_run):
    small_recipe["threshold"] = {"method": "pooled"}
    found = adkit.run(small_recipe).categories["stripes"].threshold
    assert found.promise == small_run.categories["stripes"].threshold.promise
    assert not found.approximate


def test_masks_without_a_map_are_warned_of(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool"]
    assert any("name a spatial level" in warning for warning in adkit.run(small_recipe).warnings)


def test_defects_outside_the_crop_are_warned_of(small_recipe):
    small_recipe["data"]["crop"] = 8
    small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe["data"]["metric_size"] = 8
    warnings = adkit.run(small_recipe).warnings
    assert any("no anomalous pixel where the extractor looks" in text for text in warnings)


@pytest.mark.parametrize(("levels", "masks"), [(["layer1"], 3), (["pool"], 0)])
def test_masks_are_read_where_there_are_maps(small_recipe, monkeypatch, levels, masks):
    read = []
    monkeypatch.setattr("adkit.data.loader.read_mask", lambda *asked: read.append(asked) or read_mask(*asked))
    small_recipe["extractor"]["levels"] = levels
    adkit.run(small_recipe)
    assert len(read) == masks


def test_an_empty_mask_is_not_blamed_on_the_crop(small_recipe, stripes):
    mask = stripes / "stripes/ground_truth/square/001_mask.png"
    Image.new("L", (48, 48)).save(mask)
    warnings = adkit.run(small_recipe).warnings
    assert (
        f"stripes: 1 mask of anomalous images is empty: no value is above 0 ({mask}): draw the defects, or name other "
        "masks" in warnings
    )
    assert not any("where the extractor looks" in text for text in warnings)


def test_an_image_with_a_truncated_mask_counts_in_the_image_metrics_alone(small_recipe, stripes):
    whole = adkit.run(small_recipe)
    mask = stripes / "stripes/ground_truth/square/001_mask.png"
    mask.write_bytes(mask.read_bytes()[:-40])
    truncated = adkit.run(small_recipe)
    mask.unlink()
    (stripes / "stripes/test/square/001.png").unlink()
    without = adkit.run(small_recipe)
    of_whole, found, rest = (run.categories["stripes"] for run in (whole, truncated, without))
    assert found.images == of_whole.images
    assert found.metrics["image_auroc"] == of_whole.metrics["image_auroc"]
    assert found.metrics["pixel_auroc"] == rest.metrics["pixel_auroc"] != of_whole.metrics["pixel_auroc"]
    assert found.metrics["pixel_aupro"] == rest.metrics["pixel_aupro"]
    (warning,) = (text for text in truncated.warnings if "001_mask.png" in text)
    assert f"stripes/test/square/001.png: its mask {mask}: the file is truncated (" in warning


def test_what_is_passed_over_is_in_the_report(small_recipe, stripes):
    for name in ("notes.txt", "more.txt", ".DS_Store"):
        (stripes / "stripes/train/good" / name).touch()
    assert adkit.run(small_recipe).passed_over == {".txt": 2, "hidden": 1}


def test_a_single_override_may_be_a_string(small_recipe):
    assert adkit.run(small_recipe, "run.seed=7").seed == 7


def test_too_many_broken_images_stop_the_run(small_recipe, stripes, tmp_path):
    for path in (stripes / "stripes" / "test" / "good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="max_bad_share"):
        adkit.run(small_recipe)
    assert list((tmp_path / "runs").iterdir()) == []


def two_categories(root, unreadable):
    for name in ("a", "b"):
        write_category(root / name, train=20, good=0, bad=0, seed=ord(name))
    for index in range(unreadable):
        (root / "a" / "train" / "good" / f"{index:03}.png").write_bytes(b"")


def test_the_share_of_broken_images_is_that_of_the_whole_run(small_recipe, tmp_path):
    two_categories(tmp_path / "two", unreadable=2)
    small_recipe["data"] |= {"root": str(tmp_path / "two"), "max_bad_share": 0.05}
    assert adkit.run(small_recipe).images.unreadable == 2


def test_more_broken_images_than_the_share_of_the_whole_run(small_recipe, tmp_path):
    two_categories(tmp_path / "two", unreadable=3)
    small_recipe["data"] |= {"root": str(tmp_path / "two"), "max_bad_share": 0.05}
    with pytest.raises(UserError, match="3 of 40 images cannot be read"):
        adkit.run(small_recipe)


def test_no_readable_training_image_stops_the_run(small_recipe, stripes):
    for path in (stripes / "stripes" / "train" / "good").iterdir():
        path.write_bytes(b"")
    small_recipe["data"]["max_bad_share"] = 0.9
    with pytest.raises(UserError, match="expected at least one image that can be read, found none"):
        adkit.run(small_recipe)


def test_fewer_normal_images_than_k(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe["scorer"]["k"] = 50
    with pytest.raises(UserError, match=r"scorer\.k.*50"):
        adkit.run(small_recipe)


def test_the_same_file_in_training_and_test_is_warned_of(small_recipe, stripes):
    train = stripes / "stripes" / "train" / "good" / "000.png"
    (stripes / "stripes" / "test" / "good" / "copy.png").write_bytes(train.read_bytes())
    assert any("copy.png" in warning for warning in adkit.run(small_recipe).warnings)


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory):
    """One run of three classes for the tests that only look at it."""
    return adkit.run(write_small_classes(tmp_path_factory.mktemp("classes")))


def test_every_class_against_the_rest_is_a_row(classes_run):
    assert list(classes_run.categories) == ["blue", "green", "red"]
    assert classes_run.categories["red"].images.test_anomalous == 4


def test_every_class_extracts_each_image_once(classes_run):
    assert "extract" in classes_run.timings
    assert not (Path(classes_run.folder) / "features").exists()


def test_shared_features_give_the_scores_of_a_single_class(classes_run, classes):
    together = rows(classes_run, category="red")
    classes["data"]["normal"] = "red"
    alone = rows(adkit.run(classes))
    assert [row["id"] for row in together] == [row["id"] for row in alone] != []
    np.testing.assert_allclose(
        [float(row["score"]) for row in together], [float(row["score"]) for row in alone], rtol=1e-5
    )


def test_what_a_component_warns_of_is_in_the_report(small_recipe):
    small_recipe["scorer"] = {"use": "gaussian", "shrinkage": "none"}
    report = adkit.run(small_recipe)
    assert any(text.startswith("stripes: gaussian: level layer2") and "singular" in text for text in report.warnings)
