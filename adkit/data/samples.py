"""What a data set is: categories of samples, each of which says where its image lies and what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

NORMAL_KIND = "good"


def in_order(kinds: Iterable[str]) -> list[str]:
    """Each kind once, by name, numbers by their size: 2 comes before 10."""

    def key(kind: str) -> list[tuple[bool, int, str]]:
        return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", kind)]

    return sorted(set(kinds), key=key)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """The images of one array in a file; two are equal when they name the same array of the same file."""

    path: Path
    key: str
    array: npt.NDArray[np.uint8] = field(compare=False, repr=False)
    """(n, h, w) gray or (n, h, w, 3) RGB; read once, held as long as the samples that point to it."""


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
        """(h, w) or (h, w, 3)."""
        pixels: npt.NDArray[np.uint8] = self.file.array[self.index]
        return pixels


Source = Path | ArrayItem


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: where it lies and what it shows."""

    id: str
    """Its path below the data root with forward slashes, or ``train-images#17``: alike on every machine."""
    source: Source
    label: int
    """0 normal, 1 anomalous."""
    kind: str
    """``good``, ``crack``, the name of a class."""
    mask: Path | None = None
    """An image whose values above 0 are anomalous, or a folder of such images, whose union counts."""


@dataclass(frozen=True)
class Category:
    """What one detector is fitted on and judged by; training and calibration images are normal."""

    name: str
    train: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    test: tuple[Sample, ...]
    folds: tuple[tuple[Sample, ...], ...] = ()
    """Parts of ``train``, where each calibrates what the others fit; ``calibration`` is empty then."""
    equal: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    """Id → a number that images of equal content have in common; none for an image that is like no other."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image of it, in that order."""
        return (*self.train, *self.calibration, *self.test)


@dataclass(frozen=True)
class Dataset:
    """The categories of a run, ready to be loaded."""

    categories: tuple[Category, ...]
    warnings: tuple[str, ...]
    shared: bool
    """Whether the categories are classes of the same images, so that features of one serve all."""
