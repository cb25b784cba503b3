"""Runtimes: taken only where they agree with torch, converted once, and the same for a run and its detector."""

from __future__ import annotations

import gc
import logging
import shutil
import signal
import zipfile
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from torch import Tensor, nn

import adkit
from adkit.detector.load import _compare_with_origin, load_detector
from adkit.detector.manifest import read_manifest
from adkit.errors import UserError
from adkit.export.export import export
from adkit.inference.conversion import CONVERSIONS, LevelsOf
from adkit.inference.kept import RUNTIMES, kept_files
from adkit.inference.runtimes import Wanted, choose, installed, probe_images, usable, version_of, wanted
from adkit.plugin import Context, Extractor, Geometry, Level
from adkit.utils.signals import handling
from tests.cli.commands import adkit as command
from tests.recipe.small import write_small

SIZE = (32, 32)
CONTEXT = Context(image_size=SIZE)
OPENVINO = Wanted(("openvino",))
OPENVINO_OR_ERROR = Wanted(("openvino",), required=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADKIT_CACHE_GB", "1")
    monkeypatch.delenv("ADKIT_RUNTIME")


class Means(Extractor):
    """Mean colors of four quarters, scaled."""

    def __init__(self, scale: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.register_buffer("scale", torch.tensor(scale))
        self.eval()

    @property
    def levels(self) -> dict[str, Level]:
        return {"colors": Level(3, (2, 2), Geometry.covering((2, 2), SIZE))}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"colors": nn.functional.avg_pool2d(images, 16).permute(0, 2, 3, 1) * self.scale}


class Looking(Means):
    """One that looks at its images, as no recorded network can."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return super().forward(images if images.max() < 0.5 else images / 2)


class Otherwise(Means):
    """One whose author exports another network."""

    def for_export(self) -> Extractor:
        return Means(1.001)


class Nearly(Means):
    """One whose author exports a network that differs by half of what is allowed."""

    def for_export(self) -> Extractor:
        return Means(1.00005)


def timm(precision: Any = "float32") -> tuple[TimmExtractor, Context]:
    context = Context(image_size=(64, 64), precision=precision)
    params = TimmParams(backbone="test_resnet", weights="none", levels=("layer1", "pool"))
    return TimmExtractor(params, context).for_inference(), context


@pytest.fixture(scope="module")
def by_openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run by OpenVINO, for tests that only look at it; its data lies beside its folder's."""
    return Path(adkit.run(run_tables(write_small(tmp_path_factory.mktemp("small")), runtime="openvino")).folder)


def run_tables(recipe: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return recipe | {"run": recipe["run"] | keys}


@pytest.mark.parametrize("name", ["openvino", "onnx"])
@pytest.mark.parametrize("images", [1, 3])
def test_a_runtime_gives_the_levels_that_torch_gives(name: Any, images: int) -> None:
    extractor, context = timm()
    found = choose(extractor, context, Wanted((name,), required=True))
    drawn = torch.rand(images, 3, 64, 64)
    with torch.inference_mode():
        expected = extractor(drawn)
    assert found.name == name
    for level, value in found(drawn).items():
        assert value.shape == expected[level].shape
        assert torch.dist(value, expected[level]) <= 1e-5 * expected[level].norm()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_gives_the_levels_that_torch_gives() -> None:
    found = choose(Means(0.5), CONTEXT, Wanted(("compile",), required=True))
    for images in (1, 2, 5):
        drawn = torch.rand(images, 3, *SIZE)
        assert torch.allclose(found(drawn)["colors"], Means(0.5)(drawn)["colors"])


def test_bfloat16_comes_by_precision_alone() -> None:
    probe = probe_images((64, 64))
    exact, rounded = (choose(*timm(precision), OPENVINO_OR_ERROR)(probe)["layer1"].clone() for precision in PRECISIONS)
    with torch.inference_mode():
        expected = timm()[0](probe)["layer1"]
    assert torch.dist(exact, expected) <= 1e-5 * expected.norm()
    assert torch.dist(rounded, expected) > 1e-5 * expected.norm() or not native_bfloat16()


@pytest.mark.slow
def test_the_first_two_blocks_stay_in_float32() -> None:
    context = Context(precision="bfloat16")
    extractor = TimmExtractor(TimmParams(levels=("blocks.0", "pool")), context).for_inference()
    found = choose(extractor, context, OPENVINO_OR_ERROR)(probe_images((224, 224)))
    with torch.inference_mode():
        expected = extractor(probe_images((224, 224)))
    # Read out, they are rounded once; computed in bfloat16, they would be off by 0.028.
    assert torch.dist(found["blocks.0"], expected["blocks.0"]) <= 0.005 * expected["blocks.0"].norm()
    assert torch.dist(found["pool"], expected["pool"]) > 1e-3 * expected["pool"].norm() or not native_bfloat16()


PRECISIONS = ("float32", "bfloat16")


def native_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def test_what_cannot_be_recorded_is_computed_by_torch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "adkit"):
        assert choose(Looking(), CONTEXT, OPENVINO).name == "torch"
    assert "openvino is not taken" in caplog.text


@pytest.mark.parametrize(("extractor", "taken"), [(Nearly, "openvino"), (Otherwise, "torch")])
def test_features_may_differ_by_a_ten_thousandth(extractor: type[Means], taken: str) -> None:
    assert choose(extractor(), CONTEXT, OPENVINO).name == taken


def test_a_runtime_that_is_named_and_does_not_agree_is_an_error() -> None:
    with pytest.raises(UserError, match=r"run.runtime: .*agree with torch's, found: in float32 they differ by 1.0e-03"):
        choose(Otherwise(), CONTEXT, OPENVINO_OR_ERROR)


def converting(monkeypatch: pytest.MonkeyPatch, convert: Any) -> None:
    monkeypatch.setitem(CONVERSIONS, "openvino", replace(CONVERSIONS["openvino"], convert=convert))  # type: ignore[arg-type]


def never_converting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: LevelsOf) -> None:
        raise AssertionError("it is converted anew")

    converting(monkeypatch, refuse)


