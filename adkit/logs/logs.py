"""All logs of a run at once: none of them can end it, and nothing that it computes depends on them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adkit.errors import UserError
from adkit.logs.heatmaps import heatmaps
from adkit.logs.log import Log, Parameter, require_package
from adkit.logs.mlflow import MLflowLog, reason, require_mlflow
from adkit.logs.tensorboard import TensorBoardLog
from adkit.logs.wandb import WandbLog
from adkit.recipe.reader import Recipe, resolved
from adkit.recipe.tables import LogTable
from adkit.report.page.record import PageRecord
from adkit.report.report import CategoryReport, TrainingReport
from adkit.utils.text import toml_value

if TYPE_CHECKING:
    from ignite.engine import Engine
    from torch.optim import Optimizer

logger = logging.getLogger("adkit")

_LONGEST: Final = 100
"""Letters of a part of a tag; of longer ones the end is what differs."""


def require_logs(table: LogTable, *, reachable: bool = True) -> None:
    """Refuse logs that cannot be written.

    Args:
        reachable: whether a server is asked, too.

    Raises:
        UserError: a package is missing, or a server does not answer.
    """
    for key in ("tensorboard", "wandb"):
        if getattr(table, key):
            require_package(key)
    if table.mlflow is not False:
        require_mlflow(_uri(table), reachable=reachable)


def _uri(table: LogTable) -> str | None:
    return table.mlflow if isinstance(table.mlflow, str) else None


class Logs:
    """The logs of a run that still can be written; one that fails is told of once, and left."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        """``say`` shows a line to the user."""
        self._logs: list[Log] = []
        self._say = say
        self.lost: list[str] = []
        """What is to be said of the logs that were left."""

    def open(self, key: str, make: Callable[[], Log]) -> None:
        """Open a log; raises UserError where it cannot be."""
        try:
            self._logs.append(make())
        except Exception as error:
            raise UserError(
                f"log.{key}: expected a log that can be written, found: {reason(error)}: mend that, or remove the key"
            ) from error

    def _each(self, do: Callable[[Log], None]) -> None:
        for log in tuple(self._logs):
            self._guarded(log, do)

    def _guarded(self, log: Log, do: Callable[[Log], None]) -> None:
        if log not in self._logs:
            return
        try:
            do(log)
        except Exception as error:  # noqa: BLE001  servers, disks and drivers fail in ways of their own
            self._logs.remove(log)
            text = f"log.{log.key}: what follows is not logged any more, for it failed: {reason(error)}"
            self.lost.append(text)
            logger.info("%s", text)
            self._say(f"warning: {text}")
            with _whatever_happens():
                log.close(whole=False)

    def begin(self, recipe: Recipe) -> None:
        """Log the recipe."""
        values = parameters(recipe)
        self._each(lambda log: log.parameters(values))

    def attach(
        self, engine: Engine, checked: Any, optimizer: Optimizer, subject: str, minibatches: Callable[[], int]
    ) -> None:
        """Log the loss and the learning rates of an engine's steps, and its metrics at each event ``checked``.

        Args:
            subject: what is trained.
            minibatches: gives the number of steps so far.
        """
        from ignite.engine import Events

        def output(loss: float) -> dict[str, float]:
            groups = optimizer.param_groups
            names = ["learning_rate"] if len(groups) == 1 else [f"learning_rate/{n}" for n in range(len(groups))]
            return {"minibatch_loss": loss, **{name: group["lr"] for name, group in zip(names, groups, strict=True)}}

        tag = tag_of(subject)

        def one(log: Log) -> None:
            first = log.first_step()

            def step() -> int:
                return first + minibatches()

            steps = Events.ITERATION_COMPLETED(event_filter=lambda _, n: n == 1 or n % log.every == 0)
            log.logger.attach(engine, self._safe(log, log.handler(tag, step, output_transform=output)), steps)
            log.logger.attach(engine, self._safe(log, log.handler(tag, step, metric_names="all")), checked)

        self._each(one)

    def _safe(self, log: Log, handler: Callable[..., None]) -> Callable[..., None]:
        def handle(*arguments: Any) -> None:
            self._guarded(log, lambda _: handler(*arguments))

        return handle

    def category(self, subject: str, report: CategoryReport, page: PageRecord | None) -> None:
        """Log what was found in a category: metrics, thresholds, the snapshots of its trainings, and heatmaps."""
        tag = tag_of(subject)
        values = {f"{tag}/{key}": value for key, value in _figures(report).items()}
        self._each(lambda log: log.scalars(values, 0))
        for training in report.trainings:
            for minibatches, found in _snapshots(training):
                self._each(lambda log, found=found, at=minibatches: log.scalars(found, at))  # type: ignore[misc]
        if page is None or not self._logs:
            return
        limit = None if report.pixel_threshold is None else report.pixel_threshold.value
        for number, (image, drawn) in enumerate(heatmaps(page, limit)):
            name = tag_of(image.rpartition(".")[0] or image).replace("/", "_")
            place = f"{tag}/heatmaps/{number:02}_{name[-_LONGEST:]}"
            self._each(lambda log, place=place, drawn=drawn: log.image(place, drawn))  # type: ignore[misc]

    def finish(self, mean: Mapping[str, Any]) -> list[str]:
        """Log the means of the metrics and close all logs; return what is to be said of those that failed."""
        values = {name: value for name, value in mean.items() if isinstance(value, float)}
        self._each(lambda log: log.means(values))
        self.close(whole=True)
        return self.lost

    def close(self, *, whole: bool) -> None:
        """Close all logs; ``whole``: the run has ended well."""
        for log in tuple(self._logs):
            self._guarded(log, lambda log: log.close(whole=whole))
        self._logs.clear()


NO_LOGS: Final = Logs()
"""Logs that are not there, for work outside a run."""


@contextmanager
def opened_logs(recipe: Recipe, run: Path, partial: Path, say: Callable[[str], None]) -> Iterator[Logs]:
    """Open the logs that a recipe asks for, and close them with the block.

    Args:
        run: the folder that takes their files.
        partial: the working folder of the run, which is there as long as it can be resumed.
        say: shows a line to the user.
    """
    table, name = recipe.log, recipe.run.name
    asked: list[tuple[str, bool, Callable[[], Log]]] = [
        ("tensorboard", table.tensorboard, lambda: TensorBoardLog(run)),
        ("mlflow", table.mlflow is not False, lambda: MLflowLog(_uri(table), name, partial)),
        ("wandb", table.wandb, lambda: WandbLog(name, run)),
    ]
    logs = Logs(say)
    try:
        for key, wanted, make in asked:
            if wanted:
                logs.open(key, make)
        logs.begin(recipe)
        yield logs
    finally:
        logs.close(whole=False)  # of those that finish has not closed


@contextmanager
def _whatever_happens() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  it failed before, and that was told
        logger.info("closing a log failed, too: %s", reason(error))


def parameters(recipe: Recipe) -> dict[str, Parameter]:
    """The recipe by dotted keys, every default spelled out, but for ``[log]`` itself."""
    return {
        f"{table}.{key}": value if isinstance(value, str | int | float) else toml_value(value)
        for table, values in resolved(recipe).items()
        if table != "log"
        for key, value in values.items()
    }


def tag_of(text: str) -> str:
    """A name as every log takes it: slashes between its parts, and "_" for what is not allowed."""
    parts = (re.sub(r"[^-.\w]+", "_", part.strip())[-_LONGEST:] for part in re.split(r"/|, ", text))
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _figures(report: CategoryReport) -> dict[str, float]:
    limits = {"threshold": report.threshold, "pixel_threshold": report.pixel_threshold}
    found = {
        **report.metrics,
        "synthetic_auroc": report.synthetic_auroc,
        **{name: None if limit is None else limit.value for name, limit in limits.items()},
    }
    return {name: value for name, value in found.items() if value is not None}


def _snapshots(training: TrainingReport) -> Iterator[tuple[int, dict[str, float]]]:
    tag = tag_of(training.subject)
    for one in training.snapshots:
        found = {f"{tag}/distance/{group}": distance for group, distance in one.distances.items()}
        if one.image_auroc is not None:
            found[f"{tag}/snapshot_image_auroc"] = one.image_auroc
        yield one.minibatches, found
