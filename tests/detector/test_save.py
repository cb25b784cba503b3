"""A run's detector, saved and loaded: the same scores, on a machine that has nothing but its folder."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.detector.load import load_detector
from adkit.detector.save import detector_folders
from tests.runner import score_rows

SCORERS = {
    "knn": {"use": "knn", "k": 1},
    "cosine": {"use": "knn", "metric": "cosine", "centroids": 4},
    "center": {"use": "center"},
    "spade": {"use": "spade", "retrieve": 3},
    "spade of centroids": {"use": "spade", "centroids": 2},
    "above the rest": {"use": "gaussian", "aggregation": "max_less_median"},
}


def rows(run, split="test"):
    return score_rows.rows(run, split=split)


def paths(run, root, split="test"):
    return [root / row["id"] for row in rows(run, split)]


@pytest.mark.parametrize("scorer", SCORERS)
def test_predict_gives_the_scores_of_the_run(small_recipe, stripes, scorer):
    small_recipe["scorer"] = SCORERS[scorer]
    small_recipe["extractor"]["levels"] = ["pool", "layer1", "layer2"]
    run = Path(adkit.run(small_recipe).folder)
    found = Detector.load(run, "cpu").predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]
    assert [f"{p:.6g}" for p in found.p_values] == [row["p_value"] for row in rows(run)]
    assert [str(int(a)) for a in found.anomalous] == [row["anomalous"] for row in rows(run)]
    one = Detector.load(run, "cpu").predict(paths(run, stripes), batch_size=1)
    np.testing.assert_allclose(one.scores, found.scores, rtol=1e-5)
    np.testing.assert_allclose(one.maps, found.maps, rtol=1e-4, atol=1e-5 * float(found.maps.max()))


@pytest.mark.parametrize(
    "features",
    [{"channels": 10}, {"combine": "concat", "neighborhood": 3, "channels": 20}, {"channels": [3, 1]}],
    ids=["drawn", "of concat", "named"],
)
def test_channels_are_those_that_were_drawn(small_recipe, stripes, features):
    small_recipe["features"] = features
    small_recipe["data"] |= {"resize": "pad", "crop": 56}
    run = Path(adkit.run(small_recipe).folder)
    found = Detector.load(run, "cpu").predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]


@pytest.mark.parametrize("standardize", ["image", "location"])
def test_a_detector_standardizes_features_as_the_run_did(small_recipe, stripes, standardize):
    plain = [row["score"] for row in rows(Path(adkit.run(small_recipe).folder))]
    small_recipe["features"] = {"standardize": standardize}
    run = Path(adkit.run(small_recipe).folder)
    found = Detector.load(run, "cpu").predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]
    assert [row["score"] for row in rows(run)] != plain


def test_packaged_weights_come_back_with_their_normalization(small_recipe, stripes):
    small_recipe["extractor"] = {"use": "timm", "levels": ["blocks.1"]}  # Lite 0, which has 0.5 for mean and std
    run = Path(adkit.run(small_recipe).folder)
    detector = Detector.load(run, "cpu")
    found = detector.predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]
    assert load_detector(run, "cpu").pipeline.embeddings[0].extractor.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_detector_needs_neither_recipe_nor_data_nor_weights(small_recipe, stripes, tmp_path):
    import timm

    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), weights)
    small_recipe["extractor"]["weights"] = str(weights)
    run = Path(adkit.run(small_recipe).folder)
    expected = [row["score"] for row in rows(run)]
    images = [Image.open(path).convert("RGB") for path in paths(run, stripes)]
    moved = tmp_path / "elsewhere"
    shutil.move(run / "detector", moved)
    shutil.rmtree(run)
    shutil.rmtree(stripes)
    weights.unlink()
    found = Detector.load(moved, "cpu").predict(images, batch_size=4)
    assert [str(score) for score in found.scores] == expected


def test_every_category_has_a_detector_of_its_own(small_recipe, stripes):
    shutil.copytree(stripes / "stripes", stripes / "Other stripes")
    run = Path(adkit.run(small_recipe).folder)
    folders = sorted((run / "detector").iterdir())
    assert [folder.name for folder in folders] == ["Other_stripes", "stripes"]
    assert [Detector.load(folder, "cpu").category for folder in folders] == ["Other stripes", "stripes"]
    one, other = (folder / "extractor.safetensors" for folder in folders)
    assert one.samefile(other)
    with pytest.raises(UserError, match=r"expected one detector, found 2 \(Other_stripes, stripes\)"):
        Detector.load(run)


def test_categories_become_plain_folders_of_their_own():
    folders = detector_folders(Path("run"), ["a/b", "a b", "A_B", "..", "ß"])
    assert [folder.name for folder in folders.values()] == ["a_b", "a_b-2", "A_B-3", "category", "_"]


def test_no_calibration_no_threshold_and_no_p_values(small_recipe, stripes):
    small_recipe["data"]["calibration"] = 0
    run = Path(adkit.run(small_recipe).folder)
    found = Detector.load(run, "cpu").predict(paths(run, stripes))
    assert (found.threshold, found.p_values, found.anomalous) == (None, None, None)


def test_the_manifest_states_what_was_run(small_run):
    saved = Path(small_run.folder)
    values = json.loads((saved / "detector" / "manifest.json").read_text())
    assert values["schema"] == "adkit.detector/5", "adkit/detector/manifest.py: SCHEMA changes with the files' meaning"
    assert values["scorer"]["name"] == "knn"
    assert values["scorer"]["params"]["k"] == 1
    assert values["preprocessing"] == {"resize": "squash", "image_size": 64, "crop": 64, "range": None}
    assert values["extractors"][0]["levels"]["layer1"]["grid"] == [16, 16]
    assert [str(np.float32(score)) for score in values["calibration"]] == [
        row["score"] for row in rows(saved, "calibration")
    ]
    assert values["members"][0]["scale"] == np.median(np.float32(values["calibration"]))


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_every_file_of_a_detector_can_be_read_by_those_whom_the_umask_lets(small_recipe):
    before = os.umask(0o027)
    try:
        folder = Path(adkit.run(small_recipe).folder)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert {"manifest.json", "extractor.safetensors", "scorer.safetensors", "report.json"} <= modes.keys()
    assert set(modes.values()) == {0o640}


def test_a_manifest_has_no_path_of_the_machine_that_made_it(small_recipe, tmp_path):
    weights = tmp_path / "weights of mine.safetensors"
    model = timm.create_model("test_resnet", pretrained=False)
    safetensors.torch.save_file(model.state_dict(), weights)
    small_recipe["extractor"]["weights"] = str(weights)
    folder = Path(adkit.run(small_recipe).folder)
    text = (folder / "detector" / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["extractors"][0]["component"]["params"]["weights"] == "weights of mine.safetensors"
    weights.unlink()
    Detector.load(folder)
