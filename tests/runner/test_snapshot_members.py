"""Detectors whose members are the snapshots of a training, fused by the largest ratio."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

import adkit
from adkit import Detector, UserError
from adkit.cli.check import check
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.splits import hold_out
from adkit.detector.load import load_detector
from adkit.inference.assemble import assemble
from adkit.inference.pipeline import embed
from adkit.recipe.reader import read_recipe
from tests.recipe.small import write_small
from tests.runner.score_rows import scores


def trained(recipe):
    """Eight normal images: two calibrate, six are trained on, one of which tells the scales."""
    recipe["extractor"]["levels"] = ["pool"]
    recipe["adapter"] = {"use": "ses", "blocks": ["layer4"]}
    recipe["training"] = {"batch_size": 4, "epochs": 4, "snapshot_epochs": 2, "clip_norm": 1.0}
    return recipe


@pytest.fixture
def sampled(small_recipe):
    return trained(small_recipe)


@pytest.fixture(scope="module")
def sampled_run(tmp_path_factory):
    """One run of ``sampled`` for the tests that only look at it."""
    return adkit.run(trained(write_small(tmp_path_factory.mktemp("sampled"))))


def manifest(run):
    return json.loads((Path(run) / "detector" / "manifest.json").read_text())


def test_there_is_a_member_a_snapshot_and_none_of_the_first_state(sampled_run):
    found = manifest(sampled_run.folder)
    assert (len(found["members"]), len(found["extractors"]), found["fuse"]) == (2, 2, "max_ratio")


def test_each_member_has_the_weights_of_its_snapshot(sampled_run):
    folder = Path(sampled_run.folder) / "detector"
    one, two = (load_file(folder / f"extractor-{number}.safetensors") for number in (0, 1))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed and all("layer4" in name for name in changed)


def test_the_tenth_that_tells_the_scales_is_trained_on_like_all_others(sampled_run):
    assert sampled_run.categories["stripes"].images.train == 6


def test_scales_and_galleries_are_those_of_the_paper(sampled_run):
    """By plain loops: ‖·‖ to the nearest, galleries of all images, scales of a tenth against the others."""
    folder = Path(sampled_run.folder)
    recipe = read_recipe(tomllib.loads((folder / "recipe.toml").read_text()))
    (category,) = open_dataset(recipe.data, recipe.run.seed).categories
    loaded, parts = load_detector(folder, "cpu"), assemble(recipe)

    def features(samples):
        """(members, images, channels)"""
        batches = parts.loader(samples, BadImages(1), 4, targets=False)
        found = [
            [one["pool"].flatten(1) for one in embed(loaded.pipeline.embeddings, batch.images)] for batch in batches
        ]
        return [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]

    def distance(image, gallery):
        return min(np.linalg.norm(image - other) for other in gallery)

    rest, tenth = hold_out(category.train, 0.1, recipe.run.seed, "scale")
    assert (len(rest), len(tenth)) == (5, 1)
    test = [sample for sample in category.samples if sample.id in scores(folder)]
    ratios = []
    for gallery, fitted, held, tested, member in zip(
        features(category.train), features(rest), features(tenth), features(test), loaded.pipeline.members, strict=True
    ):
        scale = np.mean([distance(image, fitted) for image in held])
        assert member.scale == pytest.approx(scale, rel=1e-4)
        ratios.append([distance(image, gallery) / scale for image in tested])
    expected = np.max(ratios, axis=0)
    assert [scores(folder)[sample.id] for sample in test] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("epochs", "members"), [(4, [4, 8]), (5, [4, 8]), (6, [4, 8, 12])])
def test_members_are_on_the_grid_alone(sampled, epochs, members):
    sampled["training"] |= {"epochs": epochs, "snapshot_epochs": 2}  # an epoch has two minibatches of at most four
    report = adkit.run(sampled)
    training = report.categories["stripes"].trainings[0]
    assert [one.minibatches for one in training.snapshots if one.minibatches % 4 == 0] == [0, *members]
    assert len(manifest(report.folder)["members"]) == len(members)


def test_a_training_that_ends_before_its_first_snapshot_is_refused(sampled):
    sampled["training"] |= {"epochs": 4, "snapshot_epochs": 5}
    with pytest.raises(UserError, match="has 8 minibatches, found one of 10: shorten it"):
        adkit.run(sampled)


def test_so_does_the_check_of_its_recipe(sampled):
    sampled["training"] |= {"epochs": 4, "snapshot_epochs": 5}
    with pytest.raises(UserError, match="has 8 minibatches, found one of 10: shorten it"):
        check(sampled)


def test_a_scorer_that_stays_fitted_on_the_first_state_is_refused(sampled):
    sampled["scorer"]["fit"] = "initial"
    with pytest.raises(UserError, match=r'scorer\.fit: expected "adapted" with adapter ses'):
        adkit.run(sampled)


def test_a_saved_detector_gives_the_scores_of_the_run(sampled_run, stripes):
    run = sampled_run.folder
    expected = scores(run)
    found = Detector.load(run, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())


def test_a_stopper_ends_the_members_at_the_state_that_it_kept(sampled):
    sampled["stopper"] = {"use": "plateau", "validation": 0.2, "min_delta": 1e9}
    report = adkit.run(sampled)
    assert report.categories["stripes"].trainings[0].kept_minibatches == 0
    assert len(manifest(report.folder)["members"]) == 1


@pytest.mark.slow
def test_members_of_an_ensemble_are_those_of_each_backbone(sampled):
    sampled["extractor"]["backbone"] = ["test_byobnet", "test_convnext"]
    sampled["adapter"]["blocks"] = 1
    found = manifest(adkit.run(sampled).folder)
    backbones = [extractor["component"]["params"]["backbone"] for extractor in found["extractors"]]
    assert backbones == ["test_byobnet", "test_byobnet", "test_convnext", "test_convnext"]


def test_no_image_to_spare_for_the_scales_is_refused(sampled, stripes):
    for path in sorted((stripes / "stripes" / "train" / "good").glob("*.png"))[1:]:
        path.unlink()
    sampled["data"]["calibration"] = 0
    with pytest.raises(UserError, match="a tenth can be told from the others for the scales"):
        adkit.run(sampled)


def test_cross_conformal_is_refused_for_its_promise_would_not_hold(sampled):
    sampled["threshold"] = {"method": "cross"}
    sampled["data"]["calibration"] = 0
    with pytest.raises(UserError, match=r'threshold\.method: expected "split" with adapter ses'):
        adkit.run(sampled)


def test_no_interval_is_refused(sampled):
    sampled["training"]["snapshot_epochs"] = 0
    with pytest.raises(UserError, match=r"training\.snapshot_epochs: expected a number above 0 with adapter ses"):
        adkit.run(sampled)


def collapsing(sampled):
    """A step of rate 1 and decay 1 sets every weight of the block to 0, and with them the features."""
    sampled["training"] = {"batch_size": 8, "epochs": 2, "snapshot_epochs": 1, "momentum": 0.0}
    sampled["training"] |= {"learning_rate": 1.0, "weight_decay": 1.0, "clip_norm": 1e-12}
    return sampled


def test_where_all_snapshots_have_collapsed_one_sentence_says_so(sampled):
    with pytest.raises(UserError, match="found 2 of 2 snapshots with collapsed features"):
        adkit.run(collapsing(sampled))


def test_more_members_than_memory_holds_are_refused_before_training(sampled):
    sampled["training"] |= {"epochs": 10**6, "snapshot_epochs": 1}
    with pytest.raises(UserError, match=r"training\.snapshot_epochs: a detector of 1,000,000 members"):
        adkit.run(sampled)


def test_snapshots_with_collapsed_features_are_no_members(sampled, caplog):
    """Each step of rate 1 and decay 0.4 shrinks every weight of the block to 0.6 of what it was."""
    shrinking = collapsing(sampled)
    shrinking["training"] |= {"weight_decay": 0.4, "epochs": 6}
    members = manifest(adkit.run(shrinking).folder)["members"]
    assert 0 < len(members) < 6
    assert f"left out {6 - len(members)} of 6 snapshots with collapsed features" in caplog.text


def test_scores_of_0_by_which_nothing_can_be_scaled_are_refused(sampled, stripes):
    """Files of one image that differ in a comment, so that they are no copies of each other."""
    for path in (stripes / "stripes" / "train" / "good").glob("*.png"):
        comment = PngInfo()
        comment.add_text("name", path.name)
        Image.new("RGB", (64, 64), "gray").save(path, pnginfo=comment)
    sampled["data"]["calibration"] = 0
    with pytest.raises(UserError, match="found means 0, 0: images that are all the same tell nothing"):
        adkit.run(sampled)
