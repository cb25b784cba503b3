"""Nothing that was altered, damaged or forged is taken for a detector, and the sentence names the file."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

from adkit import Detector, UserError
from adkit.detector.load import load_detector
from adkit.detector.manifest import LIMIT, digest_of
from adkit.plugin.registry import Failure, Registry, discover


@pytest.fixture
def folder(small_run, tmp_path):
    """A detector of 64-pixel images through random weights, to be damaged."""
    return shutil.copytree(Path(small_run.folder) / "detector", tmp_path / "small" / "detector")


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

    def fitting(values):
        change(values)
        for name, entry in values["files"].items():
            if (folder / name).is_file():
                data = (folder / name).read_bytes()
                entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    forge_manifest(folder, fitting)


def forge_manifest(folder, change):
    """Rewrite the manifest with its own digest alone."""
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    del values["digest"]
    change(values)
    file.write_text(json.dumps(values | {"digest": digest_of(values)}))


def forge_tensors(folder, change, file="scorer.safetensors"):
    tensors = safetensors.torch.load_file(folder / file)
    changed = change(dict(tensors))
    safetensors.torch.save_file(tensors if changed is None else changed, folder / file)
    forge(folder, lambda values: None)


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
        ('{"schema": "adkit.report/2"}', "found 'adkit.report/2'"),
        (
            '{"schema": "adkit.detector/2"}',
            "found 'adkit.detector/2'; it was made by an earlier adkit: run the recipe again",
        ),
        ('{"schema": "adkit.detector/6"}', "load it with the version of adkit that wrote it"),
        ("[" * 100_000, "expected JSON"),
        ('{"schema": "adkit.detector/5", "seed": 1e999}', "expected the values of a detector"),
        ('{"schema": "adkit.detector/5", "digest": 3}', "found another"),
        ("\udcff", "expected JSON"),
    ],
    ids=["empty", "list", "report", "older", "newer", "deep", "infinite", "digest", "bytes"],
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
        values["members"][0]["file"] = name
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
    refused(folder, "scorer.safetensors", "expected safetensors, found something else")


def test_a_pickle_is_not_run(folder):
    marker = folder / "ran"

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save(Runs(), folder / "scorer.safetensors")
    forge(folder, lambda values: None)
    refused(folder, "scorer.safetensors", "expected safetensors, found something else")
    assert not marker.exists()


def test_an_unknown_key_is_refused(folder):
    forge(folder, lambda values: values.update(run="rm"))
    refused(folder, "manifest.json", "run: Extra inputs are not permitted")


def test_a_threshold_without_calibration_is_refused(folder):
    forge(folder, lambda values: values.update(calibration=[]))
    refused(folder, "manifest.json", "expected calibration scores with a threshold")


def test_scores_beyond_float32_are_refused(folder):
    forge(folder, lambda values: values.update(calibration=[1e300]))
    refused(folder, "manifest.json", "calibration.0")


def test_other_levels_than_the_extractor_gives_are_refused(folder):
    forge(folder, lambda values: values["extractors"][0]["levels"]["layer1"].update(channels=65))
    refused(folder, "manifest.json", "expected the levels")


# Size ----------------------------------------------------------------------------------------------------


def free(monkeypatch, gigabytes):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gigabytes * 1e9)))


def enlarge(values, side):
    """What an attacker would change so that images of another size fit together."""
    by = side / values["preprocessing"]["crop"]
    values["preprocessing"].update(image_size=side, crop=side)
    for level in values["extractors"][0]["levels"].values():
        level["grid"] = [round(cells * by) for cells in level["grid"]]


def test_a_forged_image_size_is_refused_before_memory_is_taken(folder, monkeypatch):
    free(monkeypatch, 30)
    forge(folder, lambda values: enlarge(values, 8192))
    refused(folder, "manifest.json: an image of 8192 × 8192 pixels needs 34.4 GB of memory and 30.0 GB is free")


def test_an_image_that_is_larger_than_its_crop_counts_as_a_whole(folder, monkeypatch):
    free(monkeypatch, 30)
    forge(folder, lambda values: values["preprocessing"].update(image_size=8192))
    refused(folder, "an image of 8192 × 8192 pixels")


def test_files_larger_than_the_memory_are_not_read(folder, monkeypatch):
    def grow(values):
        values["files"]["scorer.safetensors"]["bytes"] = 2 * 10**9

    forge_manifest(folder, grow)
    free(monkeypatch, 3)
    refused(folder, "bytes needs 4.0 GB of memory and 3.0 GB is free")


def test_a_network_far_larger_than_what_was_saved_is_not_built(folder):
    forge(
        folder, lambda values: values["extractors"][0]["component"]["params"].update(backbone="vit_giant_patch14_224")
    )
    refused(folder, "manifest.json", "found: a network of more than", "bytes, of which", "were saved")


# Words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "x" * 10_000])
def test_what_a_forger_writes_is_shown_as_one_short_line(folder, text):
    forge(folder, lambda values: values["extractors"][0]["component"]["params"].update(backbone=text))
    sentence = refused(folder, "manifest.json")
    assert sentence.isprintable()
    assert len(sentence) < 1000


@pytest.mark.parametrize("name", ["x; rm -rf .", "--index-url=http://e", "a b", ""])
@pytest.mark.parametrize("key", ["distribution", "version"])
def test_no_command_hides_in_what_is_to_be_installed(folder, key, name):
    forge(folder, lambda values: values["scorer"].update({key: name}))
    refused(folder, "manifest.json", f"scorer.{key}: String should match pattern")


# Plugins -------------------------------------------------------------------------------------------------


def test_a_missing_plugin_is_named_with_its_command(folder):
    forge(folder, lambda values: values["scorer"].update(distribution="adkit-extra", version="1.2"))
    refused(folder, "expected scorer knn of adkit-extra 1.2", "not installed", "pip install adkit-extra==1.2")


def test_a_broken_plugin_says_why(folder):
    known = discover()
    knn = known.get("scorer", "knn")
    others = [entry for kind in ("extractor", "localizer") for entry in known.found(kind)]
    with pytest.raises(UserError, match=r"found that adkit-ignite .*: no module torch: pip install adkit-ignite=="):
        load_detector(folder, "cpu", Registry(others, [Failure(knn.origin, "no module torch")]))


def test_another_version_is_taken_with_a_warning(folder, stripes, caplog):
    forge(folder, lambda values: values["scorer"].update(version="0.0.7"))
    Detector.load(folder, "cpu")
    assert "saved by scorer knn of adkit-ignite 0.0.7" in caplog.text


def test_another_version_that_refuses_the_parameters_is_named(folder):
    forge(
        folder,
        lambda values: values["scorer"].update(version="0.0.7", params={"neighbors": 3}),
    )
    refused(folder, "knn of adkit-ignite 0.0.7", "neighbors: unknown key", "pip install adkit-ignite==0.0.7")


def test_parameters_that_the_component_refuses_are_named(folder):
    forge(folder, lambda values: values["extractors"][0]["component"]["params"].update(backbone="resnet"))
    refused(folder, "manifest.json", "extractor timm of adkit-ignite", "'resnet'")
