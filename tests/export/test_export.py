"""Exported files give the detector's scores and maps, each run here by its own runtime, from ``model.json`` alone."""

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adkit
from adkit import Detector, UserError
from adkit.cli.main import main
from adkit.detector.load import load_detector
from adkit.export.export import LIMIT, export, warning
from adkit.export.graph import Graph
from adkit.export.parity import parity
from adkit.inference.pipeline import Pipeline
from tests.plugin.registries import install
from tests.recipe.small import write_small

FORMATS = ("onnx", "openvino", "torchscript")
POOLED = {"levels": ["pool"]}
ENSEMBLE = {"backbone": ["test_byobnet", "test_convnext"], "levels": ["stages.0", "stages.1"]}
ALL = {"levels": ["pool", "layer1", "layer2"]}
CASES = {
    "center": {"scorer": {"use": "center"}},
    "gaussian": {"scorer": {"use": "gaussian"}},
    "knn of pool": {"extractor": POOLED, "scorer": {"use": "knn"}},
    "ocsvm": {"extractor": ALL, "scorer": {"use": "ocsvm"}},
    "knn of levels": {"scorer": {"use": "knn", "k": 1}},
    "cosine": {"scorer": {"use": "knn", "metric": "cosine", "sample": 0.5}},
    "coreset": {"scorer": {"use": "knn", "k": 1, "coreset": 0.1, "reweight": 3}},
    "concat": {"features": {"combine": "concat", "neighborhood": 3, "channels": 20}},
    "standardized": {
        "features": {"standardize": "image"},
        "scorer": {"use": "gaussian", "aggregation": "max_less_median"},
    },
    "spade": {"extractor": ALL, "scorer": {"use": "spade", "retrieve": 3}},
    "spade of all": {"extractor": ALL, "scorer": {"use": "spade", "retrieve": 0, "combine": "concat"}},
    "spade of centroids": {"extractor": ALL, "scorer": {"use": "spade", "centroids": 2}},
    "some levels": {"extractor": ALL, "scorer": {"use": "gaussian", "levels": ["layer2", "pool"]}},
    "ensemble": {"extractor": ENSEMBLE},
    "ses": {
        "extractor": POOLED,
        "adapter": {"use": "ses", "blocks": 2},
        "training": {"batch_size": 2, "minibatches": 4, "snapshot_epochs": 0.5, "clip_norm": 1.0},
        "scorer": {"use": "knn", "k": 1},
    },
    "lite0": {"extractor": {"backbone": "tf_efficientnet_lite0", "weights": "packaged", "levels": ["blocks.1"]}},
}


def trained(recipe, **changes):
    """The folder of a run of the recipe with some tables changed."""
    for table, values in changes.items():
        recipe[table] = values if table == "scorer" else recipe.get(table, {}) | values
    return Path(adkit.run(recipe).folder)


@pytest.fixture(scope="module")
def centered(tmp_path_factory):
    """The folder of a run with scorer ``center``, for the tests that leave it as it is."""
    return trained(write_small(tmp_path_factory.mktemp("centered")), scorer={"use": "center"})


@pytest.fixture
def neighbors(small_run, tmp_path):
    """The folder of a run with scorer ``knn``, to export into."""
    return shutil.copytree(small_run.folder, tmp_path / "small")


