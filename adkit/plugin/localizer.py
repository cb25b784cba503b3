"""Where is the image anomalous? The contract of localizers.

Importing this module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from adkit.plugin.contract import Contract, P
from adkit.plugin.types import Scores

if TYPE_CHECKING:
    from torch import Tensor


class Localizer(Contract[P]):
    """A localizer turns the maps of a scorer's levels into one map over the input."""

    kind: ClassVar[str] = "localizer"
    required: ClassVar[tuple[str, ...]] = ("localize",)

    @abstractmethod
    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) float32: one map per image, in the scorer's raw unit.

        Args:
            scores: the scores of n images, with the map of at least one level and the geometry of each.
            size: (height, width) of the maps to return: that of the extractor's input.
        """

    def for_export(self) -> Localizer[P]:
        """A localizer of torch operations alone, as ``Scorer.for_export``; default: the localizer itself."""
        return self
