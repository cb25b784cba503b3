"""What a data set is: categories of samples, each of which says where its image is and what it shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

NORMAL_KIND = "good"


def spread_over(samples: Sequence[T], count: int) -> list[T]:
    """Select ``count`` of ``samples``, at least 2, evenly spread over them; all where there are no more than that."""
    if len(samples) <= count:
        return list(samples)
    return [samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count)]


def in_order(kinds: Iterable[str]) -> list[str]:
    """Sort kinds by name, each once, with numbers in them by their size: 2 comes before 10."""

    def key(kind: str) -> list[tuple[bool, int, str]]:
        return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", kind)]

    return sorted(set(kinds), key=key)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """The images of one array in a file; two are equal when they name the same array of the same file."""

    path: Path
    key: str
    array: npt.NDArray[np.uint8] = field(compare=False, repr=False)
    """(n, h, w) gray or (n, h, w, 3) RGB pixels of 0 to 255; read once, and held as long as samples refer to it."""


@dataclass(frozen=True, slots=True)
class ArrayItem:
    """One image inside an npz or idx file."""

    file: ArrayFile
    index: int

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def key(self) -> str:
        return self.file.key

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """(h, w) gray or (h, w, 3) RGB pixels of 0 to 255."""
        pixels: npt.NDArray[np.uint8] = self.file.array[self.index]
        return pixels


Source = Path | ArrayItem
"""Where an image is: in a file of its own, or in an array of many."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: where it is and what it shows."""

    id: str
    """The image's path below the data root with forward slashes, or ``train-images#17``; the same on every machine."""
    source: Source
    label: int
    """0 for a normal image, 1 for an anomalous one."""
    kind: str
    """What the image shows: ``good``, a kind of defect such as ``crack``, or the name of a class."""
    mask: Path | None = None
    """An image file whose values above ``mask_threshold`` mark anomalous pixels, or a folder of such files, whose union
    counts."""
    group: str | None = None
    """The key of the part that the image shows, as ``[data] group`` or the data says; None: nobody says."""

    @property
    def closed(self) -> bool:
        """Whether this stands for all that is in a folder, which cannot be listed: it is no image, and reading it says
        so."""
        return isinstance(self.source, Path) and os.path.isdir(self.source)


@dataclass(frozen=True)
class Category:
    """The images that one detector is fitted on and evaluated with; training and calibration images are normal."""

    name: str
    train: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    test: tuple[Sample, ...]
    folds: tuple[tuple[Sample, ...], ...] = ()
    """Parts of ``train``, each of which calibrates what is fitted on the others; ``calibration`` is empty then."""
    groups: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Id of each image that belongs with others → the key of its group, which no split separates: the images of one
    part, and those of equal content. Any other image is a group of its own, with its id as key."""
    range: tuple[float, float] | None = None
    """The raw values of gray images of more than 8 bits that become 0 and 255, as ``[data] range`` asks for."""

    def group_of(self, sample: Sample) -> str:
        """The key of the group that ``sample`` is in."""
        return self.groups.get(sample.id, sample.id)

    @property
    def grouped(self) -> bool:
        """Whether the data says which part an image shows."""
        return any(sample.group is not None for sample in self.samples)

    @property
    def normal(self) -> tuple[Sample, ...]:
        """Every normal image of the category: for training, calibration and test, in that order."""
        return (*self.train, *self.calibration, *(sample for sample in self.test if not sample.label))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image of the category: for training, calibration and test, in that order."""
        return (*self.train, *self.calibration, *self.test)


@dataclass(frozen=True)
class Dataset:
    """The categories of a run, ready to be loaded."""

    categories: tuple[Category, ...]
    warnings: tuple[str, ...]
    shared: bool
    """Whether the categories are classes of the same images, so that features of one serve all."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Kind of thing that lies among the images and is none, such as ``.txt`` → how many there are."""
