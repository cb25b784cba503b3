"""What a run found, as data: the models of ``report.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from adkit.utils.escapes import harmless


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GroupCounts(_Part):
    """How many groups the images of a category are of that were used for one thing."""

    train: int
    stopping: int
    calibration: int
    test_normal: int
    """Groups with a normal test image."""
    test_anomalous: int
    """Groups with an anomalous test image."""


class ImageCounts(_Part):
    """How many images of a category were used for what, and how many could not be read."""

    train: int
    groups: GroupCounts | None = None
    """How many groups those images are of; None where the data names none."""
    stopping: int = 0
    """Images that were held out of the training for the stopper."""
    calibration: int
    test_normal: int
    test_anomalous: int
    unreadable: int


class ThresholdReport(_Part):
    """A threshold with its error rates; an image is anomalous if its score, or a value of its map, is above it."""

    value: float
    method: str
    """``threshold.method``: split, hierarchical, pooled or cross."""
    per: str
    """``threshold.per``: image or part."""
    promise: str
    """What is promised, as a sentence."""
    approximate: bool
    """Whether no theorem covers the promise: that of ``cross``, and of ``pooled`` where images show the same parts."""
    folds: int | None
    """The number of folds of method ``cross``; None for the others."""
    calibration_images: int
    calibration_groups: int
    """The number of groups that the calibration images are of; of images where the data names none."""
    false_positive_rate_asked: float | None
    """None where the value was set by hand."""
    false_positive_rate_supported: float | None
    """The rate that a threshold of so many calibration groups can promise; of a value set by hand the rate that they
    let expect, and None where there are none."""
    false_positive_rate_smallest: float
    """The smallest rate that so many groups support: 1 / (groups + 1)."""
    test_false_positive_rate: float | None
    """The mean over the normal groups of the test of each one's share of images above the threshold or, per part, the
    share of groups with one above it; nothing was chosen by it."""
    test_false_positive_interval: tuple[float, float] | None
    """The 95% Wilson interval of ``test_false_positive_rate``: what so few groups say about the true rate."""
    test_normal_groups: int
    test_recall: float | None
    """The share of the anomalous test images above the threshold, per part of the groups with such an image; nothing
    was chosen by it."""


class CheckReport(_Part):
    """What a stopper saw at one of its checks."""

    minibatches: int
    epochs: float
    loss: float | None
    """The mean loss since the previous check; None before the first step."""
    terms: dict[str, float]
    """Term → its mean since the previous check, where the loss has several terms; else empty."""
    value: float | None
    """The value that the stopper judged by; None where it has none."""
    kept: bool
    reason: str


class SnapshotReport(_Part):
    """A state along a training, measured after the test on up to 256 images of each group."""

    minibatches: int
    epochs: float
    distances: dict[str, float]
    """Group (``train``, ``held_out``, ``test_normal``, ``test_anomalous``) → mean of the adapter's score, raw."""
    normalized: dict[str, float]
    """Group → its distance over that of ``train``, as in PANDA's figure 3; empty where that is 0."""
    image_auroc: float | None
    """The AUROC of the adapter's score on the measured test images."""


class TrainingReport(_Part):
    """How an extractor was adapted to a category."""

    subject: str
    schedule: dict[str, float | int | str]
    minibatches: int
    kept_minibatches: int
    """The number of minibatches after which the run's final state was taken."""
    ended: str
    """Why the training ended, as a sentence."""
    seconds: float
    checks: list[CheckReport]
    snapshots: list[SnapshotReport] = []
    """The snapshots along the training; nothing was decided by them."""


class KindReport(_Part):
    """How one kind of anomaly is found among all normal test images."""

    images: int
    """The number of test images of this kind."""
    metrics: dict[str, float | None]
    """As those of the category; those of pixels are over all normal test images and those of this kind."""


