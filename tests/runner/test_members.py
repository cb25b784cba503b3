"""Detectors of several members: ensembles of backbones and folds of the normal images."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import adkit
from adkit import Detector, Report, UserError
from adkit.data.samples import Sample
from adkit.data.splits import folded
from adkit.detector.load import load_detector
from adkit.inference.pipeline import Member, Pipeline
from adkit.plugin import Features, Geometry, Scores
from adkit.plugin.registry import discover
from adkit.recipe.reader import read_recipe, resolved
from adkit.recipe.schema import recipe_schema
from tests.recipe.small import write_small
from tests.runner.score_rows import rows, scores

BACKBONES = ["test_byobnet", "test_convnext"]
GEOMETRY = {"layer": Geometry.covering((2, 2), (4, 4))}
ONE, OTHER = object(), object()
"""In place of embeddings: features are scored as if they had come through them."""


class Multiple:
    """Scores an image by ``factor`` times its highest feature."""

    def __init__(self, factor):
        self.factor = factor

    def score(self, features):
        maps = self.factor * features["layer"][..., 0]
        return Scores(maps.amax((1, 2)), {"layer": maps}, GEOMETRY)


class Enlarge:
    def localize(self, scores, size):
        return torch.nn.functional.interpolate(scores.maps["layer"][:, None], size)[:, 0]


def features(*values):
    return Features({"layer": torch.tensor(values).view(1, 2, 2, 1)}, GEOMETRY)


def test_mean_of_members():
    pipeline = Pipeline([Member(ONE, Multiple(1.0)), Member(OTHER, Multiple(3.0))], Enlarge())
    found = pipeline.score([features(1.0, 0, 0, 0), features(0, 0, 0, 2.0)])
    assert found.image.tolist() == [(1 + 6) / 2]
    assert pipeline.localize(found, (2, 2)).tolist() == [[[0.5, 0], [0, 3.0]]]


def test_largest_ratio_of_members():
    members = [Member(ONE, Multiple(1.0), scale=0.5), Member(ONE, Multiple(10.0), scale=20.0)]
    pipeline = Pipeline(members, Enlarge(), "max_ratio")
    found = pipeline.score([features(1.0, 0, 0, 4.0)])
    assert found.image.tolist() == [8.0]  # 4 / 0.5, above 40 / 20
    assert pipeline.localize(found, (2, 2)).tolist() == [[[2.0, 0], [0, 8.0]]]


def test_the_largest_ratio_needs_scales():
    pipeline = Pipeline([Member(ONE, Multiple(1.0), scale=0.0)], Enlarge(), "max_ratio")
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        pipeline.score([features(1.0, 0, 0, 0)])


def test_the_scale_of_a_member_is_the_median_score_of_calibration_images(small_recipe):
    small_recipe["data"]["calibration"] = 0.4  # three of eight
    report = adkit.run(small_recipe)
    low, median, high = sorted(scores(report, "calibration").values())
    (member,) = load_detector(Path(report.folder), "cpu").pipeline.members
    assert low < median < high
    assert member.scale == median


# Ensembles ---------------------------------------------------------------------------------------------


@pytest.fixture
def ensemble(small_recipe):
    small_recipe["extractor"] |= {"backbone": BACKBONES, "levels": ["stages.0", "stages.1"]}
    return small_recipe


def test_an_ensemble_takes_the_mean_of_its_backbones(ensemble):
    run = adkit.run(ensemble)
    alone = []
    for backbone in BACKBONES:
        recipe = ensemble | {"extractor": ensemble["extractor"] | {"backbone": backbone}, "run": ensemble["run"]}
        recipe["run"] = ensemble["run"] | {"name": backbone}
        alone.append(scores(adkit.run(recipe).folder))
    one, other = alone
    assert len(one) == 6
    assert scores(run.folder) == pytest.approx({image: (one[image] + other[image]) / 2 for image in one}, rel=1e-6)


def test_a_saved_ensemble_gives_the_scores_of_the_run(ensemble, stripes):
    run = Path(adkit.run(ensemble).folder)
    expected = scores(run)
    found = Detector.load(run, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())
    assert found.maps is not None


def test_each_backbone_may_have_levels_of_its_own(ensemble):
    ensemble["extractor"]["levels"] = [["stages.0"], ["stages.1", "stages.2"]]
    recipe = read_recipe(ensemble)
    assert [choice.params.levels for choice in recipe.extractors] == [("stages.0",), ("stages.1", "stages.2")]
    loaded = load_detector(Path(adkit.run(ensemble).folder), "cpu")
    assert [list(embedding.levels) for embedding in loaded.pipeline.embeddings] == [
        ["stages.0"],
        ["stages.1", "stages.2"],
    ]


@pytest.mark.parametrize("levels", [["stages.0"], [["stages.0"], ["stages.1"]]], ids=["shared", "own"])
def test_a_resolved_ensemble_reads_as_itself(ensemble, levels):
    ensemble["extractor"]["levels"] = levels
    recipe = read_recipe(ensemble)
    assert read_recipe(resolved(recipe)) == recipe


def test_two_members_alike_are_refused(ensemble):
    ensemble["extractor"]["backbone"] = ["test_byobnet", "test_byobnet"]
    with pytest.raises(UserError, match=r"extractor\.backbone: expected members that differ, found two alike"):
        read_recipe(ensemble)


def test_what_is_wrong_with_every_member_is_told_once(ensemble):
    ensemble["extractor"]["level"] = ["stages.0"]
    with pytest.raises(UserError) as failure:
        read_recipe(ensemble)
    (sentence,) = failure.value.problems
    assert "did you mean levels?" in sentence


@pytest.mark.parametrize("levels", [["stages.0"], [["stages.0"], ["stages.1"]]], ids=["shared", "own"])
def test_the_schema_takes_ensembles(ensemble, levels):
    import jsonschema

    ensemble["extractor"] |= {"use": "timm", "levels": levels}
    jsonschema.validate(ensemble, recipe_schema(discover()))


# Cross-conformal ---------------------------------------------------------------------------------------


CROSS = {"method": "cross", "folds": 4, "false_positive_rate": 0.2}


@pytest.fixture
def crossed(small_recipe):
    return small_recipe | {"threshold": CROSS}


@pytest.fixture(scope="module")
def crossed_run(tmp_path_factory):
    """One run of ``crossed`` for the tests that only look at it."""
    return adkit.run(write_small(tmp_path_factory.mktemp("crossed"), threshold=CROSS))


def test_every_normal_image_fits_and_calibrates(crossed_run):
    counts = crossed_run.categories["stripes"].images
    assert (counts.train, counts.calibration) == (8, 8)
    assert len(scores(crossed_run.folder, "calibration")) == 8


def test_an_image_is_calibrated_by_those_of_the_other_folds(crossed, stripes):
    """The distances of kNN with k = 1, from each image of a fold to those outside of it, by brute force."""
    crossed["extractor"]["levels"] = ["pool"]
    report = adkit.run(crossed)
    loaded = load_detector(Path(report.folder), "cpu")
    found = scores(report.folder, "calibration")
    detector = Detector(loaded)
    fit = [member.scorer.state_dict()["bank.pool"] for member in loaded.pipeline.members]
    every = torch.cat(fit).unique(dim=0)
    assert [len(bank) for bank in fit] == [6, 6, 6, 6]
    assert len(every) == 8
    for image, score in found.items():
        imaged = detector.predict(stripes / image)
        distances = [torch.cdist(bank, own(loaded, stripes / image)).min() for bank in fit]
        assert imaged.scores[0] == pytest.approx(float(sum(distances)) / 4, rel=1e-4)
        # One member alone has not seen the image.
        assert [distance > 1e-4 for distance in distances].count(True) == 1
        assert score == pytest.approx(float(max(distances)), rel=1e-4)


def own(loaded, path):
    from adkit.data.images import read_image
    from adkit.data.view import to_planes

    image = np.empty((3, *loaded.view.size), np.float32)
    to_planes(loaded.view.input(read_image(path)), image)
    return loaded.pipeline.embeddings[0](torch.from_numpy(image)[None])["pool"].flatten(1)


def test_the_report_says_how_the_threshold_was_found(crossed_run):
    threshold = crossed_run.categories["stripes"].threshold
    assert (threshold.method, threshold.folds, threshold.calibration_images) == ("cross", 4, 8)


def test_a_detector_of_folds_gives_the_scores_of_the_run(crossed_run, stripes):
    run = Path(crossed_run.folder)
    expected = scores(run)
    found = Detector.load(run, "cpu").predict([stripes / image for image in expected], batch_size=4)
    assert found.scores.tolist() == list(expected.values())
    assert [f"{p:.6g}" for p in found.p_values] == [row["p_value"] for row in rows(run, split="test")]
    manifest = json.loads((run / "detector" / "manifest.json").read_text())
    assert len(manifest["members"]) == 4
    assert manifest["threshold"]["method"] == "cross"


@pytest.mark.slow
def test_an_ensemble_crosses_too(crossed):
    crossed["extractor"] |= {"backbone": BACKBONES, "levels": ["stages.0", "stages.1"]}
    loaded = load_detector(Path(adkit.run(crossed).folder), "cpu")
    assert loaded.pipeline.places == (0, 1) * 4


def test_folds_are_for_cross_alone(small_recipe):
    small_recipe["threshold"] = {"folds": 4}
    with pytest.raises(UserError, match='folds are for method = "cross"'):
        read_recipe(small_recipe)


def test_a_resolved_recipe_of_folds_reads_as_itself(crossed):
    run = Path(adkit.run(crossed).folder)
    again = tomllib.loads((run / "recipe.toml").read_text())
    assert read_recipe(again) == read_recipe(crossed)


def test_fewer_images_than_folds_are_refused(crossed, stripes):
    for index in range(1, 8):
        (stripes / "stripes" / "train" / "good" / f"{index:03}.png").unlink()
    with pytest.raises(UserError, match=r"threshold\.folds: expected at least 4 different normal images in stripes"):
        adkit.run(crossed)


def samples(count):
    return [Sample(f"{index}.png", Path(f"{index}.png"), 0, "good") for index in range(count)]


def test_folds_differ_in_size_by_one_at_most():
    assert sorted(map(len, folded(samples(13), 5, 0, {}, "run.folds", "a"))) == [2, 2, 3, 3, 3]


def test_every_image_is_in_one_fold():
    every = [sample for fold in folded(samples(13), 5, 0, {}, "run.folds", "a") for sample in fold]
    assert sorted(every, key=lambda sample: sample.id) == sorted(samples(13), key=lambda sample: sample.id)


def test_images_of_equal_content_share_a_fold():
    groups = {f"{index}.png": "0.png" for index in range(6)}
    folds = folded(samples(12), 3, 0, groups, "run.folds", "a")
    assert len({number for number, fold in enumerate(folds) for sample in fold if sample.id in groups}) == 1


def test_copies_do_not_calibrate_each_other(crossed, stripes):
    folder = stripes / "stripes" / "train" / "good"
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    found = scores(adkit.run(crossed).folder, "calibration")
    assert min(found.values()) > 1e-3


# Pixels ------------------------------------------------------------------------------------------------


def test_the_pixel_threshold_is_taken_from_the_highest_values_of_normal_maps(small_recipe, stripes):
    small_recipe["threshold"] = {"false_positive_rate": 0.4}
    run = Path(adkit.run(small_recipe).folder)
    detector = Detector.load(run, "cpu")
    normal = list(scores(run, "calibration"))
    peaks = np.sort(detector.predict([stripes / image for image in normal], batch_size=4).maps.max((1, 2)))
    assert len(peaks) == 2
    assert detector.pixel_threshold == peaks[1]  # ⌈3 · 0.6⌉ = 2nd smallest of 2
    assert Report.load(run / "report.json").categories["stripes"].pixel_threshold.value == peaks[1]


def test_padding_has_no_part_in_the_pixel_threshold(small_recipe, stripes):
    from PIL import Image

    for path in (stripes / "stripes").rglob("*.png"):  # wide images, with padding above and below
        image = Image.open(path)
        image.crop((0, 4, 48, 44)).save(path)
    small_recipe["data"]["resize"] = "pad"  # 40 of 48 rows become 53 of 64
    small_recipe["localizer"]["smoothing"] = 0
    small_recipe["scorer"] = {"use": "gaussian"}  # by which the edge of the padding is unusual, too
    run = Path(adkit.run(small_recipe).folder)
    detector = Detector.load(run, "cpu")
    maps = detector.predict([stripes / image for image in scores(run, "calibration")], batch_size=4).maps
    assert detector.pixel_threshold == maps[:, 5:58].max()
    assert detector.pixel_threshold < maps.max()  # which lies in the padding


def test_a_recipe_may_want_no_pixel_threshold(small_recipe):
    small_recipe["threshold"] = {"pixel": False}
    run = Path(adkit.run(small_recipe).folder)
    assert Detector.load(run, "cpu").pixel_threshold is None


def test_without_maps_there_is_no_pixel_threshold(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool"]
    report = adkit.run(small_recipe)
    assert report.categories["stripes"].pixel_threshold is None
    assert Detector.load(report.folder, "cpu").pixel_threshold is None