def test_a_conversion_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose(Means(), CONTEXT, OPENVINO)
    never_converting(monkeypatch)
    again = choose(Means(), CONTEXT, OPENVINO)
    assert torch.equal(first(probe_images(SIZE))["colors"].clone(), again(probe_images(SIZE))["colors"])


def test_that_it_is_not_taken_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(Looking(), CONTEXT, OPENVINO)
    never_converting(monkeypatch)
    assert choose(Looking(), CONTEXT, OPENVINO).name == "torch"


def test_other_weights_are_converted_anew() -> None:
    halved = choose(Means(0.5), CONTEXT, OPENVINO)
    whole = choose(Means(), CONTEXT, OPENVINO)
    assert torch.allclose(halved(torch.ones(1, 3, *SIZE))["colors"], torch.tensor(0.5))
    assert torch.allclose(whole(torch.ones(1, 3, *SIZE))["colors"], torch.tensor(1.0))
    assert len(kept_files(RUNTIMES)) == 2


class Louder(Means):
    """One that is made of a number that is neither a parameter nor a tensor."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: level * self.gain for name, level in super().forward(images).items()}


def test_what_no_key_knows_is_noticed_by_the_probe() -> None:
    white = torch.ones(1, 3, *SIZE)
    assert torch.allclose(choose(Louder(1.0), CONTEXT, OPENVINO_OR_ERROR)(white)["colors"], torch.tensor(1.0))
    assert torch.allclose(choose(Louder(2.0), CONTEXT, OPENVINO_OR_ERROR)(white)["colors"], torch.tensor(2.0))


class Remembering(Means):
    """One that keeps what it made of the first images."""

    seen: Tensor | None = None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.seen is None:
            self.seen = torch.ones(())
        return {name: level * self.seen for name, level in super().forward(images).items()}


def test_looking_at_a_network_leaves_nothing_in_it() -> None:
    extractor = Remembering()
    assert choose(extractor, CONTEXT, OPENVINO_OR_ERROR).name == "openvino"
    assert type(extractor.seen) is Tensor


class Counting(Means):
    """One that reads a number out of its images."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        white = int((images == 1).sum())
        return {name: level + white for name, level in super().forward(images).items()}


