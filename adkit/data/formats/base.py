"""What every format has in common: the keys of ``[data]``, and what a reader finds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from adkit.data.files import PassedOver
from adkit.data.groups import is_expression, keys_by
from adkit.data.samples import Sample
from adkit.plugin.params import Params
from adkit.utils.text import toml_value

Resize = Literal["squash", "short_side", "pad"]
MaskResize = Literal["nearest", "area"]


def checked_range(range: tuple[float, float]) -> tuple[float, float]:
    """Give ``range`` back, or raise ValueError where its end is not above its beginning."""
    if not 0 < range[1] - range[0] < math.inf:
        raise ValueError(f"expected low below high, found {toml_value(list(range))}")
    return range


class DataTable(Params, ABC):
    """Keys of ``[data]`` that every format takes."""

    format: str = Field(description="how the images are laid out on disk")
    root: str = Field(
        min_length=1,
        examples=["path/to/images"],
        description="where the images are, relative to the working directory",
    )
    resize: Resize = Field(
        default="squash",
        description="how an image becomes square: squash both sides, fit the short side and crop, or pad",
    )
    image_size: int = Field(default=224, ge=8, le=8192, description="side in pixels that images are resized to")
    crop: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="side of a center crop after resizing; default: no further crop",
    )
    range: tuple[float, float] | Literal["auto"] | None = Field(
        default=None,
        title='[low, high] with low below high, or "auto"',
        examples=["auto", [800, 1200]],
        description="raw values of gray images of more than 8 bits that become black and white, those beyond being "
        "clipped; auto: the lowest and the highest of a category's training images, or of all those of classes of the "
        "same images; default: all of 16 bits, or floats from 0 to 1. Other images are left as they are",
    )
    metric_size: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="side of the grid of pixel metrics; default: the extractor's input",
    )
    mask_resize: MaskResize = Field(
        default="nearest",
        description="when a pixel of that grid is anomalous. nearest: where the mask's pixel nearest to its center is; "
        "area: where any pixel that it covers is",
    )
    mask_threshold: float | None = Field(
        default=None,
        ge=0,
        lt=65535,
        description="value of a mask above which a pixel is anomalous; default: 0, with a warning where masks have "
        "many values",
    )
    batch_size: int = Field(default=32, ge=1, le=65536, description="images in memory at a time")
    calibration: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="share of the normal training images kept for scale and threshold",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        examples=["(t\\d+)_", "folder", "folder:2"],
        description="which images show one part, so that no split separates them: an expression whose parentheses find "
        "the part in the image's id, folder or folder:N for a level of its path, or a column of a csv file; default: "
        "each image is a part of its own",
    )
    group_missing: Literal["refuse", "own"] = Field(
        default="refuse",
        description="what becomes of an image whose group is not said: the run is refused, or it is a part of its own",
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="share of unreadable images above which the run stops"
    )

    @field_validator("crop")
    @classmethod
    def _fits(cls, crop: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("image_size")
        if crop is not None and side is not None and crop > side:
            raise ValueError(f"expected at most image_size ({side}), found {crop}")
        return crop

    @field_validator("range")
    @classmethod
    def _ascends(cls, range: tuple[float, float] | str | None) -> tuple[float, float] | str | None:
        return checked_range(range) if isinstance(range, tuple) else range

    @field_validator("group")
    @classmethod
    def _says_how(cls, group: str | None) -> str | None:
        if group is not None and (is_expression(group) or not cls.has_columns):
            keys_by(group)
        return group

    has_columns: ClassVar[bool] = False
    """Whether ``group`` may name a column of the data."""
    has_masks: ClassVar[bool] = True
    """Whether anomalous images may have masks."""

    @abstractmethod
    def find(self, seed: int, notes: Notes) -> list[Found]:
        """Find the categories as they are on disk; problems and warnings are added to ``notes``."""

    @property
    def shares_images(self) -> bool:
        """Whether the categories are classes of the same images, so that features of one serve all."""
        return False


@dataclass(frozen=True)
class Found:
    """One category as it is on disk, before images are held out."""

    name: str
    normal: Sequence[Sample]
    """Normal images to train on."""
    test: Sequence[Sample]
    """Images to test on, normal and anomalous ones."""
    expected: str
    """Where normal images were looked for, for the sentence that says that there are none."""
    calibration: Sequence[Sample] | None = None
    """Images that the layout itself sets apart for calibration; None where it sets none apart."""
    test_share: float = 0.0
    """Share of the normal images to test on instead, where the layout sets none of them apart for the test."""
    without_masks: str | None = None
    """The problem where no anomalous image has a mask, though the recipe names masks."""


@dataclass(frozen=True)
class Notes:
    """Sentences gathered while images are found, so that all problems are reported at once."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=dict)
    """Everything that lies among the images and is none."""