class CategoryReport(_Part):
    metrics: dict[str, float | None]
    """Those of pixels are null where there is no mask or no map. With ``run.folds``, means over the folds."""
    intervals: dict[str, tuple[float, float]] = {}
    """The 95% intervals of metrics, by resamples of whole groups of test images."""
    intervals_missing: str | None = None
    """Why there are no intervals; None where there are."""
    kinds: dict[str, KindReport] = {}
    """Kind of anomaly → its metrics, where there is more than one; of the saved detector."""
    sem: dict[str, float | None] | None = None
    """The standard errors of the means in ``metrics``; None without ``run.folds``."""
    folds: list[dict[str, float | None]] = []
    """The metrics of each fold."""
    fold_members: dict[str, float | None] | None = None
    """The metrics of the saved detector, where ``run.fold_members`` gives it the members of all folds."""
    images: ImageCounts
    range: tuple[float, float] | None = None
    """The raw values of gray images of more than 8 bits that became 0 and 255; None without ``data.range``."""
    synthetic_auroc: float | None = None
    """The mean over kinds of the image AUROC of drawn defects against the held-out normal images they are drawn on;
    None without held-out images. No test image takes part, so recipes may be chosen by it."""
    synthetic: dict[str, float] = {}
    """Kind of drawn defect → its image AUROC."""
    runtimes: list[str] = []
    """What computes each extractor of the detector, with its version: ``openvino 2026.4.1``."""
    threshold: ThresholdReport | None
    trainings: list[TrainingReport] = []
    pixel_threshold: ThresholdReport | None = None
    """The threshold of pixels, set by the highest value of each image's map; None without maps, or if not asked for."""


class Unreadable(_Part):
    """A file that could not be read, and the categories that it belongs to."""

    image: str
    reason: str
    categories: list[str]


class ComponentReport(_Part):
    """A component that the run used, and the distribution that it comes from."""

    kind: str
    name: str
    origin: str


class Report(_Part):
    """What a whole run found; ``report.json`` is this as JSON, and ``Report.load`` reads it back."""

    # The key in the file is "schema", a name that pydantic keeps for itself on the class.
    schema_version: Literal["adkit.report/3"] = Field("adkit.report/3", alias="schema")
    name: str
    folder: str
    categories: dict[str, CategoryReport]
    mean: dict[str, float | dict[str, float | None] | None]
    resumed: int = 0
    """How often the run was interrupted and resumed."""
    timings: dict[str, float]
    """Stage → its seconds, those of interrupted attempts included as far as their work was kept."""
    peak_memory_bytes: int
    versions: dict[str, str]
    git: str | None
    seed: int
    device: str
    precision: str
    runtimes: list[str] = []
    """What computed the extractors of the detectors, with its version; empty where an earlier adkit did not say."""
    components: list[ComponentReport]
    images: ImageCounts
    unreadable: list[Unreadable]
    passed_over: dict[str, int] = {}
    """Kind of thing that lies among the images and is none, such as ``.txt`` or ``hidden`` → how many there are."""
    warnings: list[str]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ``report.json``."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def write(self, path: Path) -> None:
        """Write ``report.json``, which ``load`` reads back, but for bytes of the folder's name that are no text."""
        path.write_text(self.as_json(indent=2) + "\n", encoding="utf-8")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from adkit.metrics import METRICS
        from adkit.report.notebook import report_html

        shown = [name for name in METRICS if self.mean[name] is not None]
        heads = ["category", *(METRICS[name].title for name in shown), "threshold", "promise"]
        rows = []
        for name, category in self.categories.items():
            limit, metrics = category.threshold, (_number(category.metrics[one]) for one in shown)
            value, promise = ("–", "–") if limit is None else (f"{limit.value:.4g}", limit.promise)
            rows.append([name, *metrics, value, promise])
        if len(rows) > 1:
            rows.append(["mean", *(_number(self.mean[name]) for name in shown), "", ""])
        return report_html(self.name, heads, rows, str(Path(self.folder) / "report.html"))

    def as_json(self, indent: int | None = None) -> str:
        """What ``report.json`` has; a line without ``indent``."""
        written = self.model_copy(update={"folder": harmless(self.folder)})
        return written.model_dump_json(indent=indent, by_alias=True)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"


def means(categories: dict[str, CategoryReport]) -> dict[str, Any]:
    """Mean of each metric over the categories that have it, and under ``sem`` its standard error."""
    from adkit.metrics import METRICS, mean_and_sem  # brings NumPy, which nobody needs who reads a report

    table: dict[str, Any] = {}
    errors: dict[str, float | None] = {}
    for metric in METRICS:
        table[metric], errors[metric] = mean_and_sem([c.metrics[metric] for c in categories.values()])
    table["sem"] = errors
    return table
