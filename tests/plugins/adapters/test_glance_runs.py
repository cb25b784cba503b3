"""Glancing at the Patch as a run: three stages in a row, killed in each of them, saved, loaded and exported."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adkit
import adkit.training.trainer
from adkit.export.export import LIMIT, export
from adkit.toolkit.cache import VARIABLE
from tests.data.categories import write_category
from tests.recipe.small import write_small
from tests.runner.test_resume import Watch, go_on, interrupt, outcome

STAGES = {"distillation": 2, "fine_tuning": 3}


def recipe(folder: Path, **extractor: Any) -> dict[str, Any]:
    write_category(folder / "others" / "dots", seed=5)
    tables: dict[str, Any] = write_small(
        folder,
        auxiliary={"format": "mvtec", "root": str(folder / "others")},
        extractor={"use": "glance", "patches": 3} | extractor,
        adapter={"use": "glance", "teacher": "test_resnet", "teacher_weights": "none"} | STAGES,
        training={"batch_size": 4, "minibatches": 5},
        scorer={"use": "glance", "unit": "normal"},
        localizer={"use": "idw"},
    )
    tables["data"]["image_size"] = 256
    return tables


def timeless(report: adkit.Report) -> tuple[Any, ...]:
    """Everything of a run but times and folders."""
    kept, *files = outcome(report)
    for training in kept["categories"]["stripes"]["trainings"]:
        del training["seconds"]
    return kept, *files


def test_the_second_category_takes_local_net_from_the_first(tmp_path: Path) -> None:
    tables = recipe(tmp_path)
    write_category(tmp_path / "data" / "waves", seed=6)
    watch = Watch()
    report = adkit.run(tables, display=watch)
    said = [text for text in watch.said if "taken from" in text]
    assert said == ["waves: distillation: taken from an earlier training on the same images"]
    first, second = (report.categories[name].trainings[0].checks[:3] for name in ("stripes", "waves"))
    assert first == second


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after every minibatch."""
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_killed_in_any_stage_it_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages see 12, 18 and 20 images."""
    tables = recipe(tmp_path)
    expected = timeless(adkit.run(tables, output=tmp_path / "undisturbed"))
    for images in (10, 25, 45):
        monkeypatch.setenv(VARIABLE, str(tmp_path / f"cache-{images}"))  # nothing is taken from the run before
        interrupt(tables, "adapt", "stripes", images)
        report, _ = go_on(tables)
        assert timeless(report) == expected


def test_the_report_has_every_stage_and_a_saved_detector_gives_the_runs_scores(tmp_path: Path) -> None:
    tables = recipe(tmp_path)
    report = adkit.run(tables)
    (training,) = report.categories["stripes"].trainings
    terms = [set(check.terms) for check in training.checks]
    assert training.minibatches == 2 + 3 + 5
    assert {frozenset(one) for one in terms if one} == {
        frozenset({"teacher", "correlation"}),
        frozenset({"inconsistency", "triplet", "distortion"}),
    }
    folder = Path(report.folder)
    tensors = sorted(path.name for path in (folder / "detector").rglob("extractor*.safetensors"))
    assert len(tensors) == 1
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    found = adkit.Detector.load(folder).predict([tmp_path / "data" / row["id"] for row in rows])
    np.testing.assert_allclose(found.scores, [float(row["score"]) for row in rows], rtol=1e-5)
    assert found.maps is not None
    # The map's largest value is the score of a patch's center, of which the image's is the largest.
    np.testing.assert_array_less(found.maps.max((1, 2)), found.scores * (1 + 1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_exported_it_gives_the_detectors_scores_and_maps(tmp_path: Path, format: str) -> None:
    """``export`` compares by itself, and refuses to write a file that deviates."""
    report = adkit.run(recipe(tmp_path))
    test = sorted((tmp_path / "data" / "stripes" / "test").rglob("*.png"))
    done = export(report.folder, format, images=test[:2], device="cpu")
    assert done.parity.largest <= LIMIT
    assert done.file.is_file()


def test_whole_images_are_compared_in_a_run(tmp_path: Path) -> None:
    tables = recipe(tmp_path, compare="image")
    del tables["localizer"]
    report = adkit.run(tables)
    assert report.categories["stripes"].metrics is not None
