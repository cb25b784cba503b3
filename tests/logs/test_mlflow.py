"""A run on an MLflow server of its own, which is asked what it was told."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import mlflow
import pytest

import adkit
from adkit.logs.mlflow import require_mlflow
from tests.logs.logged import outcome, write_trained
from tests.runner.test_resume import Watch, go_on, interrupt

pytestmark = pytest.mark.slow

PATIENCE = 120
"""Seconds that a server may take to start."""


class Server:
    """An MLflow server with a database and artifacts of its own."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        options = {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
        options |= {"--backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination": str(folder)}
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._log = (folder / "server.txt").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | quiet,
            start_new_session=True,  # it has workers
        )
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        self.stop()
        pytest.fail((folder / "server.txt").read_text())

    def stop(self):
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    @property
    def runs(self):
        return mlflow.MlflowClient(tracking_uri=self.uri).search_runs(["0"])

    def history(self, run, key):
        found = mlflow.MlflowClient(tracking_uri=self.uri).get_metric_history(run.info.run_id, key)
        return {one.step: one.value for one in found}


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    started = Server(folder)
    yield started
    started.stop()


def test_a_run_is_logged_and_nothing_depends_on_it(tmp_path, server):
    plain = outcome(adkit.run(write_trained(tmp_path)).folder)
    before = dict(os.environ)
    report = adkit.run(write_trained(tmp_path, mlflow=server.uri.replace("//", "//me:secret@")))
    assert outcome(report.folder) == plain
    assert dict(os.environ) == before
    assert mlflow.active_run() is None

    (run,) = server.runs
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert run.data.params["scorer.use"] == "knn"
    assert not [name for name in run.data.params if name.startswith("log.")]
    found = report.categories["stripes"]
    assert run.data.metrics["stripes/image_auroc"] == found.metrics["image_auroc"]
    assert run.data.metrics["stripes/threshold"] == found.threshold.value
    assert run.data.metrics["mean/pixel_auroc"] == report.mean["pixel_auroc"]
    (training,) = found.trainings
    assert server.history(run, "stripes loss") == {one.minibatches: one.loss for one in training.checks[1:]}
    assert list(server.history(run, "stripes minibatch_loss")) == [1, 10]
    distances = {one.minibatches: one.distances["train"] for one in training.snapshots}
    assert server.history(run, "stripes/distance/train") == distances
    client = mlflow.MlflowClient(tracking_uri=server.uri)
    assert len(client.list_artifacts(run.info.run_id, "stripes/heatmaps")) == 6
    for path in tmp_path.joinpath("runs").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_a_run_that_goes_on_goes_on_in_its_run(tmp_path, server):
    recipe = write_trained(tmp_path, mlflow=server.uri)
    interrupt(recipe, "calibrate", "stripes")
    (begun,) = server.runs
    assert begun.info.status == "FAILED"
    go_on(recipe)
    (run,) = server.runs
    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
    assert set(server.history(run, "stripes loss")) == {2, 4, 6, 8, 10, 12}
    assert "mean/image_auroc" in run.data.metrics


class Stopping(Watch):
    """Stops a server as a stage begins."""

    def __init__(self, server, name):
        super().__init__()
        self._server, self._name = server, name

    def stage(self, name, subject, total=None):
        if name == self._name:
            self._server.stop()
        return super().stage(name, subject, total)


def test_a_server_that_dies_ends_nothing(tmp_path, server):
    watch = Stopping(server, "adapt")
    report = adkit.run(write_trained(tmp_path, mlflow=server.uri), display=watch)
    (told,) = (text for text in report.warnings if text.startswith("log."))
    assert told == "log.mlflow: what follows is not logged any more, for it failed: Connection refused"
    assert [text for text in watch.said if "log.mlflow" in text] == [f"warning: {told}"]
    assert report.categories["stripes"].metrics["image_auroc"] is not None
    assert mlflow.active_run() is None


def test_a_run_of_a_program_around_adkit_stays_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    require_mlflow(None, reachable=True)
    with mlflow.start_run() as outer:
        adkit.run(write_trained(tmp_path, mlflow=True))
        assert mlflow.active_run().info.run_id == outer.info.run_id
    inner = [run for run in mlflow.MlflowClient().search_runs(["0"]) if run.info.run_id != outer.info.run_id]
    assert [run.data.tags["mlflow.parentRunId"] for run in inner] == [outer.info.run_id]
