"""Where is the image anomalous? The contract of localizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from adkit.plugin.types import Scores

if TYPE_CHECKING:
    from torch import Tensor


class Localizer(Protocol):
    """A localizer turns the maps of a scorer's levels into one map over the input."""

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) float32: one map per image, in the scorer's raw unit.

        Args:
            scores: the scores of n images, with the map of at least one level.
            size: (height, width) of the maps to return.
        """
        ...
