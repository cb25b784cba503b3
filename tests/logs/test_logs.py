"""What holds for every log: what is refused, what is kept secret, and that nothing depends on one."""

import random
import socket
import sys

import numpy as np
import pytest
import torch

import adkit
from adkit import UserError
from adkit.cli.check import check
from adkit.logs.logs import Logs, parameters, tag_of
from adkit.logs.tensorboard import TensorBoardLog
from adkit.recipe.reader import read_recipe, resolved
from tests.logs.logged import outcome, write_trained
from tests.recipe.small import write_small
from tests.runner.test_resume import go_on, interrupt


@pytest.mark.parametrize("key", ["tensorboard", "mlflow", "wandb"])
@pytest.mark.parametrize("do", [adkit.run, check])
def test_a_missing_package_is_told_before_anything_is_read(tmp_path, monkeypatch, key, do):
    monkeypatch.setitem(sys.modules, key, None)  # as Python marks what cannot be imported
    recipe = write_small(tmp_path, log={key: True})
    recipe["data"]["root"] = "nowhere"
    with pytest.raises(UserError) as caught:
        do(recipe)
    assert str(caught.value) == (
        f"log.{key}: expected the package {key}, found none: pip install 'adkit-ignite[{key}]'"
    )


@pytest.mark.parametrize(
    "uri", ["", "localhost:5000", "mlruns", "http://", "http://host:port", "http://[::1", "htp://host", "http://a b"]
)
def test_what_is_no_tracking_uri_is_refused(small_recipe, uri):
    with pytest.raises(
        UserError, match=r"^log\.mlflow: expected true, false or a tracking URI with its scheme, such as"
    ):
        read_recipe(small_recipe | {"log": {"mlflow": uri}})


@pytest.mark.parametrize(
    "uri",
    [
        *("http://localhost:5000", "https://me:secret@host/mlflow", "sqlite:///mlflow.db", "sqlite:////tmp/mlflow.db"),
        *("postgresql+psycopg2://me:secret@host/db", "databricks", "databricks://profile", "file:///tmp/mlruns"),
    ],
)
def test_tracking_uris_are_taken(small_recipe, uri):
    assert read_recipe(small_recipe | {"log": {"mlflow": uri}}).log.mlflow == uri


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_server_that_does_not_answer_is_told_before_anything_is_read(tmp_path):
    port = closed_port()
    recipe = write_small(tmp_path, log={"mlflow": f"http://me:secret@127.0.0.1:{port}"})
    recipe["data"]["root"] = "nowhere"
    with pytest.raises(UserError) as caught:
        adkit.run(recipe)
    assert str(caught.value) == (
        f"log.mlflow: expected an MLflow server at http://127.0.0.1:{port}, found: Connection refused: "
        "start it, or give its URI"
    )


def test_no_sentence_repeats_a_password(small_recipe):
    def said(*overrides):
        with pytest.raises(UserError) as caught:
            adkit.run(small_recipe, overrides)
        return str(caught.value)

    port = closed_port()
    assert said(f"log.mlflow=http://me:secret@127.0.0.1:{port}").startswith(
        f"--set log.mlflow=http://127.0.0.1:{port}: log.mlflow: expected an MLflow server"
    )
    assert "secret" not in said("log.mlflow=htp://me:secret@host")
    assert "secret" not in said('log.mlflow="http://me:secret@host')


def test_a_resolved_recipe_has_no_password(small_recipe):
    recipe = read_recipe(small_recipe, ["log.mlflow=http://me:secret@host:5000/x"])
    assert resolved(recipe)["log"] == {"tensorboard": False, "mlflow": "http://host:5000/x", "wandb": False}
    assert "secret" not in repr(recipe)


def test_parameters_are_the_recipe_by_dotted_keys(small_recipe):
    found = parameters(read_recipe(small_recipe, ["log.tensorboard=true"]))
    assert found["scorer.use"] == "knn"
    assert found["scorer.k"] == 1
    assert found["extractor.levels"] == '["layer1", "layer2"]'
    assert not [name for name in found if name.startswith("log.")]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("brick", "brick"),
        ("brick, fold 1 of 3, extractor 2 of 2", "brick/fold_1_of_3/extractor_2_of_2"),
        ("../a//b (c)/", "a/b_c_"),
        ("Ziegel ähnlich", "Ziegel_ähnlich"),
        ("..", "_"),
    ],
)
def test_tags_are_what_every_log_takes(name, tag):
    assert tag_of(name) == tag


def generators():
    legacy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()


def seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  that of programs around adkit
    torch.manual_seed(0)


@pytest.mark.parametrize("log", [{"tensorboard": True}, pytest.param({"wandb": True}, marks=pytest.mark.slow)], ids=str)
def test_a_run_finds_and_draws_the_same_with_a_log(tmp_path, log):
    recipe = write_trained(tmp_path)
    seeded()
    plain = outcome(adkit.run(recipe).folder)
    drawn = generators()
    seeded()
    assert outcome(adkit.run(recipe | {"log": log}).folder) == plain
    assert generators() == drawn


def test_an_interrupted_run_goes_on_whatever_is_logged(tmp_path):
    recipe = write_trained(tmp_path)
    interrupt(recipe, "adapt", "stripes", 30)
    report, watch = go_on(recipe | {"log": {"tensorboard": True}})
    assert report.resumed == 1
    assert ("adapt", "stripes") in watch.stages


class Full(TensorBoardLog):
    """Finds the disk full, as a password in an address is told."""

    def scalars(self, values, step):
        raise OSError(28, "No space left on device, for https://me:secret@host")


def test_a_log_that_fails_is_told_of_once_and_left(tmp_path, small_run):
    said = []
    logs = Logs(said.append)
    logs.open("tensorboard", lambda: Full(tmp_path))
    (report,) = small_run.categories.values()
    for _ in range(2):
        logs.category("stripes", report, None)
    text = (
        "log.tensorboard: what follows is not logged any more, for it failed: No space left on device, for https://host"
    )
    assert said == [f"warning: {text}"]
    assert logs.finish(small_run.mean) == [text]


def test_a_log_that_cannot_be_opened_is_told_of(tmp_path):
    (tmp_path / "tensorboard").write_text("no folder")
    with pytest.raises(UserError, match=r"^log\.tensorboard: expected a log that can be written, found: File exists: "):
        Logs().open("tensorboard", lambda: TensorBoardLog(tmp_path))
