"""The recipe's tables that belong to the core: their keys, ranges and defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from adkit.plugin.params import Params


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class RunTable(Params):
    """What the run is called, where it computes and where it leaves its results."""

    name: str = Field(
        "run",
        pattern=r"^[^./\\\s\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$",
        title='a folder name, such as "tile": no slash, no dot or space at its start',
        description="folder under output; default: the recipe file's stem",
        json_schema_extra=_without_default,
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of all randomness")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
        description="where to compute; auto: a GPU where there is one",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="what the extractor computes in; auto: by what the device is able to"
    )
    folds: int = Field(
        1, ge=1, le=100, description="above 1: k-fold over the normal training images, metrics as mean and SEM"
    )
    fold_members: bool = Field(False, description="whether the detector has the models of all folds, or of the first")
    output: str = Field("runs", min_length=1, description="folder of the runs, relative to the working directory")


class TrainingTable(Params):
    """How an adapter is trained; what is left out comes from the adapter."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["minibatches", "epochs"]}})

    optimizer: Literal["sgd", "adam", "adamw"] | None = Field(None, description="rule of the steps")
    learning_rate: float | None = Field(None, gt=0, le=10, description="size of the steps")
    momentum: float | None = Field(None, ge=0, lt=1, description="momentum of sgd, first beta of adam and adamw")
    weight_decay: float | None = Field(None, ge=0, le=10, description="pull of the weights towards zero")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a step's gradient")
    batch_size: int | None = Field(None, ge=1, le=65536, description="images per step")
    minibatches: int | None = Field(None, ge=1, description="length in steps; or give epochs")
    epochs: float | None = Field(
        None, gt=0, description="length in rounds through the normal images; or give minibatches"
    )

    snapshot_epochs: float | None = Field(
        None, ge=0, description="rounds after each of which the state is kept and its distances are reported; 0: never"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingTable:
        if self.minibatches is not None and self.epochs is not None:
            raise ValueError("expected minibatches or epochs, found both; remove one")
        return self


class ThresholdTable(Params):
    """Above which score an image is called anomalous, and above which value of its map per pixel."""

    false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="share of normal images that may be called anomalous"
    )
    method: Literal["split", "cross"] = Field(
        "split",
        description="split: images of data.calibration calibrate; cross: every normal image fits and calibrates, "
        "in folds",
    )
    folds: int | None = Field(None, ge=2, le=100, description="of cross; default: 5")
    pixel: bool = Field(True, description="whether pixels get a threshold of their own, where there are maps")

    @model_validator(mode="after")
    def _folds_of_cross(self) -> ThresholdTable:
        if self.folds is not None and self.method != "cross":
            raise ValueError('folds are for method = "cross"; remove folds or set the method')
        return self

    @property
    def parts(self) -> int:
        """Folds of the normal images; 0 where there are none."""
        return (self.folds or 5) if self.method == "cross" else 0


class ScorerTable(Params):
    """The keys of ``[scorer]`` that every scorer has beside ``use``."""

    fit: Literal["adapted", "initial"] = Field(
        "adapted", description="fit on the adapted features, or on those from before adapting"
    )
