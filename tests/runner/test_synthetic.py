"""The AUROC of drawn defects in the report of a run, against scores computed once more by the saved detector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import adkit
from adkit import Report, UserError
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.detector.fitted import FittedDetector
from adkit.detector.load import load_detector
from adkit.inference.assemble import assemble
from adkit.inference.pipeline import Member, Pipeline
from adkit.inference.sources import ImageSource
from adkit.inference.synthetic import KINDS, drawn
from adkit.plugin import Scores
from adkit.recipe.reader import read_recipe
from adkit.runner.evaluate import Evaluation
from adkit.runner.synthetic import synthetic_aurocs
from adkit.testing import TinyScorer
from tests.data.categories import write_category
from tests.runner.score_rows import scores

ADAPTER = {"use": "panda", "blocks": ["layer4"]}
TRAINING = {"batch_size": 4, "epochs": 2, "clip_norm": 1.0}


@pytest.fixture
def small_recipe(small_recipe):
    del small_recipe["run"]["synthetic"]
    return small_recipe


@pytest.fixture
def classes(classes):
    del classes["run"]["synthetic"]
    return classes


def by_hand(
    recipe: dict[str, Any], loaded: FittedDetector, held_out: Sequence[Sample], members: Sequence[Member] | None = None
) -> dict[str, float]:
    """Kind → scikit-learn's AUROC of drawn defects on ``held_out`` against those images, by a loaded detector."""
    parts = assemble(read_recipe(recipe))
    pipeline = loaded.pipeline if members is None else loaded.pipeline.with_members(members)
    normal: list[float] = []
    for batch in parts.loader(held_out, BadImages(1), 4, targets=False):
        normal += pipeline(batch.images).image.tolist()
    defective = defaultdict(list)
    for drawings in drawn(held_out, 128, parts, BadImages(1)):
        scores = pipeline(drawings.images).image.tolist()
        for kind, score in zip(drawings.kinds, scores, strict=True):
            defective[kind].append(score)
    return {
        kind: roc_auc_score([0] * len(normal) + [1] * len(scores), normal + scores)
        for kind, scores in defective.items()
    }


def held_out(recipe: dict[str, Any], name: str = "stripes") -> Sequence[Sample]:
    table = read_recipe(recipe)
    (category,) = (one for one in open_dataset(table.data, table.run.seed).categories if one.name == name)
    return category.calibration


def mean(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {kind: float(np.mean([one[kind] for one in found])) for kind in KINDS}


# What a report says -----------------------------------------------------------------------------------


def test_a_report_has_an_auroc_of_every_kind(small_run):
    category = small_run.categories["stripes"]
    assert list(category.synthetic) == list(KINDS)
    assert all(0 <= value <= 1 for value in category.synthetic.values())
    assert category.synthetic_auroc == pytest.approx(np.mean(list(category.synthetic.values())))
    assert 0 < category.synthetic_auroc <= 1


def test_report_json_has_it(small_run):
    stripes = Report.load(Path(small_run.folder) / "report.json").categories["stripes"]
    assert stripes.synthetic_auroc == small_run.categories["stripes"].synthetic_auroc


def test_without_held_out_images_there_is_none(small_recipe):
    small_recipe["data"]["calibration"] = 0
    category = adkit.run(small_recipe).categories["stripes"]
    assert (category.synthetic_auroc, category.synthetic) == (None, {})


def test_a_recipe_may_want_none_and_nothing_else_changes(small_recipe, small_run):
    small_recipe["run"]["synthetic"] = 0
    report = adkit.run(small_recipe)
    category, before = report.categories["stripes"], small_run.categories["stripes"]
    assert (category.synthetic_auroc, category.synthetic) == (None, {})
    assert category.threshold == before.threshold
    assert category.pixel_threshold == before.pixel_threshold
    for file in ("scores.csv", "detector/scorer.safetensors"):
        assert Path(report.folder, file).read_bytes() == Path(small_run.folder, file).read_bytes()


def test_a_training_is_the_same_with_and_without(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe |= {"adapter": ADAPTER, "training": TRAINING}
    scores = []
    for count in (128, 0):
        small_recipe["run"] |= {"synthetic": count, "name": f"with {count}"}
        scores.append(Path(adkit.run(small_recipe).folder, "scores.csv").read_bytes())
    assert scores[0] == scores[1]


def test_no_test_image_takes_part(small_recipe, small_run, stripes):
    write_category(stripes / "other", good=5, bad=7, seed=1)
    test, other = stripes / "stripes", stripes / "other"
    for folder in ("test", "ground_truth"):
        (test / folder).rename(test.with_name(f"old {folder}"))
        (other / folder).rename(test / folder)
    small_recipe["data"]["category"] = "stripes"
    found = adkit.run(small_recipe).categories["stripes"]
    assert found.images.test_anomalous == 7
    assert found.synthetic == small_run.categories["stripes"].synthetic


# Against the saved detector ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"adapter": ADAPTER, "training": TRAINING},
        {"adapter": {"use": "ses", "blocks": ["layer4"]}, "training": TRAINING | {"epochs": 4, "snapshot_epochs": 2}},
        {"extractor": {"use": "timm", "backbone": ["test_resnet", "test_convnext"], "weights": "none"}},
    ],
    ids=["frozen", "adapted", "largest ratio of snapshots", "ensemble"],
)
def test_it_is_the_auroc_of_the_saved_detector(small_recipe, tables):
    if "extractor" not in tables:
        small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe |= tables
    report = adkit.run(small_recipe)
    expected = by_hand(small_recipe, load_detector(Path(report.folder), "cpu"), held_out(small_recipe))
    assert report.categories["stripes"].synthetic == pytest.approx(expected)


