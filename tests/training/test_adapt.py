"""Runs that adapt their extractor: what is trained on what, what the detector then is, and folds."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import adkit
from adkit import Detector, Report, UserError
from adkit.cli.check import check
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.detector.load import load_detector
from adkit.inference.assemble import assemble
from adkit.inference.sources import ImageSource
from adkit.recipe.reader import read_recipe
from adkit.recipe.tables import TrainingTable
from adkit.runner.evaluate import evaluate
from adkit.runner.fit import Workspace, fit_and_calibrate
from adkit.testing import TinyAdapter
from adkit.training.plan import scheduled
from adkit.utils.progress import Display
from tests.recipe.small import write_small
from tests.runner.score_rows import rows, scores


def trained(recipe):
    """Random weights that are trained for three epochs of two minibatches."""
    recipe["extractor"]["levels"] = ["layer1", "pool"]
    recipe["adapter"] = {"use": "svdd"}
    recipe["training"] = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 3}
    recipe["scorer"] = {"use": "center"}
    return recipe


@pytest.fixture
def tuned(small_recipe):
    return trained(small_recipe)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """One run of ``tuned`` for the tests that only look at it."""
    return adkit.run(trained(write_small(tmp_path_factory.mktemp("adapted"))))


@pytest.fixture(scope="module")
def three_folds(tmp_path_factory):
    """One run without an adapter over three folds of its normal images."""
    recipe = write_small(tmp_path_factory.mktemp("folds"))
    recipe["run"]["folds"] = 3
    return adkit.run(recipe)


def training(report):
    (one,) = report.categories["stripes"].trainings
    return one


def workspace(recipe, tmp_path):
    read = read_recipe(recipe)
    dataset = open_dataset(read.data, 0)
    parts = assemble(read)
    source = ImageSource(parts, BadImages(1.0), 100)
    return dataset.categories[0], Workspace(source, parts, Display(quiet=True), tmp_path / "work")


def test_the_schedule_is_the_adapters_with_what_the_recipe_says_instead(tuned):
    tuned["training"] = {"epochs": 1}
    schedule = training(adkit.run(tuned)).schedule
    assert (schedule["optimizer"], schedule["learning_rate"], schedule["epochs"]) == ("adam", 1e-6, 1)


def test_the_report_has_the_course_of_the_training(adapted):
    report = Report.load(Path(adapted.folder) / "report.json")
    checks = training(report).checks
    assert [check.minibatches for check in checks] == [0, 2, 4, 6]  # 6 images to train on, 2 calibrate
    assert checks[-1].loss < checks[1].loss
    assert set(checks[1].terms) == {"layer1", "pool"}


def test_the_detector_has_the_adapted_weights(adapted, stripes):
    run = Path(adapted.folder)
    expected = scores(run)
    found = Detector.load(run, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())


def test_adapting_changes_scores(adapted, tuned):
    del tuned["adapter"], tuned["training"]
    assert scores(adkit.run(tuned).folder) != scores(adapted.folder)


def test_the_same_recipe_twice_gives_the_same_scores(adapted, tuned):
    first = (Path(adapted.folder) / "scores.csv").read_bytes()
    assert (Path(adkit.run(tuned).folder) / "scores.csv").read_bytes() == first


def test_batch_norm_statistics_stay(tuned, tmp_path):
    category, place = workspace(tuned, tmp_path)
    fitted = fit_and_calibrate(category, place)
    assert len(fitted.trained) == 6
    before = dict(place.parts.trainable[0].named_buffers())
    again = dict(assemble(place.parts.recipe).trainable[0].named_buffers())
    assert {name.rpartition(".")[2] for name in before} >= {"running_mean", "running_var"}
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_neither_adapting_nor_stopping_touches_a_test_image(tuned, tmp_path):
    tuned["stopper"] = {"use": "vicinal", "validation": 0.4}
    category, place = workspace(tuned, tmp_path)
    missing = Sample("gone.png", tmp_path / "gone.png", 1, "gone")  # fails when it is touched
    category = replace(category, test=(missing,))
    fitted = fit_and_calibrate(category, place)
    assert not len(place.source.bad)
    evaluate(
        fitted.pipeline,
        category.train,
        place.source,
        place.parts,
        lambda images: None,
        targets=False,
        peaks=False,
    )
    with pytest.raises(adkit.UserError, match=r"gone\.png"):
        evaluate(
            fitted.pipeline,
            category.test,
            place.source,
            place.parts,
            lambda images: None,
            targets=True,
            peaks=False,
        )


def test_images_held_out_for_the_stopper_are_not_fitted_on(tuned):
    tuned["stopper"] = {"use": "plateau", "validation": 0.5}
    assert adkit.run(tuned).categories["stripes"].images.train == 3


@pytest.mark.slow
def test_a_learning_rate_a_thousand_times_too_high_goes_back_to_the_start(textures, tmp_path):
    """On a texture through pretrained weights, where the vicinal value is high from the start."""
    recipe = {
        "run": {"name": "tuned", "output": str(tmp_path), "device": "cpu", "precision": "float32"},
        "data": {"format": "textures", "root": str(textures), "category": "brick", "image_size": 64},
        "extractor": {"levels": ["blocks.1", "blocks.2"]},
        "adapter": {"use": "mahalanobis"},
        "training": {"learning_rate": 1e-3, "epochs": 4},
        "stopper": {"use": "vicinal", "patience": 3, "multiple": 4},
        "scorer": {"use": "gaussian", "fit": "initial"},
    }
    report = adkit.run(recipe)
    (state,) = report.categories["brick"].trainings
    assert state.kept_minibatches == 0
    assert "best 0.9708 before the first step, none better in 3 checks" in state.ended
    frozen = {name: table for name, table in recipe.items() if name not in ("adapter", "training", "stopper")}
    frozen |= {"run": recipe["run"] | {"name": "frozen"}, "scorer": {"use": "gaussian"}}
    one, other = (load_detector(Path(folder), "cpu") for folder in (report.folder, adkit.run(frozen).folder))
    states = [detector.pipeline.embeddings[0].extractor.state_dict() for detector in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_scorer_fitted_before_adapting_stays_so(tuned, tmp_path):
    tuned["scorer"] = {"use": "center", "fit": "initial", "centers": "level"}
    category, place = workspace(tuned, tmp_path)
    center = fit_and_calibrate(category, place).pipeline.members[0].scorer.state_dict()["center.pool"]
    stream = place.source.stream(category.train, place.parts.embeddings, lambda images: None, targets=False)
    train = [features["pool"] for features in stream]
    torch.testing.assert_close(center, torch.cat(train).mean((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_a_head_is_saved_with_the_detector(tuned, stripes):
    tuned["extractor"]["levels"] = ["layer1", "layer2"]
    tuned["adapter"] = {"use": "fcdd", "channels": 4, "augmentations": ["confetti"]}
    tuned["scorer"] = {"use": "logit"}
    run = Path(adkit.run(tuned).folder)
    expected = scores(run)
    detector = Detector.load(run, "cpu")
    found = detector.predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())
    assert found.maps.shape[1:] == (64, 64)


def test_every_category_is_adapted_by_itself(adapted, tuned, stripes):
    alone = scores(adapted.folder)
    shutil.copytree(stripes / "stripes", stripes / "again")
    both = scores(adkit.run(tuned).folder)
    assert {name: both[name] for name in alone} == alone


@pytest.mark.slow
def test_an_ensemble_is_adapted_member_by_member(tuned, stripes):
    tuned["extractor"] |= {"backbone": ["test_byobnet", "test_convnext"], "levels": ["stages.0", "pool"]}
    report = adkit.run(tuned)
    assert len(report.categories["stripes"].trainings) == 2
    expected = scores(report.folder)
    found = Detector.load(report.folder, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())


def test_folds_that_cross_are_adapted_one_by_one(tuned, stripes):
    tuned["threshold"] = {"method": "cross", "folds": 2}
    report = adkit.run(tuned)
    assert len(report.categories["stripes"].trainings) == 2
    expected = scores(report.folder)
    found = Detector.load(report.folder, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())


def test_a_killed_training_goes_on_to_the_same_scores(adapted, tuned, monkeypatch):
    import adkit.training.trainer

    whole = (Path(adapted.folder) / "scores.csv").read_bytes()
    checks = adkit.training.trainer._Trainer.check

    def interrupted(self):
        checks(self)
        if self.minibatches == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(adkit.training.trainer._Trainer, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adkit.run(tuned)
    monkeypatch.setattr(adkit.training.trainer._Trainer, "check", checks)
    report = adkit.run(tuned, interrupted="resume")
    assert (Path(report.folder) / "scores.csv").read_bytes() == whole


# Folds of a run ----------------------------------------------------------------------------------------


def test_folds_give_means_and_standard_errors(three_folds):
    category = three_folds.categories["stripes"]
    values = [fold["pixel_auroc"] for fold in category.folds]
    assert len(values) == 3
    assert category.metrics["pixel_auroc"] == pytest.approx(np.mean(values))
    assert category.sem["pixel_auroc"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))


def test_scores_of_every_fold_are_written(three_folds):
    folds = [row["fold"] for row in rows(three_folds, split="test")]
    assert sorted(folds) == ["1"] * 6 + ["2"] * 6 + ["3"] * 6


def test_the_detector_is_the_first_folds_unless_all_are_asked_for(three_folds, small_recipe):
    assert len(load_detector(Path(three_folds.folder), "cpu").pipeline.members) == 1
    small_recipe["run"] |= {"folds": 3, "fold_members": True}
    report = adkit.run(small_recipe)
    assert len(load_detector(Path(report.folder), "cpu").pipeline.members) == 3


def test_a_fold_that_is_left_out_is_the_stoppers(tuned):
    tuned["run"]["folds"] = 3
    tuned["stopper"] = {"use": "plateau"}
    category = adkit.run(tuned).categories["stripes"]
    assert category.images.train == 4  # of 6, in folds of 2
    assert len(category.trainings) == 3


def test_the_training_of_every_fold_is_traced(tuned):
    tuned["run"]["folds"] = 3
    tuned["training"]["snapshot_epochs"] = 1
    trainings = adkit.run(tuned).categories["stripes"].trainings
    assert [bool(one.snapshots) for one in trainings] == [True, True, True]


def test_a_length_must_be_said_where_the_adapter_says_none():
    with pytest.raises(adkit.UserError, match=r"set training\.minibatches or training\.epochs"):
        scheduled(TinyAdapter(), None)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer", "adam", r"training\.relative_steps: expected optimizer = \"sgd\", since adam"),
        ("clip_norm", 0.5, r"training\.clip_norm: expected none with relative_steps, .* found 0\.5"),
    ],
)
def test_relative_steps_are_those_of_sgd_and_not_clipped(key, value, said):
    with pytest.raises(UserError, match=said):
        scheduled(TinyAdapter(), TrainingTable(epochs=1, relative_steps=True, **{key: value}))


def test_check_tells_of_the_training(tuned):
    tuned["stopper"] = {"use": "vicinal"}
    text = check(tuned)
    assert "adapter    svdd" in text
    assert "training   adam, learning rate 0.001, batches of 4, at most 3 epochs" in text
    assert "stopping   by 0.2 of the normal images" in text


def test_check_tells_of_a_training_in_minibatches(tuned):
    tuned["training"] = {"optimizer": "sgd", "learning_rate": 1e-4, "relative_steps": True, "minibatches": 1}
    assert "training   sgd, relative rate 0.0001, batches of 8, at most 1 minibatch\n" in check(tuned) + "\n"


def test_the_detector_of_all_folds_is_judged_too(small_recipe, stripes):
    small_recipe["run"] |= {"folds": 3, "fold_members": True}
    report = adkit.run(small_recipe)
    told = rows(report, split="test", fold="all")
    found = Detector.load(report.folder, "cpu").predict([stripes / row["id"] for row in told], batch_size=4)
    assert [str(score) for score in found.scores] == [row["score"] for row in told]
    assert report.categories["stripes"].fold_members["image_auroc"] is not None


def test_one_normal_image_makes_no_folds(small_recipe, stripes):
    for index in range(1, 8):
        (stripes / "stripes" / "train" / "good" / f"{index:03}.png").unlink()
    small_recipe["run"]["folds"] = 2
    with pytest.raises(adkit.UserError, match=r"run\.folds: expected at least 2 different normal images"):
        adkit.run(small_recipe)


# Other images ----------------------------------------------------------------------------------------


@pytest.fixture
def exposed(tuned, tmp_path):
    """With images of uniform noise as anomalies."""
    folder = tmp_path / "other" / "good"
    folder.mkdir(parents=True)
    random = np.random.default_rng(7)
    for index in range(6):
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{index:03}.png")
    tuned["extractor"]["levels"] = ["layer1"]
    tuned["adapter"] = {"use": "fcdd", "channels": 2}
    tuned["scorer"] = {"use": "logit"}
    tuned["auxiliary"] = {"format": "folder", "root": str(tmp_path / "other")}
    return tuned


def test_auxiliary_images_are_trained_on(exposed):
    first = scores(adkit.run(exposed).folder)
    del exposed["auxiliary"]
    assert scores(adkit.run(exposed).folder) != first


def test_a_broken_auxiliary_image_is_reported_and_is_no_image_of_the_data(exposed, tmp_path, stripes):
    (tmp_path / "other" / "good" / "000.png").write_bytes(b"junk")
    exposed["auxiliary"]["max_bad_share"] = 0.5
    report = adkit.run(exposed)
    assert report.unreadable == []
    assert any("1 auxiliary image could not be read and was left out" in text for text in report.warnings)


def test_too_many_broken_auxiliary_images_stop_the_run(exposed, tmp_path):
    for index in range(4):
        (tmp_path / "other" / "good" / f"{index:03}.png").write_bytes(b"junk")
    with pytest.raises(adkit.UserError, match="4 of 6 images cannot be read"):
        adkit.run(exposed)


def test_an_auxiliary_image_of_the_data_is_left_out(exposed, tmp_path, stripes):
    shutil.copy(stripes / "stripes" / "test" / "good" / "000.png", tmp_path / "other" / "good" / "copy.png")
    report = adkit.run(exposed)
    assert any("[auxiliary]: 1 image of it is among those of [data]" in text for text in report.warnings)


def test_a_head_of_its_own_is_not_scored_before_it_is_trained(exposed):
    exposed["scorer"]["fit"] = "initial"
    with pytest.raises(adkit.UserError, match=r'scorer\.fit: expected "adapted" with fcdd'):
        adkit.run(exposed)
