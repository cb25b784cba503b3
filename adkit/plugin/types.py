"""What the five kinds of component are asked and what they answer.

Protocols and frozen dataclasses: there is no base class to inherit, and importing this module does not
import torch. Tensors are channels last, float32, on the device of the context, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


Fuse = Literal["mean", "max_ratio"]
"""How members become one: the mean of their scores, or the largest of their scores over their scales."""

POOL = "pool"
"""The level that the backbone's classifier reads: shape ``(n, 1, 1, c)``."""


@dataclass(frozen=True)
class Geometry:
    """Where a level's cells lie in the image that the extractor was given, in its pixels, as (y, x).

    The image spans [0, height] × [0, width]: the first pixel's center is (0.5, 0.5), so cell ``(i, j)`` is
    centered at ``(start[0] + i * step[0], start[1] + j * step[1])``.
    """

    start: tuple[float, float]
    step: tuple[float, float]

    @staticmethod
    def covering(grid: tuple[int, int], size: tuple[int, int]) -> Geometry:
        """The geometry of ``grid`` equal cells that tile an image of ``size`` (height, width)."""
        step = (size[0] / grid[0], size[1] / grid[1])
        return Geometry(start=(step[0] / 2, step[1] / 2), step=step)


@dataclass(frozen=True)
class Level:
    """What one level of features looks like before any image has been seen."""

    channels: int
    grid: tuple[int, int]
    """(height, width) in cells; (1, 1) for a pooled embedding."""
    geometry: Geometry

    @property
    def spatial(self) -> bool:
        return self.grid != (1, 1)


@dataclass(frozen=True)
class Batch:
    """Images on their way to an extractor."""

    images: Tensor
    """(b, 3, H, W) float32 RGB in [0, 1]; normalizing is the extractor's business."""
    ids: tuple[str, ...]
    """One name per image: its path, or a key such as ``train-images#17``."""
    labels: Tensor | None = None
    """(b,) int64: 0 normal, 1 anomalous; absent in training."""
    kinds: tuple[str, ...] | None = None
    """What each shows, as its data set has it: ``good``, ``crack``, the name of a class; absent where labels are."""
    masks: Tensor | None = None
    """(b, M, M) bool at the metric size, or (b, H, W) from an adapter that draws anomalies."""
    regions: Tensor | None = None
    """(b, 4) int64 top, left, bottom, right: the part of each input that shows the image, where padding
    does not fill the rest. Absent where every image is filled."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Features(Mapping[str, "Tensor"]):
    """Level name → tensor ``(n, h, w, c)`` float32, in the order in which the recipe names the levels."""

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
        return next(iter(self.levels.values())).shape[0]


@dataclass(frozen=True)
class Scores:
    """Raw anomaly scores: higher is more anomalous, in the scorer's own unit, never clamped or rescaled."""

    image: Tensor
    """(n,) float32."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """Level name → (n, h, w) float32; empty where the scorer does not localize.

    A level of one cell says nothing about where and does not belong here; ``adkit.toolkit.scoring.spatial`` leaves it
    out.
    """
    geometry: Mapping[str, Geometry] = field(default_factory=dict)
    """Level name → geometry, for every level in ``maps``."""
    levels: Mapping[str, Tensor] = field(default_factory=dict)
    """Level name → (n,) float32: what each level alone gives the image, where ``image`` is their mean; else empty."""


class Stream(Protocol):
    """Features of many images, a batch at a time; it can be walked more than once, always in one order.

    ``images`` is exact once the stream has been walked; before that it may count files that then turn out
    to be unreadable, so it is an upper bound.
    """

    @property
    def levels(self) -> Mapping[str, Level]: ...

    @property
    def count(self) -> int: ...

    def __iter__(self) -> Iterator[Features]: ...


class ImageStream(Stream, Protocol):
    """A stream that also gives the images themselves."""

    @property
    def kinds(self) -> Sequence[str]:
        """Everything that ``Batch.kinds`` may name, each once, in the order of their names; 2 comes before 10."""
        ...

    def batches(self) -> Iterator[Batch]:
        """The same images in the same order; with labels and kinds where those are known."""
        ...