def image_files(root):
    return sorted(root.glob("stripes/test/*/*.png"))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def outputs(file, statement, images):
    """What the runtime that the file is for makes of images, by name."""
    names = [output["name"] for output in statement["outputs"]]
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, {statement["input"]["name"]: images}), strict=True))
    if file.suffix == ".xml":
        import openvino

        compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled({statement["input"]["name"]: images})
        return {name: found[name] for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of TorchScript's age
        module = torch.jit.load(file)
    return dict(zip(names, (output.numpy() for output in module(torch.from_numpy(images))), strict=True))


def assert_equal_in_effect(file, statement, run, images):
    """One by one and together, with what the detector makes of the same images."""
    own = Detector.load(run, "cpu").predict(torch.from_numpy(images))
    for batch in (*images[:, None], images):
        found = outputs(file, statement, batch)
        first = next(index for index, image in enumerate(images) if np.array_equal(image, batch[0]))
        span = slice(first, first + len(batch))
        np.testing.assert_allclose(found["score"], own.scores[span], rtol=LIMIT)
        assert ("map" in found) == (own.maps is not None)
        if own.maps is not None:
            np.testing.assert_allclose(found["map"], own.maps[span], rtol=0, atol=LIMIT * np.abs(own.maps[span]).max())


FEWER = {"ses", "spade", "spade of all", "spade of centroids", "ensemble"}
"""Not written for OpenVINO, which is given the same recording as ONNX: exporting takes seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_format_gives_the_detectors_scores_and_maps(small_recipe, stripes, case):
    run = trained(small_recipe, **CASES[case])
    images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    for format in FORMATS:
        if format == "openvino" and case in FEWER:
            continue
        done = export(run, format, images=image_files(stripes)[:2], device="cpu")
        assert done.parity.largest <= LIMIT
        assert_equal_in_effect(done.file, json.loads(done.statement.read_text()), run, images)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_command_compares_on_photographs_and_says_no_more_than_it_must(small_recipe, stripes, tmp_path, format):
    run = trained(small_recipe, scorer={"use": "center"})
    command = [sys.executable, "-m", "adkit", "export", run, "--format", format, "--output", tmp_path / "out"]
    done = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith(str(tmp_path / "out" / "model."))
    assert second.startswith("largest relative deviation from the detector: score ")
    assert second.endswith("(8 images, in batches of 1 and 4)")


def test_the_statement_is_enough_to_use_the_file(neighbors, stripes):
    done = export(neighbors, "torchscript", images=image_files(stripes)[:1], device="cpu")
    told = json.loads(done.statement.read_text())
    assert told["files"] == [done.file.name]
    assert told["input"] == {"name": "images", "shape": ["n", 3, 64, 64], "dtype": "float32", "values": "RGB in [0, 1]"}
    assert [(output["name"], output["shape"]) for output in told["outputs"]] == [
        ("score", ["n"]),
        ("map", ["n", 64, 64]),
    ]
    assert told["parity"]["batch_sizes"] == [1, 2]
    side = told["preprocessing"]["image_size"]
    paths = image_files(stripes)
    small = [Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR) for path in paths]
    images = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in small])
    scores = outputs(done.file, told, images)["score"]
    held_out = np.array(told["calibration"])
    own = Detector.load(neighbors, "cpu").predict(paths)
    np.testing.assert_allclose(scores, own.scores, rtol=1e-5)
    assert (scores > told["threshold"]).tolist() == own.anomalous.tolist()
    p_values = [(1 + (held_out >= score).sum()) / (len(held_out) + 1) for score in scores]
    assert p_values == own.p_values.tolist()


def test_an_earlier_export_is_replaced_and_nothing_else_is(centered, stripes, tmp_path):
    out = tmp_path / "deep" / "out"
    for _ in range(2):
        export(centered, "torchscript", out, image_files(stripes)[:1], "cpu")
        assert files(tmp_path / "deep") == ["out", "out/model.json", "out/model.pt"]
    with pytest.raises(UserError, match="data: expected a new folder or one with an earlier export in it"):
        export(centered, "torchscript", stripes, image_files(stripes)[:1], "cpu")
    assert image_files(stripes)


def test_a_detector_with_exports_in_it_still_loads(neighbors, stripes):
    done = export(neighbors, "torchscript", images=image_files(stripes)[:1], device="cpu")
    assert done.file == neighbors / "detector" / "export" / "torchscript" / "model.pt"
    assert len(Detector.load(neighbors, "cpu").predict(image_files(stripes)[0])) == 1


def test_a_detector_of_reduced_precision_is_compared_twice(small_recipe, stripes):
    run = trained(small_recipe, run={"precision": "bfloat16"})
    done = export(run, "torchscript", images=image_files(stripes)[:2], device="cpu")
    assert done.precision == "bfloat16"
    assert done.parity.largest < 1e-5 < done.precision_parity.largest
    assert "computes in bfloat16 and the file in float32: they differ by score" in warning(done)
    assert json.loads(done.statement.read_text())["precision"] == {"detector": "bfloat16", "file": "float32"}


@pytest.mark.parametrize("fuse", ["mean", "max_ratio"])
def test_members_are_fused_as_the_path_does(small_recipe, fuse):
    loaded = load_detector(trained(small_recipe, extractor=ENSEMBLE), "cpu")
    own = loaded.pipeline
    pipeline = Pipeline(own.members, own.localizer, fuse).scaled([0.5, 2.0])
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = pipeline(images)
    with torch.no_grad():
        score, located = Graph(replace(loaded, pipeline=pipeline))(images)
    torch.testing.assert_close(score, expected.image)
    torch.testing.assert_close(located, pipeline.localize(expected, (64, 64)))


LIAR = """
import copy
import torch
from adkit.plugin import Component, Params, Scores, hookimpl

class Scorer:
    factor = 1.0

    def __init__(self, params, context):
        pass

    def fit(self, stream):
        pass

    def score(self, features):
        return {score}

    def for_export(self):
        other = copy.copy(self)
        other.factor = 1.01
        return other

    def state_dict(self):
        return {{"none": torch.zeros(1)}}

    def load_state_dict(self, state):
        pass

@hookimpl
def adkit_scorers():
    return [Component({name!r}, "scorer", Params, Scorer)]
"""


def strangers(folder, monkeypatch, name, score):
    install(folder, name, LIAR.format(name=name, score=score))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("format", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_file_that_deviates_is_refused_and_nothing_is_left(small_recipe, stripes, tmp_path, monkeypatch, format):
    strangers(tmp_path, monkeypatch, "liar", "Scores(self.factor * features['layer1'].mean((1, 2, 3)))")
    run = trained(small_recipe, scorer={"use": "liar"})
    before = files(run)
    with pytest.raises(UserError, match=r"deviate by at most 0\.001 of their size, found score 1\.0e-02: use another"):
        export(run, format, images=image_files(stripes), device="cpu")
    assert files(run) == before


NUMPY = "Scores(torch.from_numpy(features['layer1'].numpy().mean((1, 2, 3))))"
LOOP = "Scores(torch.stack([one.mean() for one in features['layer1']]))"


@pytest.mark.parametrize(
    ("format", "score", "sentence"),
    [
        (
            "onnx",
            NUMPY,
            r"scorer odd of odd 1\.0 \(odd_plugin\): expected torch operations that can be exp.*: \.numpy\(\)",
        ),
        ("onnx", LOOP, "format onnx: expected components that take any number of images, found one that counts"),
        ("torchscript", NUMPY, r"deviate by at most 0\.001 of their size, found score inf"),
        ("torchscript", LOOP, "expected a file that takes 4 images at once, found: RuntimeError: Expected 2"),
    ],
)
def test_what_cannot_be_recorded_is_refused(small_recipe, stripes, tmp_path, monkeypatch, format, score, sentence):
    strangers(tmp_path, monkeypatch, "odd", score)
    run = trained(small_recipe, scorer={"use": "odd"})
    before = files(run)
    with pytest.raises(UserError, match=sentence):
        export(run, format, images=image_files(stripes), device="cpu")
    assert files(run) == before


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_told_before_any_work(monkeypatch, capsys, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "no detector", "--format", format]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"found no {package}: pip install 'adkit-ignite[{format}]'" in sentence


def test_an_unknown_format_is_refused(capsys):
    with pytest.raises(SystemExit) as status:
        main(["export", "no detector", "--format", "tflite"])
    assert status.value.code == 2
    assert "onnx" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"format: expected onnx or openvino or torchscript, found 'onx' \(did you mean"
    ):
        export("no detector", "onx")


def test_a_detector_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--format", "torchscript"]) == 2
    assert "expected the manifest of a detector, found no file" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named(centered, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    before = files(centered)
    with pytest.raises(UserError, match=r"broken\.png: expected an image that can be read"):
        export(centered, "torchscript", images=[tmp_path / "broken.png"], device="cpu")
    assert files(centered) == before


@pytest.fixture
def loaded(centered):
    return load_detector(centered, "cpu")


def altered(loaded, score=1.0, drawn=0.0):
    """What a file would do whose scores are ``score`` times the detector's, with ``drawn`` added to one pixel."""
    graph = Graph(loaded)

    def run(images):
        with torch.no_grad():
            image, located = graph(torch.from_numpy(images))
        located[:, 5, 7] += drawn
        return (score * image).numpy(), located.numpy()

    return run


def test_parity_is_relative_to_the_size_of_a_score(loaded, stripes):
    found = parity(altered(loaded, score=1.02), loaded, image_files(stripes)[3:])
    assert (found.images, found.batch_sizes) == (3, (1, 3))
    assert found.score == pytest.approx(0.02, rel=1e-3)
    assert found.map < 1e-5


def test_a_map_deviates_by_its_worst_pixel(loaded, stripes):
    paths = image_files(stripes)[:1]
    largest = float(Detector(loaded).predict(paths).maps.max())
    size = max(largest, loaded.pixel_threshold.value)
    found = parity(altered(loaded, drawn=0.1 * largest), loaded, paths)
    assert found.map == pytest.approx(0.1 * largest / size, rel=1e-3)
    assert found.largest == found.map


def test_what_is_not_a_number_is_no_parity(loaded, stripes):
    found = parity(altered(loaded, score=math.nan), loaded, image_files(stripes)[:2])
    assert math.isnan(found.largest)


@pytest.mark.slow
def test_openvino_reports_to_nobody(tmp_path):
    code = "from adkit.export.formats import FORMATS; FORMATS['openvino'].open('none.xml')"
    watch = "import sys; print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    program = f"try:\n    {code}\nexcept RuntimeError as error:\n    assert 'none.xml' in str(error)\n{watch}"
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # where it keeps quiet anyway
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from adkit.cli.main import command
sys.argv = ["adkit", *sys.argv[1:]]
command()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX's")
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_a_sentence_and_nothing_is_left(small_run, tmp_path, format):
    """TorchScript and OpenVINO write their files from C++; torch aborts the process where that fails."""
    output = tmp_path / "out"
    options = ("export", small_run.folder, "--format", format, "--output", str(output))
    done = subprocess.run([sys.executable, "-c", FULL, *options], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"{output}: expected a folder that the export can be written to, found: File too large; free some space or "
        "choose another --output"
    )
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_goes_with_the_next(small_run, tmp_path):
    left = tmp_path / ".out.abcdefgh.partial"
    (left / "new").mkdir(parents=True)
    (left / "lock").touch()
    (left / "new" / "model.pt").touch()
    export(small_run.folder, "torchscript", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
