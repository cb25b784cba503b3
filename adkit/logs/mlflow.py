"""``[log] mlflow``: a run on an MLflow server, or in a local database."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from PIL import Image

from adkit.errors import UserError
from adkit.logs.log import Log, Parameter, require_package, scoped
from adkit.utils.text import without_credentials

_ENVIRONMENT: Final = {
    # A server that is gone would hold a run up for minutes, and each call again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # The place of a run would be printed into the tables, or the JSON, of adkit run.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_QUICK: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_NOTE: Final = "mlflow.json"
"""The file beside an unfinished run that names its run in MLflow."""
_AT_ONCE: Final = 100
"""Parameters that a server takes in one request."""
_LONGEST: Final = 6000
"""Letters of a parameter that a server takes."""
_SYSTEM: Final = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")
_TOLD: Final = 200
"""Letters of somebody else's error that are shown."""


def require_mlflow(uri: str | None, *, reachable: bool) -> None:
    """Refuse a log that cannot be written.

    Args:
        uri: the tracking URI; None: the one that MLflow itself takes.
        reachable: whether the server is asked if it is there.

    Raises:
        UserError: the package is missing, or nothing answers.
    """
    require_package("mlflow")
    if not reachable:
        return
    with scoped(os.environ, {**_QUICK, **_ENVIRONMENT}):
        import mlflow

        _quieten()
        place = mlflow.get_tracking_uri() if uri is None else uri
        try:
            mlflow.MlflowClient(tracking_uri=place).search_experiments(max_results=1)
        except ModuleNotFoundError as error:  # mlflow-skinny knows servers alone
            raise UserError(
                f"log.mlflow: expected what MLflow needs to write to {without_credentials(place)}, found no package "
                f'{error.name}: pip install mlflow, or give the URI of a server, such as "http://localhost:5000"'
            ) from error
        except Exception as error:  # stores, drivers and proxies raise errors of their own
            raise UserError(
                f"log.mlflow: expected an MLflow server at {without_credentials(place)}, found: {reason(error)}: "
                "start it, or give its URI"
            ) from error


class MLflowLog(Log):
    """A run of MLflow, with which a resumed run goes on."""

    key = "mlflow"
    every = 10  # each is a request

    def __init__(self, uri: str | None, name: str, partial: Path) -> None:
        """
        Args:
            uri: the tracking URI; None: that of MLflow's environment, or its local database.
            name: what the run is called.
            partial: the working folder of the run, which is there as long as it can be resumed.
        """
        self._scope = ExitStack()
        self._scope.enter_context(scoped(os.environ, _ENVIRONMENT))
        import mlflow
        from ignite.handlers.mlflow_logger import MLflowLogger

        _quieten()
        self._mlflow = mlflow
        if uri is not None:
            before = os.environ.get("MLFLOW_TRACKING_URI")  # which set_tracking_uri sets, too
            self._scope.callback(mlflow.set_tracking_uri, before)
            mlflow.set_tracking_uri(uri)
        try:
            # A program that calls adkit may have a run of its own open.
            nested = mlflow.active_run() is not None
            self._start(name, partial / _NOTE, nested)
            self.logger = MLflowLogger()  # takes the active run
        except BaseException:
            self._scope.close()
            raise

    def _start(self, name: str, note: Path, nested: bool) -> None:
        where = without_credentials(self._mlflow.get_tracking_uri())
        with suppress(OSError, ValueError, self._mlflow.exceptions.MlflowException):
            begun = json.loads(note.read_text(encoding="utf-8"))
            if begun["uri"] == where:  # of the attempt that was interrupted
                self._mlflow.start_run(run_id=begun["run"], nested=nested)
                return
        started = self._mlflow.start_run(run_name=name, nested=nested)
        note.write_text(json.dumps({"uri": where, "run": started.info.run_id}), encoding="utf-8")

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        left = iter({name: str(value)[:_LONGEST] for name, value in values.items()}.items())
        while some := dict(islice(left, _AT_ONCE)):
            self._mlflow.log_params(some)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def image(self, tag: str, picture: Image.Image) -> None:
        self._mlflow.log_image(picture, artifact_file=f"{tag}.png")

    def close(self, *, whole: bool) -> None:
        with self._scope:
            if not whole:
                self._scope.enter_context(scoped(os.environ, _QUICK))
            self._mlflow.end_run("FINISHED" if whole else "FAILED")


def reason(error: BaseException) -> str:
    """What somebody else's error says, in a line without credentials; of a connection what the system says of it."""
    text = " ".join(without_credentials(str(error)).split())
    said = _SYSTEM.search(text)
    text = said[1] if said else text or type(error).__name__
    return (text if len(text) <= _TOLD else f"{text[: _TOLD - 1]}…").rstrip(".")


def _quieten() -> None:
    """Keep what MLflow tells of its database off the terminal."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
