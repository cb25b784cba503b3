"""The main job as the README promises it: real images, real weights, no hub."""

from pathlib import Path

import pytest

import adkit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(textures, tmp_path_factory):
    return adkit.run(ROOT / "recipes" / "quickstart.toml", [f"data.root={textures}"], tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_quickstart_finds_the_defective_images(report):
    assert report.mean["image_auroc"] >= 0.90


@pytest.mark.slow
def test_quickstart_finds_where_they_are_defective(report):
    assert report.mean["pixel_auroc"] >= 0.95


@pytest.mark.slow
def test_quickstart_has_a_row_a_texture(report):
    assert list(report.categories) == ["brick", "grass", "gravel"]


@pytest.mark.slow
def test_quickstart_warns_of_nothing(report):
    assert report.warnings == []


@pytest.mark.slow
def test_reduced_precision_moves_image_auroc_by_at_most_two_thousandths(report, textures, tmp_path):
    other = "float32" if report.precision == "bfloat16" else "bfloat16"
    changes = [f"data.root={textures}", f"run.precision={other}", "run.synthetic=0"]
    found = adkit.run(ROOT / "recipes" / "quickstart.toml", changes, tmp_path)
    assert {report.precision, found.precision} == {"float32", "bfloat16"}
    assert found.mean["image_auroc"] == pytest.approx(report.mean["image_auroc"], abs=0.002)
