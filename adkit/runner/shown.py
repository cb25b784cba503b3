"""What a category may put on the page, and what is kept for it while its test images pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from adkit.data.samples import Dataset
from adkit.inference.assemble import Assembled
from adkit.inference.pipeline import Fused
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features, Geometry, Scores
from adkit.report.page.pictures import MAP_SIDE, Thumbnails
from adkit.report.page.record import LISTED, allotted
from adkit.toolkit.resample import centers_of

NEIGHBORS: Final = 3
"""Normal cells that an image's is compared with."""
EXPLAINED: Final = 240
"""Images that a page shows with evidence; patches of more would make it too large."""
MOST_BYTES: Final = 40_000
"""What a picture and its map may take at most."""
ALL_BYTES: Final = 6_000_000
"""What all pictures and maps of a page may take together, before base64 makes a third more of them; patches not."""


@dataclass(frozen=True)
class PageShare:
    """What one category may put on the page."""

    pictures: int
    """Images that are shown."""
    explained: int
    """Images that are shown with evidence."""
    listed: int
    """Images that are named."""
    thumbnails: Thumbnails


@dataclass(frozen=True)
class Highest:
    """The cell of an image that the scorer finds least normal."""

    level: str
    grid: tuple[int, int]
    """(height, width) of the level in cells."""
    geometry: Geometry
    cell: int
    """The cell's number in the image, row by row."""
    features: Tensor
    """(c,) those of the cell."""
    member: int = 0
    """The number of the member whose scorer it is."""


@dataclass(frozen=True)
class Nearest:
    """The normal cells that are closest to the highest one of an image."""

    to: Highest
    distances: list[float]
    numbers: list[int]
    """Numbers of the normal cells in the training images, as ``Scorer.nearest`` counts them."""

    def of(self, images: int) -> bool:
        """Whether they are numbers of cells of so many images."""
        size = self.to.grid[0] * self.to.grid[1]
        return all(0 <= number < images * size for number in self.numbers)


@dataclass(frozen=True)
class Kept:
    """What is kept of an image that may be shown."""

    id: str
    score: float
    map: NDArray[np.float32] | None
    """(h, w) small map over the input."""
    highest: Highest | None


class Keeper:
    """Keeps what the page takes of images that may be shown, while test images pass: of at most twice as many."""

    def __init__(self, count: int, labels: Mapping[str, int]) -> None:
        """
        Args:
            count: images that are shown.
            labels: id → label of each image that will pass.
        """
        self._count = count
        self._labels = labels
        self._kept: list[Kept] = []

    def add(self, ids: Sequence[str], scores: Fused, maps: Tensor | None, cells: Sequence[Highest | None]) -> None:
        """Take a batch: its scores, its maps (b, H, W) over the input, and the highest cell of each image."""
        small: Sequence[NDArray[np.float32] | None] = [None] * len(ids)
        if maps is not None:
            # The highest value counts: a small defect must not be averaged away.
            side = [min(MAP_SIDE, length) for length in maps.shape[1:]]
            pooled = adaptive_max_pool2d(maps[:, None].float(), side)[:, 0].cpu().numpy()
            small = [one.copy() for one in pooled]  # none holds those of its batch
        self._kept += map(Kept, ids, scores.image.tolist(), small, cells)
        if len(self._kept) > 2 * self._count:
            self._prune()

    def _prune(self) -> None:
        kept = []
        for label, sign in ((0, -1), (1, 1)):  # in the order of interest, whatever the threshold is
            of_label = sorted(
                (sign * one.score, place) for place, one in enumerate(self._kept) if self._labels[one.id] == label
            )
            kept += [self._kept[place] for _, place in of_label[: self._count]]
        self._kept = kept

    @property
    def kept(self) -> dict[str, Kept]:
        """Id → what is kept of it, for every image that may be shown."""
        return {one.id: one for one in self._kept}


