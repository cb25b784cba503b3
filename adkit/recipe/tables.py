"""The tables of a recipe that are adkit's own: their keys, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from adkit.plugin.params import Params
from adkit.utils.text import toml_value, without_credentials

Method = Literal["split", "hierarchical", "pooled", "cross"]
"""Which scores of held-out normal images a threshold is taken from, and with which weights: see ``adkit.threshold``."""
Per = Literal["image", "part"]
"""What the promise on false alarms is about: an image of a new part, or a new part as a whole."""


FLOAT32_MAX = 3.4028234663852886e38


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class RunTable(Params):
    """What the run is called, where it computes and where it leaves its results."""

    name: str = Field(
        "run",
        pattern=r"^[^./\\\s\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$",
        title='a folder name, such as "tile": no slash, no dot or space at its start',
        description="name of the run and of its folder under output; default: the recipe's file name without .toml",
        json_schema_extra=_without_default,
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of everything that is drawn at random")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="device to compute on; auto: a GPU if there is one, else the CPU",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="precision that the extractor computes in; auto: bfloat16 if the device has it natively, else "
        "float32",
    )
    runtime: Literal["auto", "torch", "openvino", "onnx", "compile"] = Field(
        "auto",
        description="what computes an extractor that is not trained any more: torch, OpenVINO, ONNX Runtime or what "
        "torch.compile makes of it; auto: on a CPU the first of openvino and onnx that is installed, computes in the "
        "precision and agrees with torch, else torch",
    )
    folds: int = Field(
        1,
        ge=1,
        le=100,
        description="above 1: fit so many detectors, each without one fold of the normal training images; metrics are "
        "their mean, with its standard error",
    )
    fold_members: bool = Field(
        False, description="true: the saved detector has the members of all folds; false: those of the first fold"
    )
    fold_test: bool = Field(
        False,
        description="with folds: true: the folds are of all normal images, those of the test too, and each is tested "
        "once, by the detector that was fitted without its fold; false: all detectors are tested on the test images",
    )
    synthetic: int = Field(
        128,
        ge=0,
        le=100_000,
        description="number of defects drawn into held-out normal images, by whose AUROC runs can be compared without "
        "test images; 0: none",
    )
    thumbnails: int = Field(
        240,
        ge=0,
        le=2_000,
        description="number of test images that report.html shows, of all categories together: those that the "
        "threshold gets most wrong come first, then the closest calls",
    )
    output: str = Field("runs", min_length=1, description="folder of the runs, relative to the working directory")

    @model_validator(mode="after")
    def _tested_once(self) -> RunTable:
        if self.fold_test and self.folds == 1:
            raise ValueError("fold_test is for folds above 1; set run.folds or remove fold_test")
        if self.fold_test and self.fold_members:
            raise ValueError(
                "expected fold_test or fold_members, found both: the members of all folds have seen every normal image"
            )
        return self


class TrainingTable(Params):
    """How an adapter is trained; a key that is left out has the adapter's own value."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["minibatches", "epochs"]}})

    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(None, description="optimizer that updates the weights")
    learning_rate: float | None = Field(None, gt=0, le=10, description="learning rate of the optimizer")
    momentum: float | None = Field(None, ge=0, lt=1, description="momentum of sgd, or first beta of adam and adamw")
    weight_decay: float | None = Field(None, ge=0, le=10, description="decay of the weights towards zero")
    clip_norm: float | None = Field(None, gt=0, description="norm to which a step's gradient is clipped")
    relative_steps: bool | None = Field(
        None,
        description="true: with sgd, each gradient is made as long as the weights that are trained, so that "
        "learning_rate is the share by which they change in a step, before momentum; it replaces clip_norm",
    )
    rate_decay: Literal["none", "linear", "cosine"] | None = Field(
        None, description="how learning rates go down to 0 over each stage: not, on a line, or on half a cosine"
    )
    warmup: int | None = Field(
        None, ge=0, description="steps at the beginning of each stage over which learning rates rise to what they are"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the mean of the weights that each step keeps, such as 0.999: this exponential moving "
        "average (EMA) is then what stoppers judge and what is scored and saved, instead of the weights themselves",
    )
    batch_size: int | None = Field(None, ge=1, le=65536, description="normal images per step")
    minibatches: int | None = Field(None, ge=1, description="length of the training in steps; or give epochs")
    epochs: float | None = Field(
        None, gt=0, description="length of the training in rounds through the normal images; or give minibatches"
    )

    snapshot_epochs: float | None = Field(
        None,
        ge=0,
        description="rounds through the normal images between two snapshots, whose distances are reported; 0: no "
        "snapshots",
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingTable:
        if self.minibatches is not None and self.epochs is not None:
            raise ValueError("expected minibatches or epochs, found both; remove one")
        return self


class ThresholdTable(Params):
    """The score above which an image counts as anomalous, and the value of its map above which a pixel does."""

    false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="share of normal images that may be called anomalous"
    )
    value: float | None = Field(
        None,
        ge=-FLOAT32_MAX,
        le=FLOAT32_MAX,
        title="a number, the score above which an image is anomalous",
        description="score above which an image is anomalous, if you know it: nothing is promised of it then, and "
        "false_positive_rate is that of pixels alone; default: what false_positive_rate asks for",
    )
    method: Method = Field(
        "split",
        description="split: the threshold comes from one image of each group that data.calibration keeps back, which "
        "is exact; hierarchical: from all of them, each weighing what its group's share of it is, guaranteed and "
        "conservative; pooled: from all as if none belonged together, approximate; cross: from every normal image, "
        "scored by a detector that was fitted without its fold, approximate",
    )
    per: Per = Field(
        "image",
        description="what is promised few false alarms: image, one image drawn from a new part; part, a new part, "
        "which is called anomalous when any of its images is",
    )
    folds: int | None = Field(None, ge=2, le=100, description="number of folds of method cross; default: 5")
    pixel: bool = Field(True, description="whether pixels get a threshold of their own if there are maps")

    @model_validator(mode="after")
    def _folds_of_cross(self) -> ThresholdTable:
        if self.folds is not None and self.method != "cross":
            raise ValueError('folds are for method = "cross"; remove folds or set the method')
        if self.per == "part" and self.method in ("hierarchical", "pooled"):
            raise ValueError(
                f'expected "split" or "cross" with per = "part", which takes the highest score of each part, found '
                f'"{self.method}"; remove method'
            )
        return self

    @property
    def parts(self) -> int:
        """The number of folds of the normal images; 0 for method ``split``."""
        return (self.folds or 5) if self.method == "cross" else 0


