"""How far from normal is a feature? The contract of scorers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adkit.plugin.types import Features, Level, Scores, Stream

if TYPE_CHECKING:
    from torch import Tensor


class Scorer(Protocol):
    """A scorer learns the normal features and says how far from them others are."""

    def fit(self, stream: Stream) -> None:
        """Learn the normal features, and forget whatever the scorer was fitted on before."""
        ...

    def score(self, features: Features) -> Scores:
        """Score each image by itself: the other images of the batch change nothing.

        Raises:
            adkit.errors.NotFittedError: neither ``fit`` nor ``load_state_dict`` was called before.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors from which ``load_state_dict`` restores equal scores."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of an earlier ``state_dict``; a state that is refused changes nothing.

        ``adkit.toolkit.scoring.checked_state`` does the checks.

        Raises:
            adkit.errors.UserError: a tensor is missing or not finite, or its name, dtype or shape is not the scorer's
                own; the sentence names it.
        """
        ...


@runtime_checkable
class SizedScorer(Protocol):
    """A scorer that knows how much memory it will take, which ``adkit check`` reports before anything is fitted."""

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The bytes that the scorer holds once it is fitted on ``images`` images with these levels."""
        ...
