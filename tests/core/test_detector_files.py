"""A run's detector, saved and loaded: the same scores, and nothing that was altered is taken."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.loading import load_detector
from adkit.manifest import LIMIT, digest_of
from adkit.plugins import Failure, Registry, discover
from adkit.saving import detector_folders

SCORERS = {
    "knn": {"use": "knn", "k": 1},
    "cosine": {"use": "knn", "metric": "cosine", "centroids": 4},
    "center": {"use": "center"},
    "spade": {"use": "spade", "retrieve": 3},
    "spade of centroids": {"use": "spade", "centroids": 2},
}


def rows(run, split="test"):
    with (run / "scores.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def paths(run, root, split="test"):
    return [root / row["id"] for row in rows(run, split)]


@pytest.fixture
def saved(small_recipe):
    """The folder of a run of 64-pixel pictures through random weights."""
    return Path(adkit.run(small_recipe).folder)


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
    [{"channels": 10}, {"combine": "concat", "neighbourhood": 3, "channels": 20}, {"channels": [3, 1]}],
    ids=["drawn", "of concat", "named"],
)
def test_channels_are_those_that_were_drawn(small_recipe, stripes, features):
    small_recipe["features"] = features
    small_recipe["data"] |= {"resize": "pad", "crop": 56}
    run = Path(adkit.run(small_recipe).folder)
    found = Detector.load(run, "cpu").predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]


def test_packaged_weights_come_back_with_their_normalization(small_recipe, stripes):
    small_recipe["extractor"] = {"use": "timm", "levels": ["blocks.1"]}  # Lite 0, which has 0.5 for mean and std
    run = Path(adkit.run(small_recipe).folder)
    detector = Detector.load(run, "cpu")
    found = detector.predict(paths(run, stripes), batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in rows(run)]
    assert load_detector(run, "cpu").embedding.extractor.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_detector_needs_neither_recipe_nor_data_nor_weights(small_recipe, stripes, tmp_path):
    import timm

    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18", num_classes=7).state_dict(), weights)
    small_recipe["extractor"]["weights"] = str(weights)
    run = Path(adkit.run(small_recipe).folder)
    expected = [row["score"] for row in rows(run)]
    pictures = [Image.open(path).convert("RGB") for path in paths(run, stripes)]
    moved = tmp_path / "elsewhere"
    shutil.move(run / "detector", moved)
    shutil.rmtree(run)
    shutil.rmtree(stripes)
    weights.unlink()
    found = Detector.load(moved, "cpu").predict(pictures, batch_size=4)
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


def test_the_manifest_states_what_was_run(saved):
    values = json.loads((saved / "detector" / "manifest.json").read_text())
    assert values["schema"] == "adkit.detector/1"
    assert values["components"]["scorer"]["name"] == "knn"
    assert values["components"]["scorer"]["params"]["k"] == 1
    assert values["preprocessing"] == {"resize": "squash", "image_size": 64, "crop": 64}
    assert values["levels"]["layer1"]["grid"] == [16, 16]
    assert [str(np.float32(score)) for score in values["calibration"]] == [
        row["score"] for row in rows(saved, "calibration")
    ]
    assert values["members"][0]["scale"] == np.median(values["calibration"])


# What was altered --------------------------------------------------------------------------------------


def refused(folder, *parts):
    with pytest.raises(UserError) as failure:
        Detector.load(folder, "cpu")
    (sentence,) = failure.value.problems
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence
    return sentence


def forge(folder, change):
    """Rewrite the manifest with digests that fit, as an attacker would."""
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    del values["digest"]
    change(values)
    for name, entry in values["files"].items():
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    file.write_text(json.dumps(values | {"digest": digest_of(values)}))


def forge_tensors(folder, change, file="scorer.safetensors"):
    tensors = safetensors.torch.load_file(folder / file)
    changed = change(dict(tensors))
    safetensors.torch.save_file(tensors if changed is None else changed, folder / file)
    forge(folder, lambda values: None)


@pytest.fixture
def folder(saved):
    return saved / "detector"


@pytest.mark.parametrize("file", ["manifest.json", "extractor.safetensors", "scorer.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    refused(folder, file, "no file")


@pytest.mark.parametrize("file", ["extractor.safetensors", "scorer.safetensors"])
def test_a_truncated_file_is_named(folder, file):
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-1])
    refused(folder, file, f"expected the {len(data):,} bytes that the manifest states, found {len(data) - 1:,}")


@pytest.mark.parametrize("file", ["extractor.safetensors", "scorer.safetensors"])
@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_is_found(folder, file, place):
    data = bytearray((folder / file).read_bytes())
    data[place] ^= 1
    (folder / file).write_bytes(data)
    refused(folder, file, "altered or damaged")


@pytest.mark.slow
def test_a_flipped_bit_of_the_manifest_is_found_or_changes_nothing(folder, stripes):
    file = folder / "manifest.json"
    data, random = file.read_bytes(), np.random.default_rng(0)
    before = json.loads(data)
    for place, bit in zip(random.integers(0, len(data), 60), random.integers(0, 8, 60), strict=True):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        try:
            Detector.load(folder, "cpu")
        except UserError as error:
            said = str(error)
        else:
            said = f"{file}: the same" if json.loads(bytes(changed)) == before else ""  # white space
        assert said.startswith(str(file))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "expected JSON"),
        ("[1, 2]", "found a list"),
        ('{"schema": "adkit.report/1"}', "found 'adkit.report/1'"),
        ("[" * 100_000, "expected JSON"),
        ('{"schema": "adkit.detector/1", "seed": 1e999}', "expected the values of a detector"),
        ('{"schema": "adkit.detector/1", "digest": 3}', "found another"),
        ("\udcff", "expected JSON"),
    ],
    ids=["empty", "list", "report", "deep", "infinite", "digest", "bytes"],
)
def test_foreign_json_is_refused(folder, text, found):
    (folder / "manifest.json").write_text(text, errors="surrogateescape")
    refused(folder, "manifest.json", found)


def test_a_huge_manifest_is_not_read(folder):
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(LIMIT + 1)
    refused(folder, "manifest.json", f"expected at most {LIMIT:,} bytes")


@pytest.mark.parametrize(
    "name", ["../scorer.safetensors", "/etc/scorer.safetensors", "a\\b.safetensors", "scorer.pt", "a\n.safetensors"]
)
def test_names_that_could_lead_elsewhere_are_refused(folder, name):
    def change(values):
        values["members"][0]["scorer"] = name
        values["files"][name] = values["files"].pop("scorer.safetensors")

    forge(folder, change)
    refused(folder, "manifest.json", "String should match pattern")


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    shutil.move(folder / "scorer.safetensors", tmp_path / "scorer.safetensors")
    os.symlink(tmp_path / "scorer.safetensors", folder / "scorer.safetensors")
    refused(folder, "scorer.safetensors", "a link to")


def test_swapped_files_are_refused(folder):
    one, other = folder / "scorer.safetensors", folder / "extractor.safetensors"
    swap = folder / "swap"
    one.rename(swap)
    other.rename(one)
    swap.rename(other)
    refused(folder, "safetensors", "bytes that the manifest states")
    forge(folder, lambda values: None)
    refused(folder, "extractor.safetensors", "the tensors of its component")


def test_swapped_banks_are_refused(folder):
    def swap(tensors):
        return {"bank.layer1": tensors["bank.layer2"], "bank.layer2": tensors["bank.layer1"]}

    forge_tensors(folder, swap)
    refused(folder, "scorer.safetensors", "scorer knn of adkit")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("mean"), "found mean, a tensor that is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "found extra, a tensor that is not one of its own"),
        (
            lambda t: t.update(mean=torch.zeros(4, 1, 1)),
            "mean to be (3, 1, 1) float32, found (4, 1, 1) float32",
        ),
        (lambda t: t.update(mean=t["mean"].double()), "mean to be (3, 1, 1) float32, found (3, 1, 1) float64"),
        (lambda t: t["mean"].fill_(float("nan")), "expected mean to be finite, found NaN or inf"),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan"],
)
def test_tensors_that_are_not_the_extractors_are_refused(folder, change, found):
    def changed(tensors):
        change(tensors)
        return tensors

    forge_tensors(folder, changed, "extractor.safetensors")
    refused(folder, "extractor.safetensors", found)


def test_a_huge_shape_is_refused_before_memory_is_taken(folder):
    header = json.dumps({"bank.layer1": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    (folder / "scorer.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    forge(folder, lambda values: None)
    refused(folder, "scorer.safetensors", "expected safetensors, found what is none")


def test_a_pickle_is_not_run(folder):
    marker = folder / "ran"

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save(Runs(), folder / "scorer.safetensors")
    forge(folder, lambda values: None)
    refused(folder, "scorer.safetensors", "expected safetensors, found what is none")
    assert not marker.exists()


def test_an_unknown_key_is_refused(folder):
    forge(folder, lambda values: values.update(run="rm"))
    refused(folder, "manifest.json", "run: Extra inputs are not permitted")


def test_a_threshold_without_calibration_is_refused(folder):
    forge(folder, lambda values: values.update(calibration=[]))
    refused(folder, "manifest.json", "expected calibration scores beside a threshold")


def test_scores_beyond_float32_are_refused(folder):
    forge(folder, lambda values: values.update(calibration=[1e300]))
    refused(folder, "manifest.json", "calibration.0")


def test_other_levels_than_the_extractor_gives_are_refused(folder):
    forge(folder, lambda values: values["levels"]["layer1"].update(channels=65))
    refused(folder, "manifest.json", "expected the levels")


# Plugins -------------------------------------------------------------------------------------------------


def test_a_missing_plugin_is_named_with_its_command(folder):
    forge(folder, lambda values: values["components"]["scorer"].update(distribution="adkit-extra", version="1.2"))
    refused(folder, "expected scorer knn of adkit-extra 1.2", "not installed", "pip install adkit-extra==1.2")


def test_a_broken_plugin_says_why(folder):
    known = discover()
    knn = known.get("scorer", "knn")
    others = [entry for kind in ("extractor", "localizer") for entry in known.found(kind)]
    with pytest.raises(UserError, match=r"found that adkit .*: no module torch: pip install adkit=="):
        load_detector(folder, "cpu", Registry(others, [Failure(knn.origin, "no module torch")]))


def test_another_version_is_taken_with_a_warning(folder, stripes, caplog):
    forge(folder, lambda values: values["components"]["scorer"].update(version="0.0.7"))
    Detector.load(folder, "cpu")
    assert "saved by scorer knn of adkit 0.0.7" in caplog.text


def test_another_version_that_refuses_the_parameters_is_named(folder):
    forge(
        folder,
        lambda values: values["components"]["scorer"].update(version="0.0.7", params={"neighbours": 3}),
    )
    refused(folder, "knn of adkit 0.0.7", "neighbours: unknown key", "pip install adkit==0.0.7")


def test_parameters_that_the_component_refuses_are_named(folder):
    forge(folder, lambda values: values["components"]["extractor"]["params"].update(backbone="resnet"))
    refused(folder, "manifest.json", "extractor timm of adkit", "'resnet'")
