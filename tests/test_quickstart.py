"""The main job as the README promises it: real images, real weights, no hub."""

from pathlib import Path

import pytest

import adkit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    return adkit.run(ROOT / "recipes" / "quickstart.toml", [f"data.root={folder / 'textures'}"], folder / "runs")


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
def test_reduced_precision_moves_image_auroc_by_at_most_two_thousandths(report, tmp_path):
    means = {
        precision: adkit.run(
            ROOT / "recipes" / "quickstart.toml",
            [f"data.root={Path(report.folder).parents[1] / 'textures'}", f"run.precision={precision}"],
            tmp_path,
        ).mean["image_auroc"]
        for precision in ("float32", "bfloat16")
    }
    assert means["bfloat16"] == pytest.approx(means["float32"], abs=0.002)
