"""The keys of ``[data]`` and ``[auxiliary]``: one table a format."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from adkit.plugin.params import Params

Resize = Literal["squash", "short_side", "pad"]


class DataTable(Params):
    """Keys that every format takes."""

    format: str = Field(description="how the pictures lie on disk")
    root: str = Field(min_length=1, description="where the pictures lie, relative to the working directory")
    resize: Resize = Field(
        default="squash",
        description="how a picture becomes square: squash both sides, fit the short side and crop, or pad",
    )
    image_size: int = Field(default=224, ge=8, le=8192, description="side in pixels that pictures are resized to")
    crop: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="side of a centre crop after resizing; default: no further crop",
    )
    metric_size: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="side of the grid of pixel metrics; default: the extractor's picture",
    )
    batch_size: int = Field(default=32, ge=1, le=65536, description="pictures in memory at a time")
    calibration: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="share of the normal training pictures kept for scale and threshold",
    )
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="share of unreadable pictures above which the run stops"
    )

    @field_validator("crop")
    @classmethod
    def _fits(cls, crop: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("image_size")
        if crop is not None and side is not None and crop > side:
            raise ValueError(f"expected at most image_size ({side}), found {crop}")
        return crop


class MvtecTable(DataTable):
    """``<root>/<category>/train/good``, ``test/<kind>``, ``ground_truth/<kind>/<stem>_mask.png``."""

    format: Literal["mvtec"] = Field(default="mvtec", description="folders as MVTec AD has them")
    category: str | tuple[str, ...] = Field(
        default="*", min_length=1, description='one category, a list, or "*" for all'
    )


class FolderTable(DataTable):
    """A folder of normal pictures, and perhaps one of anomalous ones."""

    format: Literal["folder"] = Field(default="folder", description="a folder of pictures")
    normal: str = Field(default="good", min_length=1, description='subfolder of normal pictures; "." for the root')
    anomalous: str | None = Field(default=None, min_length=1, description="subfolder of anomalous pictures, if any")
    masks: str | None = Field(
        default=None,
        min_length=1,
        description="subfolder of masks with the stems of the anomalous pictures, if any",
    )
    test_normal: str | None = Field(
        default=None,
        min_length=1,
        description="subfolder of normal test pictures; default: test_share of the normal",
    )
    test_share: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="share of the normal pictures to test on where there are anomalous ones",
    )


class ClassesTable(DataTable):
    """``<root>/train/<class>/…`` and ``<root>/test/<class>/…``."""

    format: Literal["classes"] = Field(default="classes", description="a folder a class")
    normal: str | tuple[str, ...] = Field(
        min_length=1, description='the normal class, a list of them, or "*": each class against the rest'
    )


class ArraysTable(DataTable):
    """A folder of idx files as MNIST has them, or one npz file."""

    format: Literal["arrays"] = Field(default="arrays", description="idx files or an npz file")
    normal: int | tuple[int, ...] | Literal["*"] = Field(
        description='the normal label, a list of them, or "*": each label against the rest'
    )
    names: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the labels 0, 1, 2 and so on; default: the numbers"
    )


class CsvTable(DataTable):
    """A csv file with the columns path, label and split, and if wanted mask and category."""

    format: Literal["csv"] = Field(default="csv", description="a list of pictures")


class TexturesTable(DataTable):
    """Photographs of three textures with drawn defects, written to root when it does not exist."""

    format: Literal["textures"] = Field(default="textures", description="drawn defects on photographs of textures")
    root: str = Field(default="data/textures", min_length=1, description="where the textures are written and read")
    category: str | tuple[str, ...] = Field(
        default="*", min_length=1, description='one category, a list, or "*" for all'
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the crops and the drawn defects")


FORMATS: Mapping[str, type[DataTable]] = MappingProxyType(
    {
        "mvtec": MvtecTable,
        "folder": FolderTable,
        "classes": ClassesTable,
        "arrays": ArraysTable,
        "csv": CsvTable,
        "textures": TexturesTable,
    }
)
"""Format name → the table of its keys."""
