"""Classes of the same images: what the frozen blocks give is computed once for all of them."""

from pathlib import Path

import pytest
import torch

import adkit
import adkit.runner.run
from adkit import Detector
from adkit.inference.assemble import assemble
from adkit.recipe.reader import read_recipe
from adkit.training.frozen import shared_trunks
from tests.recipe.small import write_small_classes
from tests.runner.score_rows import rows


def of_classes(folder):
    """Three classes, for each of which the last block is trained; random weights."""
    recipe = write_small_classes(folder)
    recipe["adapter"] = {"use": "panda", "blocks": ["layer4"]}
    recipe["training"] = {"batch_size": 2, "epochs": 3, "snapshot_epochs": 1, "clip_norm": 1.0}
    recipe["scorer"] = {"use": "center"}
    return recipe


@pytest.fixture
def classes(tmp_path):
    return of_classes(tmp_path)


@pytest.fixture(scope="module")
def classes_run(tmp_path_factory):
    """One run of ``classes`` for the tests that only look at it; the images lie beside its folder of runs."""
    return adkit.run(of_classes(tmp_path_factory.mktemp("classes")))


def scores(report):
    return {(row["category"], row["id"]): float(row["score"]) for row in rows(report)}


def trainings(report):
    return [training for category in report.categories.values() for training in category.trainings]


def each_by_itself(recipe):
    found = {}
    for name in ("blue", "green", "red"):
        found |= scores(adkit.run(recipe | {"data": recipe["data"] | {"normal": name}}))
    return found


def test_a_class_has_the_scores_that_it_has_by_itself(classes_run, classes):
    assert scores(classes_run) == pytest.approx(each_by_itself(classes), rel=1e-4)


@pytest.mark.slow
def test_snapshots_of_ses_share_the_frozen_part_too(classes):
    classes["adapter"]["use"] = "ses"
    assert scores(adkit.run(classes)) == pytest.approx(each_by_itself(classes), rel=1e-4)


def test_the_frozen_part_sees_every_image_once(classes, monkeypatch):
    seen = []

    def counting(parts):
        trunks = shared_trunks(parts)
        for cut in trunks.cuts:
            cut.trunk.register_forward_pre_hook(lambda module, images: seen.append(len(images[0])))
        return trunks

    monkeypatch.setattr(adkit.runner.run, "shared_trunks", counting)
    report = adkit.run(classes)
    checks = 2 * len(report.categories)  # two images of noise a class, to see that the cut is the same
    shape = 1  # an image of nothing, whose output has the shape of all
    assert sum(seen) == shape + 21 + checks


def test_there_is_no_pass_of_its_own_for_a_class(classes_run):
    assert "frozen blocks" not in classes_run.timings


def test_the_saved_detector_gives_the_scores_of_the_run(classes_run):
    expected = {image: score for (name, image), score in scores(classes_run).items() if name == "red"}
    folder = Path(classes_run.folder)
    detector = Detector.load(folder / "detector" / "red", "cpu")
    found = detector.predict([folder.parents[1] / "classes" / image for image in expected])
    assert found.scores.tolist() == pytest.approx(list(expected.values()), rel=1e-5)


def test_the_trunk_has_nothing_that_is_trained(classes):
    trunks = shared_trunks(assemble(read_recipe(classes)))
    (names,) = trunks.trained
    assert names and not any("layer4" in name for name, _ in trunks.cuts[0].trunk.named_parameters())


def test_a_changed_trunk_is_not_taken_for_the_stored_one(classes):
    parts = assemble(read_recipe(classes))
    trunks = shared_trunks(parts)
    other = assemble(read_recipe(classes))
    with torch.no_grad():
        next(other.embeddings[0].extractor.parameters()).add_(1)
    assert trunks.tail(parts.embeddings[0]) is not None
    assert trunks.tail(other.embeddings[0]) is None


def test_an_adapter_that_trains_everything_shares_nothing(classes):
    classes["adapter"]["blocks"] = "all"
    assert shared_trunks(assemble(read_recipe(classes))) is None