class ScorerTable(Params):
    """The keys of ``[scorer]`` that every scorer has besides ``use``."""

    fit: Literal["adapted", "initial"] = Field(
        "adapted", description="features that the scorer is fitted on: the adapted ones, or those from before adapting"
    )
    levels: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="levels that the scorer reads, such as those of a head that was trained; default: all"
    )


SERVERS: Final = ("http", "https")
STORES: Final = ("databricks", "file", "mssql", "mysql", "postgresql", "sqlite")
"""Schemes of tracking URIs that are no server's; those of databases may name a driver behind a plus sign."""


class LogTable(Params):
    """Where else a run is logged: its recipe, losses, metrics and heatmaps; scores do not depend on it."""

    tensorboard: bool = Field(
        False, description="true: event files for TensorBoard in the folder of the run; extra `tensorboard`"
    )
    mlflow: bool | str = Field(
        False,
        repr=False,  # it may hold a password
        examples=["http://localhost:5000"],
        description="true: a run in MLflow, where that logs by itself (MLFLOW_TRACKING_URI, or a database in the "
        "working directory); or the URI of a server; extra `mlflow`",
    )
    wandb: bool = Field(
        False,
        description="true: files for Weights & Biases in the folder of the run, which are uploaded only if WANDB_MODE "
        "says so; extra `wandb`",
    )

    @field_validator("mlflow")
    @classmethod
    def _is_uri(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and not _tracks(value):
            raise ValueError(
                "expected true, false or a tracking URI with its scheme, such as "
                f'"http://localhost:5000", found {toml_value(without_credentials(value))}'
            )
        return value


def _tracks(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        if parts.scheme in SERVERS:
            return bool(parts.hostname) and parts.port != 0 and not any(map(str.isspace, uri))
    except ValueError:  # a port that is no number, half of an IPv6 address
        return False
    return uri == "databricks" or (parts.scheme.partition("+")[0] in STORES and ":/" in uri)
