"""How far from normal is a feature? The contract of scorers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adkit.plugin.types import Features, Level, Scores, Stream

if TYPE_CHECKING:
    from torch import Tensor


class Scorer(Protocol):
    """How far from normal is a feature?"""

    def fit(self, stream: Stream) -> None:
        """Learn the normal features; forgets whatever it was fitted on before."""
        ...

    def score(self, features: Features) -> Scores:
        """Score each image by itself: what else is in the batch changes nothing.

        Raises:
            adkit.errors.NotFittedError: before ``fit`` or ``load_state_dict``.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors from which ``load_state_dict`` restores equal scores."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; one that is refused changes nothing: ``adkit.toolkit.scoring.checked_state`` checks it.

        Raises:
            adkit.errors.UserError: a tensor that is missing, or whose name, dtype or shape is not the scorer's own, or
                that is not finite; the sentence names it.
        """
        ...


@runtime_checkable
class SizedScorer(Protocol):
    """What a scorer may offer beside, so that ``adkit check`` can tell a bank too large before it is filled."""

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """Bytes that the scorer holds once fitted on so many images."""
        ...
