"""What a category may put on the page, and the maps that are kept for it while its test images pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from adkit.data.samples import Dataset
from adkit.inference.assemble import Assembled
from adkit.report.page.pictures import MAP_SIDE, Thumbnails
from adkit.report.page.record import LISTED, allotted

MOST_BYTES: Final = 40_000
"""What a picture and its map may take at most."""
ALL_BYTES: Final = 7_500_000
"""What all pictures and maps of a page may take together, before base64 makes a third more of them."""


@dataclass(frozen=True)
class PageShare:
    """What one category may put on the page."""

    pictures: int
    """Images that are shown."""
    listed: int
    """Images that are named."""
    thumbnails: Thumbnails


class MapKeeper:
    """Keeps the maps of the images that may be shown, small, while test images pass: no more than four times those."""

    def __init__(self, count: int, labels: Mapping[str, int]) -> None:
        """
        Args:
            count: images that are shown.
            labels: id → label of each image that will pass.
        """
        self._count = count
        self._labels = labels
        self._kept: list[tuple[str, float, NDArray[np.float32]]] = []

    def add(self, ids: Sequence[str], scores: Tensor, maps: Tensor) -> None:
        """Take a batch of ``scores`` (b,) and ``maps`` (b, H, W) over the input."""
        if not self._count:
            return
        side = [min(MAP_SIDE, length) for length in maps.shape[1:]]
        # The highest value counts: a small defect must not be averaged away.
        small = adaptive_max_pool2d(maps[:, None].float(), side)[:, 0].cpu().numpy()
        self._kept += zip(ids, scores.tolist(), small, strict=True)
        if len(self._kept) > 4 * self._count:
            self._prune()

    def _prune(self) -> None:
        kept = []
        for label, sign in ((0, -1), (1, 1)):  # in the order of interest, whatever the threshold is
            of_label = [one for one in self._kept if self._labels[one[0]] == label]
            kept += sorted(of_label, key=lambda one, sign=sign: sign * one[1])[: self._count]  # type: ignore[misc]
        self._kept = kept

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """Id → (h, w) map, for every image that may be shown."""
        return {id: values for id, _, values in self._kept}


def page_shares(dataset: Dataset, parts: Assembled) -> list[PageShare]:
    """What each category of a run may put on the page, in their order: as evenly as they have test images."""
    counts = [len(category.test) for category in dataset.categories]
    pictures, listed = allotted(counts, parts.recipe.run.thumbnails), allotted(counts, LISTED)
    room = min(MOST_BYTES, ALL_BYTES // max(sum(pictures), 1))
    thumbnails = Thumbnails(parts.view, parts.recipe.data.mask_threshold or 0, room)
    return [PageShare(*share, thumbnails) for share in zip(pictures, listed, strict=True)]
