"""What a run found, as data: ``report.json`` and the table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageCounts(_Part):
    """How many images of a category were read for what, and how many could not be read."""

    train: int
    stopping: int = 0
    """Held out of training for the stopper."""
    calibration: int
    test_normal: int
    test_anomalous: int
    unreadable: int


class ThresholdReport(_Part):
    """What lies above ``value`` counts as anomalous: an image's score, or any value of its map."""

    value: float
    method: Literal["split", "cross"]
    folds: int | None
    """Of cross."""
    calibration_images: int
    false_positive_rate_asked: float
    false_positive_rate_supported: float
    """The rate that the number of calibration images can promise."""
    test_false_positive_rate: float | None
    """Share of the normal test images above the threshold; nothing was chosen by it."""
    test_false_positive_interval: tuple[float, float] | None
    """Wilson's 95% interval of that share: what so few images can tell of the true rate."""
    test_recall: float | None
    """Share of the anomalous test images above the threshold; nothing was chosen by it."""


class CheckReport(_Part):
    """What a stopper saw at one of its checks."""

    minibatches: int
    epochs: float
    loss: float | None
    """Mean since the check before."""
    terms: dict[str, float]
    """Of the loss, where it has several."""
    value: float | None
    """The stopper's."""
    kept: bool
    reason: str


class SnapshotReport(_Part):
    """A state along a training, measured after the run, on up to 256 images of each group."""

    minibatches: int
    epochs: float
    distances: dict[str, float]
    """Group (``train``, ``held_out``, ``test_normal``, ``test_anomalous``) → mean of the adapter's score, raw."""
    normalized: dict[str, float]
    """The same over that of ``train``, as in PANDA's figure 3; empty where that is 0."""
    image_auroc: float | None
    """Of the adapter's score on the measured test images."""


class TrainingReport(_Part):
    """How an extractor was adapted."""

    subject: str
    schedule: dict[str, float | int | str]
    minibatches: int
    kept_minibatches: int
    """Of the state that the run went on with."""
    ended: str
    """Why it ended."""
    seconds: float
    checks: list[CheckReport]
    snapshots: list[SnapshotReport] = []
    """Nothing was decided by them."""


class CategoryReport(_Part):
    metrics: dict[str, float | None]
    """Those of pixels are null where there is no mask or no map. With ``run.folds``, means over the folds."""
    sem: dict[str, float | None] | None = None
    """Standard errors of those means."""
    folds: list[dict[str, float | None]] = []
    """The metrics of each fold."""
    fold_members: dict[str, float | None] | None = None
    """Those of the detector that is saved, where ``run.fold_members`` makes it one of all folds."""
    images: ImageCounts
    threshold: ThresholdReport | None
    trainings: list[TrainingReport] = []
    pixel_threshold: ThresholdReport | None = None
    """By the highest value of each image's map; null without maps, or where the recipe wants none."""


class Unreadable(_Part):
    """A file that could not be read, and the categories that it belongs to."""

    image: str
    reason: str
    categories: list[str]


class ComponentReport(_Part):
    kind: str
    name: str
    origin: str


class Report(_Part):
    """A whole run; ``report.json`` is this, and ``Report.load`` reads it back."""

    # The key in the file is "schema", a name that pydantic keeps for itself on the class.
    schema_version: Literal["adkit.report/2"] = Field("adkit.report/2", alias="schema")
    name: str
    folder: str
    categories: dict[str, CategoryReport]
    mean: dict[str, float | dict[str, float | None] | None]
    resumed: int = 0
    """How often the run was interrupted and taken up again."""
    timings: dict[str, float]
    """Seconds of each stage, those of interrupted attempts included as far as their work was kept."""
    peak_memory_bytes: int
    versions: dict[str, str]
    git: str | None
    seed: int
    device: str
    precision: str
    components: list[ComponentReport]
    images: ImageCounts
    unreadable: list[Unreadable]
    warnings: list[str]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ``report.json``."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def write(self, path: Path) -> None:
        """Write ``report.json``, which ``load`` reads back."""
        path.write_text(self.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")


def means(categories: dict[str, CategoryReport]) -> dict[str, Any]:
    """Mean of each metric over the categories that have it, and under ``sem`` its standard error."""
    from adkit.metrics import METRICS, mean_and_sem  # brings NumPy, which nobody needs who reads a report

    table: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    for metric in METRICS:
        table[metric], errors[metric] = mean_and_sem([c.metrics[metric] for c in categories.values()])
    table["sem"] = errors
    return table