def inside(maps: Tensor, regions: Tensor | None) -> Tensor:
    """Maps (n, H, W) in which the padding around an image has the lowest value of the image itself.

    Args:
        regions: (n, 4) top, left, bottom, right of the part that shows the image; None: all of it does.
    """
    if regions is None:
        return maps
    filled = torch.empty_like(maps)
    for one, found, (top, left, bottom, right) in zip(maps, filled, regions.tolist(), strict=True):
        shown = one[top:bottom, left:right]
        found.fill_(shown.amin())[top:bottom, left:right] = shown
    return filled


def _of_image(values: Tensor, geometry: Geometry, regions: Tensor | None) -> Tensor:
    """Values of cells (n, h, w), without those whose centers lie in the padding; all where every center does."""
    if regions is None:
        return values
    edges = regions.to(values.device)
    within = torch.ones_like(values, dtype=torch.bool)
    for axis in (0, 1):
        centers = centers_of(geometry, axis, values.shape[1 + axis], values.device)
        first, last = edges[:, axis, None], edges[:, axis + 2, None]
        along = (first <= centers) & (centers < last)  # (n, cells)
        within &= along[:, :, None] if axis == 0 else along[:, None]
    within |= ~within.flatten(1).any(1)[:, None, None]
    return values.masked_fill(~within, -torch.inf)


def highest_cells(scores: Scores, features: Features, regions: Tensor | None = None) -> list[Highest | None]:
    """For each image, the cell with the highest value; None where the scorer gives none.

    Of several levels it is the one whose highest value is the highest. A level of one cell counts where it is the first
    and there are no maps.

    Args:
        regions: (n, 4) top, left, bottom, right of the part of each input that shows the image; None: all of it does.
    """
    images = len(scores.image)
    first = next(iter(features))
    whole = {first: scores.image[:, None, None]} if features[first].shape[1:3] == (1, 1) else {}
    maps = {
        name: _of_image(values, features.geometry[name], regions)
        for name, values in (scores.maps or whole).items()
        if name in features and features[name].shape[:3] == values.shape
    }
    if not maps:
        return [None] * images
    highest = {name: values.flatten(1).max(1) for name, values in maps.items()}
    names = list(highest)
    chosen = torch.stack([highest[name].values for name in names]).argmax(0).tolist()
    found: list[Highest | None] = []
    for row, name in enumerate(names[index] for index in chosen):
        height, width = maps[name].shape[1:]
        cell = int(highest[name].indices[row])
        own = features[name][row].flatten(0, 1)[cell].clone()  # the batch need not stay
        found.append(Highest(name, (height, width), features.geometry[name], cell, own))
    return found


def evidence(scorer: Scorer, cells: Sequence[Highest | None]) -> list[Nearest | None]:
    """The normal cells closest to each of ``cells``; None where the scorer knows none."""
    found: list[Nearest | None] = [None] * len(cells)
    for level in dict.fromkeys(one.level for one in cells if one is not None):
        asked = {row: one for row, one in enumerate(cells) if one is not None and one.level == level}
        near = scorer.nearest(level, torch.stack([one.features for one in asked.values()]), NEIGHBORS)
        if near is None:
            continue
        for (row, one), distances, numbers in zip(asked.items(), near[0].tolist(), near[1].tolist(), strict=True):
            found[row] = Nearest(one, distances, numbers)
    return found


def page_shares(dataset: Dataset, parts: Assembled) -> list[PageShare]:
    """What each category of a run may put on the page, in their order: as evenly as they have test images."""
    counts = [len(category.test) for category in dataset.categories]
    most = parts.recipe.run.thumbnails
    pictures, explained, listed = (allotted(counts, total) for total in (most, min(most, EXPLAINED), LISTED))
    room = min(MOST_BYTES, ALL_BYTES // max(sum(pictures), 1))
    threshold = parts.recipe.data.mask_threshold or 0
    thumbnails = [Thumbnails(parts.of(category).view, threshold, room) for category in dataset.categories]
    return [PageShare(*share) for share in zip(pictures, explained, listed, thumbnails, strict=True)]
