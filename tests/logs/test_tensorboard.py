"""Event files, read back by TensorBoard's own reader."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import adkit
from tests.logs.logged import write_trained
from tests.runner.test_resume import go_on, interrupt


def events(folder):
    read = EventAccumulator(str(Path(folder) / "tensorboard"))
    read.Reload()
    return read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = write_trained(tmp_path_factory.mktemp("logged"), tensorboard=True)
    recipe["stopper"] = {"use": "fixed"}
    report = adkit.run(recipe)
    return report, events(report.folder)


def scalars(read, tag):
    return {event.step: event.value for event in read.Scalars(tag)}


def test_the_loss_and_the_rate_of_every_minibatch(run):
    report, read = run
    (training,) = report.categories["stripes"].trainings
    losses = scalars(read, "stripes/minibatch_loss")
    assert list(losses) == list(range(1, 13))
    assert (losses[1] + losses[2]) / 2 == pytest.approx(training.checks[1].loss, rel=1e-6)
    rates = scalars(read, "stripes/learning_rate")
    assert list(rates.values()) == pytest.approx([training.schedule["learning_rate"]] * 12)


def test_what_each_check_found(run):
    report, read = run
    (training,) = report.categories["stripes"].trainings
    found = {check.minibatches: check.loss for check in training.checks if check.loss is not None}
    assert scalars(read, "stripes/loss") == pytest.approx(found, rel=1e-6)
    kept = scalars(read, "stripes/kept")
    assert kept == {check.minibatches: float(check.kept) for check in training.checks}


def test_distances_at_snapshots(run):
    report, read = run
    (training,) = report.categories["stripes"].trainings
    found = {one.minibatches: one.distances["train"] for one in training.snapshots}
    assert scalars(read, "stripes/distance/train") == pytest.approx(found, rel=1e-6)


def test_metrics_thresholds_and_means(run):
    report, read = run
    found, limit = report.categories["stripes"], report.categories["stripes"].threshold
    assert scalars(read, "stripes/image_auroc") == {0: pytest.approx(found.metrics["image_auroc"])}
    assert scalars(read, "stripes/threshold") == {0: pytest.approx(limit.value)}
    assert scalars(read, "mean/pixel_auroc") == {0: pytest.approx(report.mean["pixel_auroc"])}


def test_the_recipe_as_text_and_as_hyperparameters(run):
    _, read = run
    (text,) = read.Tensors("recipe/text_summary")
    assert b"| scorer.use | knn |" in text.tensor_proto.string_val[0]
    started = HParamsPluginData.FromString(read.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    assert started.session_start_info.hparams["scorer.k"].number_value == 1


def test_heatmaps_lie_beside_their_images(run):
    _, read = run
    tags = read.Tags()["images"]
    assert len(tags) == 6
    assert all(tag.startswith("stripes/heatmaps/0") for tag in tags)
    anomalous = next(tag for tag in tags if "square" in tag)
    (event,) = read.Images(anomalous)
    drawn = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert (event.height, event.width) == drawn.shape[:2] == (48, 96)
    assert not np.array_equal(drawn[:, :48], drawn[:, 48:])


def test_a_run_that_goes_on_adds_what_follows(tmp_path):
    recipe = write_trained(tmp_path, tensorboard=True)
    interrupt(recipe, "adapt", "stripes", 30)
    report, _ = go_on(recipe)
    assert sorted(scalars(events(report.folder), "stripes/minibatch_loss")) == list(range(1, 13))


def test_a_run_can_be_looked_at_while_it_is_made(tmp_path):
    recipe = write_trained(tmp_path, tensorboard=True)
    interrupt(recipe, "calibrate", "stripes")
    found = EventMultiplexer().AddRunsFromDirectory(recipe["run"]["output"])
    found.Reload()
    (name,) = found.Runs()
    assert name == ".small.partial/run/tensorboard"