class Listing(Means):
    """One that reads numbers out of its images by what is no operator."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        white = sum(value == 1 for value in images.amin((1, 2, 3)).tolist())
        return {name: level + white for name, level in super().forward(images).items()}


class Brightening(Means):
    """One that does more where some of its images are bright."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        bright = (images.mean((1, 2, 3)) > 0.9).nonzero().flatten()
        if len(bright):
            images = images.index_add(0, bright, torch.ones_like(images[bright]))
        return super().forward(images)


class Wrapping(Means):
    """One that makes a tensor of another one's number."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        bright = torch.tensor([(images.mean((1, 2, 3)) > 0.9).any()])
        return super().forward(torch.where(bright, images + 1, images))


@pytest.mark.parametrize("reading", [Counting, Listing, Brightening, Wrapping])
def test_numbers_that_are_read_out_of_images_are_no_constants(reading: type[Means]) -> None:
    found = choose(reading(), CONTEXT, OPENVINO)
    white = torch.ones(1, 3, *SIZE)
    with torch.inference_mode():
        assert torch.equal(found(white)["colors"], reading()(white)["colors"])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), OSError(28, "No space left on device")]
)
def test_what_may_pass_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: LevelsOf) -> None:
        raise error

    with monkeypatch.context() as now:
        converting(now, fail)
        assert choose(Means(), CONTEXT, OPENVINO).name == "torch"
        with pytest.raises(UserError, match=r"^run\.runtime"):
            choose(Means(), CONTEXT, OPENVINO_OR_ERROR)
    assert choose(Means(), CONTEXT, OPENVINO).name == "openvino"


def test_a_cache_that_cannot_be_written_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose(Means(), CONTEXT, OPENVINO)

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("adkit.inference.kept.os.utime", refuse)
    never_converting(monkeypatch)
    assert choose(Means(), CONTEXT, OPENVINO).name == "openvino"
    assert "damaged" not in caplog.text


def test_a_damaged_conversion_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    choose(Means(), CONTEXT, OPENVINO)
    (path,) = kept_files(RUNTIMES)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert choose(Means(), CONTEXT, OPENVINO).name == "openvino"
    assert "damaged" in caplog.text
    with zipfile.ZipFile(path) as anew:
        assert anew.testzip() is None


def test_a_conversion_that_cannot_be_read_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(Means(), CONTEXT, OPENVINO)

    def failing(self: zipfile.ZipFile, name: str) -> bytes:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(zipfile.ZipFile, "read", failing)
    assert choose(Means(), CONTEXT, OPENVINO).name == "openvino"


def test_nothing_is_kept_where_nothing_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_CACHE_GB", "0")
    assert choose(Means(), CONTEXT, OPENVINO).name == "openvino"
    assert not kept_files()


def test_auto_is_openvino_before_onnx() -> None:
    assert wanted("auto", CONTEXT) == Wanted(("openvino", "onnx"))


def test_auto_is_only_what_computes_in_the_precision() -> None:
    assert wanted("auto", Context(precision="bfloat16")).names == ("openvino",)


def test_auto_on_a_gpu_is_torch() -> None:
    assert wanted("auto", Context(device="cuda")).names == ()


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_RUNTIME", "onnx")
    assert wanted("auto", CONTEXT).names == ("onnx",)


def test_what_the_environment_names_is_taken_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ADKIT_RUNTIME", "openvino")
    assert not wanted("auto", CONTEXT).required
    assert not caplog.text
    assert wanted("auto", Context(device="cuda")) == Wanted()
    assert "ADKIT_RUNTIME: expected one that computes on cuda, found openvino" in caplog.text


def test_what_the_environment_names_decides_the_precision(
    small_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADKIT_RUNTIME", "onnx")
    report = adkit.run(run_tables(small_recipe, runtime="auto", precision="auto"))
    assert report.precision == "float32"
    assert [name.split()[0] for name in report.runtimes] == ["onnx"]


def test_the_environment_names_no_other_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADKIT_RUNTIME", "opnvino")
    with pytest.raises(UserError, match=r"ADKIT_RUNTIME: expected .*, found 'opnvino' .*openvino"):
        wanted("auto", CONTEXT)


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (Context(device="cuda"), "expected one that computes on cuda, found onnx, which computes on cpu"),
        (Context(precision="bfloat16"), "expected one that computes in bfloat16, found onnx"),
    ],
    ids=["device", "precision"],
)
def test_a_runtime_that_cannot_compute_here_is_refused(context: Context, sentence: str) -> None:
    with pytest.raises(UserError, match=f"run.runtime: {sentence}"):
        wanted("onnx", context)


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == package else find(name))


def test_a_runtime_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino")
    with pytest.raises(UserError, match=r"found no openvino: pip install 'adkit-ignite\[openvino\]'"):
        wanted("openvino", CONTEXT)
    assert wanted("auto", CONTEXT).names == ("onnx",)
    assert usable("openvino", CONTEXT).names == ()


def test_versions_of_the_wanted_runtimes_are_told() -> None:
    assert installed(OPENVINO) == {"openvino": metadata.version("openvino")}


def test_a_package_may_come_in_a_distribution_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version_of("adkit_plugins") == metadata.version("adkit-ignite")
    assert version_of("there_is_none") == "unknown"


def test_the_probe_is_the_same_everywhere() -> None:
    probe = probe_images((8, 8))
    assert probe.shape == (3, 3, 8, 8)
    assert 0 <= probe.min() < 0.2 < 0.8 < probe.max() <= 1
    assert probe[0, 0, 0, :2].tolist() == pytest.approx([0.4552, 0.5852], abs=1e-4)


def test_a_run_its_detector_and_predict_compute_by_one_runtime(by_openvino: Path) -> None:
    name = f"openvino {metadata.version('openvino')}"
    report = adkit.Report.load(by_openvino / "report.json")
    assert report.runtimes == report.categories["stripes"].runtimes == [name]
    assert str(read_manifest(by_openvino / "detector" / "manifest.json").extractors[0].runtime) == name
    detector = load_detector(by_openvino, "cpu")
    assert {embedding.runtime.name for embedding in detector.pipeline.embeddings} == {"openvino"}
    rows = [line.split(",") for line in (by_openvino / "scores.csv").read_text().splitlines()[1:]]
    tested = {row[2]: float(row[6]) for row in rows if row[1] == "test"}
    data = by_openvino.parents[1] / "data"
    found = adkit.Detector(detector).predict([data / image for image in tested])
    np.testing.assert_allclose(found.scores, list(tested.values()), rtol=1e-5)


def scores_of(run: str | Path) -> list[float]:
    return [float(line.split(",")[6]) for line in (Path(run) / "scores.csv").read_text().splitlines()[1:]]


def test_onnx_computes_in_float32_where_the_precision_is_auto(small_recipe: dict[str, Any], by_openvino: Path) -> None:
    report = adkit.run(run_tables(small_recipe, runtime="onnx", precision="auto"))
    assert report.precision == "float32"
    np.testing.assert_allclose(scores_of(report.folder), scores_of(by_openvino), rtol=1e-4)


def test_a_detector_says_where_its_runtime_cannot_be_had(
    by_openvino: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide(monkeypatch, "openvino")
    detector = load_detector(by_openvino, "cpu")
    assert detector.pipeline.embeddings[0].runtime.name == "torch"
    probe = detector.probe
    assert probe is not None
    name = f"openvino {metadata.version('openvino')}"
    assert f"made by {name} there and are by torch {metadata.version('torch')} here" in caplog.text
    assert f"was {probe:.6g} and is" in caplog.text


@pytest.mark.parametrize(("share", "told"), [(1.0005, False), (1.01, True)])
def test_a_detector_says_where_its_scores_are_others(
    by_openvino: Path, caplog: pytest.LogCaptureFixture, share: float, told: bool
) -> None:
    file = by_openvino / "detector" / "manifest.json"
    manifest, detector = read_manifest(file), load_detector(by_openvino, "cpu")
    assert manifest.probe is not None
    _compare_with_origin(file, manifest, detector.pipeline.embeddings, share * manifest.probe)
    assert ("the score of a probe image was" in caplog.text) is told


def test_a_detector_of_torch_is_computed_by_torch(small_recipe: dict[str, Any], by_openvino: Path) -> None:
    report = adkit.run(run_tables(small_recipe, runtime="torch"))
    assert load_detector(Path(report.folder), "cpu").pipeline.embeddings[0].runtime.name == "torch"
    np.testing.assert_allclose(scores_of(report.folder), scores_of(by_openvino), rtol=1e-4)


def test_an_export_is_compared_with_torch_in_float32(by_openvino: Path, tmp_path: Path) -> None:
    assert export(by_openvino, "torchscript", tmp_path / "export").parity.largest < 1e-5


def test_classes_that_share_what_frozen_blocks_give_are_computed_by_torch(classes: dict[str, Any]) -> None:
    recipe = classes | {"adapter": {"use": "panda"}, "training": {"minibatches": 2, "batch_size": 4}}
    report = adkit.run(run_tables(recipe, runtime="auto"))
    assert {name.split()[0] for name in report.runtimes} == {"torch"}
    with pytest.raises(UserError, match=r"run\.runtime: expected auto or torch where classes share"):
        adkit.run(run_tables(recipe, runtime="openvino", name="other"))


def test_a_trained_extractor_is_converted(small_recipe: dict[str, Any]) -> None:
    recipe = small_recipe | {"adapter": {"use": "panda"}, "training": {"minibatches": 2, "batch_size": 4}}
    recipe["extractor"] = recipe["extractor"] | {"levels": ["pool"]}
    report = adkit.run(run_tables(recipe, runtime="openvino"))
    assert [name.split()[0] for name in report.runtimes] == ["openvino"]


def test_snapshots_are_computed_by_torch(small_recipe: dict[str, Any]) -> None:
    recipe = small_recipe | {"adapter": {"use": "ses"}, "training": {"minibatches": 2, "snapshot_epochs": 0.5}}
    recipe["extractor"] = recipe["extractor"] | {"levels": ["pool"]}
    with pytest.raises(UserError, match=r"run\.runtime: expected auto or torch with adapter ses, .* found openvino"):
        adkit.run(run_tables(recipe, runtime="openvino"))


def test_bad_runtimes_are_told_in_a_sentence(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    import tomli_w

    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(small_recipe))
    done = command("run", path, "--set", "run.runtime=openvin")
    assert done.returncode == 2
    assert "run.runtime" in done.stderr
    assert "openvino" in done.stderr


def test_signals_are_handled_once_a_network_of_openvino_is_gone() -> None:
    choose(Means(), CONTEXT, OPENVINO_OR_ERROR)
    gc.collect()
    taken: list[int] = []
    with handling(lambda number, frame: taken.append(number), signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
    assert taken == [signal.SIGTERM]


def test_a_network_of_levels_gives_them_in_their_order() -> None:
    extractor, _ = timm()
    with torch.inference_mode():
        layer1, pool = LevelsOf(extractor, (64, 64))(torch.rand(1, 3, 64, 64))
    assert layer1.shape[1:3] == (16, 16)
    assert pool.shape[1:3] == (1, 1)
