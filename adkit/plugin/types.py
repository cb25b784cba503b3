"""The types that flow between components: batches, features, scores, and streams of them.

They are protocols and frozen dataclasses, and importing this module does not import torch.
Tensors are channels last, float32, on the device of the context, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


Fuse = Literal["mean", "max_ratio"]
"""How the members of a detector become one: the mean of their scores, or the largest score over its scale."""

POOL = "pool"
"""The name of the level that the backbone's classifier reads, of shape ``(n, 1, 1, c)``."""


@dataclass(frozen=True)
class Geometry:
    """Where a level's cells lie in the extractor's input, in its pixels, as (y, x).

    The input spans [0, height] × [0, width]: the first pixel's center is (0.5, 0.5), and cell ``(i, j)`` is
    centered at ``(start[0] + i * step[0], start[1] + j * step[1])``, or where ``centers`` says.
    """

    start: tuple[float, float]
    step: tuple[float, float]
    centers: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """The centers of all rows and of all columns, ascending, where they are not evenly spaced; ``start`` and ``step``
    are then those of as many evenly spaced cells with the same first and last one."""

    @staticmethod
    def at(rows: Sequence[float], columns: Sequence[float]) -> Geometry:
        """The geometry of cells at the crossings of two or more rows and two or more columns, given by their centers.

        Raises:
            ValueError: there are fewer, or they are not ascending.
        """
        for centers in (rows, columns):
            if len(centers) < 2 or any(one >= other for one, other in pairwise(centers)):
                raise ValueError(f"centers: expected two or more, ascending, found {tuple(centers)}")
        step = tuple((centers[-1] - centers[0]) / (len(centers) - 1) for centers in (rows, columns))
        return Geometry((rows[0], columns[0]), (step[0], step[1]), (tuple(rows), tuple(columns)))

    @staticmethod
    def covering(grid: tuple[int, int], size: tuple[int, int]) -> Geometry:
        """The geometry of ``grid`` (rows, columns) equal cells that tile an input of ``size`` (height, width)."""
        step = (size[0] / grid[0], size[1] / grid[1])
        return Geometry(start=(step[0] / 2, step[1] / 2), step=step)


@dataclass(frozen=True)
class Level:
    """The channels, grid and geometry of one level of features, which are known before any image is seen."""

    channels: int
    grid: tuple[int, int]
    """(height, width) of the level in cells; (1, 1) for a pooled embedding."""
    geometry: Geometry

    @property
    def spatial(self) -> bool:
        """Whether the level has more than one cell, and so says something about where."""
        return self.grid != (1, 1)


@dataclass(frozen=True)
class Batch:
    """A batch of b inputs for an extractor, with what is known about the images that they are made of."""

    images: Tensor
    """(b, 3, H, W) float32 RGB in [0, 1]: the inputs, which the extractor normalizes itself."""
    ids: tuple[str, ...]
    """One name per image: its path, or a key such as ``train-images#17``."""
    labels: Tensor | None = None
    """(b,) int64: the labels, 0 normal and 1 anomalous; None in training."""
    kinds: tuple[str, ...] | None = None
    """What each image shows, as its data set calls it: ``good``, ``crack``, the name of a class; None if unknown."""
    groups: tuple[str, ...] | None = None
    """The key of the part that each image shows: equal for images of one part; None where the data does not say."""
    masks: Tensor | None = None
    """(b, M, M) bool: the anomalous pixels at the metric size, or (b, H, W) from an adapter that draws anomalies."""
    regions: Tensor | None = None
    """(b, 4) int64 top, left, bottom, right: the part of each input that shows the image; the rest is padding.
    None where every input is filled by its image."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Features(Mapping[str, "Tensor"]):
    """The features of n images: level name → ``(n, h, w, c)`` float32, in the order of the recipe's levels."""

    levels: Mapping[str, Tensor]
    geometry: Mapping[str, Geometry]

    def __getitem__(self, name: str) -> Tensor:
        return self.levels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def count(self) -> int:
        """The number of images."""
        return next(iter(self.levels.values())).shape[0]


@dataclass(frozen=True)
class Scores:
    """Raw anomaly scores of n images: higher is more anomalous, in the scorer's unit, never clamped or rescaled."""

    image: Tensor
    """(n,) float32: the score of each image."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Level name → (n, h, w) float32: the score of each cell, of all images, or of none where it does not localize.

    A level of one cell says nothing about where and does not belong here; ``adkit.toolkit.scoring.spatial`` leaves it
    out.
    """
    geometry: Mapping[str, Geometry] = field(default_factory=dict)
    """Level name → the geometry of its cells; needed only for a map whose cells are not those of the level of its name,
    and complete in what a localizer is given."""
    levels: Mapping[str, Tensor] = field(default_factory=dict)
    """Level name → (n,) float32: each level's own scores of the images, where ``image`` is their mean; else empty."""


class Stream(Protocol):
    """The features of many images, in batches; it can be iterated over more than once, always in the same order."""

    @property
    def levels(self) -> Mapping[str, Level]:
        """The levels of the features, by name."""
        ...

    @property
    def count(self) -> int:
        """The number of images: exact once the stream has been iterated over to its end.

        Before that it is an upper bound, since it may include files that then turn out to be unreadable.
        """
        ...

    def __iter__(self) -> Iterator[Features]: ...


class ImageStream(Stream, Protocol):
    """A stream of features that can also give the images themselves."""

    @property
    def kinds(self) -> Sequence[str]:
        """Every kind that ``Batch.kinds`` may name, once, in the order of their names; 2 comes before 10."""
        ...

    def batches(self) -> Iterator[Batch]:
        """The same images in the same order, with labels and kinds where those are known."""
        ...