def test_padded_images_too(small_recipe):
    small_recipe["data"]["resize"] = "pad"
    report = adkit.run(small_recipe)
    expected = by_hand(small_recipe, load_detector(Path(report.folder), "cpu"), held_out(small_recipe))
    assert report.categories["stripes"].synthetic == pytest.approx(expected)


def test_classes_that_share_stored_features_too(classes):
    classes["data"] |= {"batch_size": 4, "calibration": 0.4}
    classes["extractor"]["levels"] = ["layer1", "layer2"]
    report = adkit.run(classes)
    for name in ("red", "green", "blue"):
        loaded = load_detector(Path(report.folder) / "detector" / name, "cpu")
        expected = by_hand(classes, loaded, held_out(classes, name))
        assert report.categories[name].synthetic == pytest.approx(expected)


def test_cross_scores_each_fold_by_the_detector_that_did_not_see_it(small_recipe):
    small_recipe["threshold"] = {"method": "cross", "folds": 4}
    report = adkit.run(small_recipe)
    loaded = load_detector(Path(report.folder), "cpu")
    table = read_recipe(small_recipe)
    (category,) = open_dataset(table.data, table.run.seed, table.threshold.parts).categories
    expected = [
        by_hand(small_recipe, loaded, fold, [member])
        for fold, member in zip(category.folds, loaded.pipeline.members, strict=True)
    ]
    assert report.categories["stripes"].synthetic == pytest.approx(mean(expected))


def test_folds_have_their_mean(small_recipe, stripes):
    write_category(stripes / "stripes", train=24)
    small_recipe["data"]["calibration"] = 0.5
    small_recipe["run"] |= {"folds": 3, "fold_members": True}
    report = adkit.run(small_recipe)
    loaded = load_detector(Path(report.folder), "cpu")
    expected = [by_hand(small_recipe, loaded, held_out(small_recipe), [member]) for member in loaded.pipeline.members]
    assert len({tuple(one.values()) for one in expected}) == 3  # else the mean could be that of one fold
    assert report.categories["stripes"].synthetic == pytest.approx(mean(expected))


def test_an_unreadable_image_is_left_out_of_both_sides(small_recipe, stripes):
    small_recipe["data"] |= {"calibration": 0.5, "max_bad_share": 0.2}
    broken = held_out(small_recipe)[0]
    path = stripes / broken.id
    path.write_bytes(path.read_bytes()[:200])
    report = adkit.run(small_recipe)
    rest = [sample for sample in held_out(small_recipe) if sample.id != broken.id]
    assert list(scores(report, "calibration")) == [sample.id for sample in rest]
    expected = by_hand(small_recipe, load_detector(Path(report.folder), "cpu"), rest)
    assert report.categories["stripes"].synthetic == pytest.approx(expected)


# What cannot be ranked --------------------------------------------------------------------------------


class Endless(TinyScorer):
    """Scores every image by infinity."""

    def score(self, features):
        return Scores(torch.full((features.count,), torch.inf))


def test_a_score_that_is_not_finite_is_told_with_image_and_kind(small_recipe):
    parts = assemble(read_recipe(small_recipe))
    images = list(held_out(small_recipe))
    normal = Evaluation(images, np.zeros(len(images), np.float32), np.zeros((len(images), 1), np.float32))
    pipeline = Pipeline([Member(parts.embeddings[0], Endless())], parts.localizer)
    with pytest.raises(
        UserError, match=r"Endless: the score of image stripes/train/good/\d+\.png with a drawn \w+: expected fin"
    ):
        synthetic_aurocs(pipeline, normal, parts, ImageSource(parts, BadImages(1), 9), lambda count: None)
