"""Snapshots along a training: what the report says of them, and when it warns of a collapse."""

from pathlib import Path

import pytest

import adkit
from adkit.data.samples import spread_over
from adkit.report.report import SnapshotReport, TrainingReport
from adkit.training.trace import collapse
from tests.recipe.small import write_small


def trained(recipe):
    """Of the last block, with a snapshot at the start and after each two of four epochs."""
    recipe["extractor"]["levels"] = ["pool"]
    recipe["adapter"] = {"use": "panda", "blocks": ["layer4"]}
    recipe["training"] = {"batch_size": 4, "epochs": 4, "snapshot_epochs": 2, "clip_norm": 1.0}
    recipe["scorer"] = {"use": "center"}
    return recipe


@pytest.fixture
def traced(small_recipe):
    return trained(small_recipe)


@pytest.fixture(scope="module")
def traced_run(tmp_path_factory):
    """One run of ``traced`` for the tests that only look at it."""
    return adkit.run(trained(write_small(tmp_path_factory.mktemp("traced"))))


def snapshots(report):
    return report.categories["stripes"].trainings[0].snapshots


def snapshot(at=0, train=1.0, anomalous=None):
    distances = {"train": train} | ({} if anomalous is None else {"test_anomalous": anomalous})
    normalized = {name: value / train for name, value in distances.items()} if train else {}
    return SnapshotReport(minibatches=at, epochs=at, distances=distances, normalized=normalized, image_auroc=None)


def state(*snapshots, kept=100):
    return TrainingReport(
        subject="stripes",
        schedule={},
        minibatches=100,
        kept_minibatches=kept,
        ended="",
        seconds=0,
        checks=[],
        snapshots=list(snapshots),
    )


def test_there_is_one_before_training_and_one_every_so_many_epochs(traced_run):
    assert [one.epochs for one in snapshots(traced_run)] == [0, 2, 4]


def test_every_group_of_images_has_its_distance(traced_run):
    groups = {"train", "held_out", "test_normal", "test_anomalous"}
    assert all(set(one.distances) == groups for one in snapshots(traced_run))


def test_the_last_one_is_what_the_scorer_finds_around_the_first_center(traced, tmp_path):
    """With its center fitted on ψ₀, the scorer's score is the adapter's own distance."""
    traced["scorer"]["fit"] = "initial"
    report = adkit.run(traced)
    rows = (Path(report.folder) / "scores.csv").read_text().splitlines()
    columns = rows[0].split(",")
    found = [dict(zip(columns, row.split(","), strict=True)) for row in rows[1:]]
    normal = [float(row["score"]) for row in found if row["split"] == "test" and row["label"] == "0"]
    assert snapshots(report)[-1].distances["test_normal"] == pytest.approx(sum(normal) / len(normal), rel=1e-4)


def test_normalized_is_over_the_distance_of_training_images(traced_run):
    one = snapshots(traced_run)[-1]
    assert one.normalized["held_out"] == pytest.approx(one.distances["held_out"] / one.distances["train"])


def test_without_an_image_held_out_there_is_no_such_group(traced):
    traced["data"]["calibration"] = 0
    first = snapshots(adkit.run(traced))[0]
    assert set(first.distances) == {"train", "test_normal", "test_anomalous"}


def test_images_of_the_stopper_are_held_out_ones(traced):
    traced["data"]["calibration"] = 0
    traced["stopper"] = {"use": "plateau", "validation": 0.25}
    report = adkit.run(traced)
    checks = report.categories["stripes"].trainings[0].checks
    assert snapshots(report)[0].distances["held_out"] == pytest.approx(checks[0].value, rel=1e-4)


def test_a_single_image_has_no_spread_to_compare_with(traced, stripes):
    for path in sorted((stripes / "stripes" / "train" / "good").glob("*.png"))[1:]:
        path.unlink()
    traced["data"]["calibration"] = 0
    assert snapshots(adkit.run(traced))[0].normalized == {}


def test_tracing_leaves_the_detector_as_it_was(traced_run, traced):
    traced["training"]["snapshot_epochs"] = 0
    without = (Path(adkit.run(traced).folder) / "scores.csv").read_text()
    assert without == (Path(traced_run.folder) / "scores.csv").read_text()


def test_a_recipe_can_do_without(traced):
    traced["training"]["snapshot_epochs"] = 0
    assert snapshots(adkit.run(traced)) == []


def test_many_images_are_thinned_from_the_first_to_the_last():
    assert spread_over(range(10), 4) == [0, 3, 6, 9]


def test_few_images_are_all_taken():
    assert spread_over(range(3), 4) == [0, 1, 2]


def test_features_that_lie_at_the_center_have_collapsed():
    assert "collapsed" in collapse(state(snapshot(0, 1.0), snapshot(5, 1e-5)))


def test_anomalous_images_that_come_closer_than_at_first_are_reported_with_the_values():
    text = collapse(state(snapshot(0, 1.0, 2.0), snapshot(5, 0.5, 2.0), snapshot(10, 0.1, 0.15)))
    assert "was 2 before training, 4 after 5 minibatches and is 1.5 now" in text


def test_what_became_of_states_after_the_one_that_was_kept_is_not_reported():
    assert collapse(state(snapshot(0, 1.0, 2.0), snapshot(5, 0.5, 2.0), snapshot(10, 0.1, 0.15), kept=5)) is None


@pytest.mark.parametrize(
    "snapshots",
    [
        [],
        [snapshot(0, 1.0, 2.0)],
        [snapshot(0, 1.0, 2.0), snapshot(5, 0.5, 1.0)],
        [snapshot(0, 1.0), snapshot(5, 0.5)],
        [snapshot(0, 1.0, 5.68), snapshot(5, 1.0, 5.67)],
        [snapshot(0, 0.0, 0.0), snapshot(5, -0.4, 0.4)],
    ],
    ids=["none", "one", "the same ratio", "no test images", "hardly moved", "a logit"],
)
def test_no_collapse_where_the_ratio_held_or_is_not_known(snapshots):
    assert collapse(state(*snapshots)) is None


def test_a_collapse_is_among_the_warnings_of_the_report(traced):
    traced["training"] |= {"epochs": 30, "learning_rate": 0.5, "snapshot_epochs": 10}
    report = adkit.run(traced)
    reported = [text for text in report.warnings if "collapse" in text]
    (training,) = report.categories["stripes"].trainings
    assert reported == [f"stripes: {collapse(training)}"]
