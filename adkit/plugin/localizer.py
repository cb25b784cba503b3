"""Where in the image? The contract of localizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from adkit.plugin.types import Scores

if TYPE_CHECKING:
    from torch import Tensor


class Localizer(Protocol):
    """Where in the image?"""

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """Scores with at least one map → (n, height, width) float32, in the scorer's raw unit."""
        ...
