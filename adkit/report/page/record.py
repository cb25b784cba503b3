"""What a category leaves in its run's folder for the page: every score, and the pictures that are shown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adkit.utils.atomic import sync, whole_file

FOLDER: Final = "page"
"""The folder of a run that has the records, ``000000.json`` and so on in the order of the categories."""
LISTED: Final = 10_000
"""Images that a page names, of all categories together; all of them count in its figures."""


Box = tuple[float, float, float, float]
"""Left, top, width and height of a cell, as shares of the picture around it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Patch(_Part):
    """A cell of an image with what is around it."""

    image: str
    """The id of the image."""
    place: tuple[int, int]
    """Where the cell's center lies in the image: pixels from its left edge and from its top."""
    picture: str | None
    """The surroundings as a square JPEG, base64; None where the image can no longer be read."""
    box: Box
    distance: float = 0.0
    """How far it is from the cell that it is compared with."""


class Mean(_Part):
    """What normal images show at a place on average."""

    picture: str
    """The mean of their surroundings of the place as a square JPEG, base64."""
    box: Box
    images: int
    """Of how many images it is."""


class Evidence(_Part):
    """The cell of an image with the highest score, beside the normal cells that are closest to it, or their mean."""

    level: str
    member: int | None = None
    """The number, from 1, of the member that finds the image least normal; None where there is one."""
    patch: Patch
    nearest: list[Patch]
    mean: Mean | None = None
    """What normal images show there, where the scorer names no cells."""


class Picture(_Part):
    """A test image as the page shows it."""

    row: int
    """Its place among the category's test images."""
    width: int
    height: int
    """The size of the small picture in pixels, to which the outline refers."""
    image: str | None
    """A JPEG, base64; None where the image can no longer be read."""
    map: str | None
    """A gray PNG, base64, which covers the picture: the anomaly map from ``low`` (0) to ``high`` (255)."""
    low: float
    high: float
    outline: str | None
    """The outlines of the mask, as the path of an SVG; None without a mask."""
    evidence: Evidence | None = None


class Pro(_Part):
    """The PRO curve at some thresholds on the values of maps, which rise."""

    thresholds: list[float]
    alarms: list[float]
    """The false-positive rate of pixels at each."""
    found: list[float]
    """The mean share of each component that is found."""


class PageRecord(_Part):
    """The test images of a category as the saved detector scored them; arrays are base64 of little-endian numbers."""

    # The key in the file is "schema", as in report.json.
    schema_version: Literal["adkit.page/1"] = Field("adkit.page/1", alias="schema")
    category: str
    kinds: list[str]
    scores: str
    """float32: the raw score of each test image."""
    labels: str
    """uint8: 0 normal, 1 anomalous."""
    kind_of: str
    """uint8, uint16 where there are more than 256 kinds: places in ``kinds``."""
    group_of: str | None
    """uint32: equal numbers for images of one group; None where each is a group of its own."""
    group_names: list[str]
    """The names of the groups by number; empty where the data names none."""
    peaks: str | None
    """float32: the highest value of each image's map; None without maps or a pixel threshold."""
    calibration: str
    """float32: the scores that the threshold comes from."""
    calibration_groups: str | None
    """uint32: equal numbers for scores of one group, where those weigh less."""
    calibration_peaks: str | None
    """float32: the highest values of the maps of the same images."""
    names: list[tuple[int, str]]
    """(row, id) of the images that the page lists: those that the threshold gets most wrong come first."""
    pictures: list[Picture]
    pro: Pro | None
    notes: list[str]
    """Sentences on what the page shows of this category."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuse arrays that are none, or of other lengths than those of the images, and rows and kinds beyond them."""
        count, groups = len(unpacked(self.scores, "float32")), self.group_of
        kinds = unpacked(self.kind_of, "uint8" if len(self.kinds) <= 256 else "uint16")
        arrays = [unpacked(self.labels, "uint8"), kinds, unpacked(groups, "uint32") if groups else kinds]
        arrays += [unpacked(self.peaks, "float32")] if self.peaks else []
        if any(len(one) != count for one in arrays):
            raise ValueError(f"expected {count} numbers in each array of the test images")
        held_out = len(unpacked(self.calibration, "float32"))
        for text, dtype in ((self.calibration_groups, "uint32"), (self.calibration_peaks, "float32")):
            if text is not None and len(unpacked(text, dtype)) != held_out:
                raise ValueError(f"expected {held_out} numbers in each array of the calibration images")
        rows = [row for row, _ in self.names] + [one.row for one in self.pictures]
        if not all(0 <= row < count for row in rows) or not np.all(kinds < len(self.kinds)):
            raise ValueError("expected rows of the test images and places of their kinds")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record that ``save`` wrote; raises ValueError where it is damaged."""
        return cls.model_validate_json(path.read_bytes())

    def save(self, run: Path, number: int) -> None:
        """Write the record of the category at place ``number``, from 0, into the folder of a run."""
        with whole_file(record_path(run, number)) as draft:
            draft.write_text(self.model_dump_json(by_alias=True), encoding="utf-8")
            sync(draft)  # the record that the category is finished may not outlast it


def record_path(run: Path, number: int) -> Path:
    """Where the record of the category at place ``number``, from 0, lies in the folder of a run."""
    return run / FOLDER / f"{number:06}.json"


def packed(values: Sequence[Any] | NDArray[Any], dtype: str) -> str:
    """Numbers as base64 of their bytes, little-endian: a tenth of the time and half the size of digits."""
    return base64.b64encode(np.asarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode("ascii")


def unpacked(text: str, dtype: str) -> NDArray[Any]:
    """The numbers that ``packed`` made ``text`` of."""
    return np.frombuffer(base64.b64decode(text, validate=True), np.dtype(dtype).newbyteorder("<")).astype(dtype)


def by_interest(scores: NDArray[Any], labels: NDArray[Any], threshold: float | None) -> NDArray[np.intp]:
    """Sort images by how much they deserve a look: those that the threshold gets most wrong first, then close calls.

    Without a threshold the highest normal and the lowest anomalous scores come first, in turn.

    Args:
        scores: (n,) raw scores.
        labels: (n,) 0 normal, 1 anomalous.

    Returns:
        (n,) places of the images.
    """
    signed = np.where(labels == 1, scores, -scores).astype(np.float64)
    if threshold is not None:
        return np.argsort(signed - np.where(labels == 1, threshold, -threshold), kind="stable")
    turn = np.empty(len(signed), np.int64)
    for label in (0, 1):
        of_label = labels == label
        turn[of_label] = np.argsort(np.argsort(signed[of_label], kind="stable"), kind="stable")
    return np.lexsort((labels, turn))


def allotted(counts: Sequence[int], total: int) -> list[int]:
    """Share ``total`` among categories of so many images: as evenly as they have images, and none more than its own."""
    shares, left = [0] * len(counts), total
    for place, index in enumerate(sorted(range(len(counts)), key=lambda index: counts[index])):
        even = -(-left // (len(counts) - place))
        shares[index] = min(counts[index], even)
        left -= shares[index]
    return shares
