"""How far from normal is a feature? The contract of scorers.

Importing this module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from adkit.plugin.contract import Contract, P
from adkit.plugin.types import Features, Level, Scores, Stream

if TYPE_CHECKING:
    from torch import Tensor


class Scorer(Contract[P]):
    """A scorer learns the normal features and says how far from them others are."""

    kind: ClassVar[str] = "scorer"
    required: ClassVar[tuple[str, ...]] = ("fit", "score", "state_dict", "load_state_dict")

    @abstractmethod
    def fit(self, stream: Stream) -> None:
        """Learn the normal features, and forget whatever the scorer was fitted on before."""

    @abstractmethod
    def score(self, features: Features) -> Scores:
        """Score each image by itself: the other images of the batch change nothing.

        Raises:
            adkit.errors.NotFittedError: neither ``fit`` nor ``load_state_dict`` was called before.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors from which ``load_state_dict`` restores equal scores."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of an earlier ``state_dict``; a state that is refused changes nothing.

        ``adkit.toolkit.scoring.checked_state`` does the checks.

        Args:
            state: finite tensors on the context's device.

        Raises:
            adkit.errors.UserError: a tensor is missing or not finite, or its name, dtype or shape is not the scorer's
                own; the sentence names it.
        """

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        """Refuse what ``fit`` would refuse of so many images with these levels; it is asked before anything is trained.

        Args:
            levels: the levels that ``fit`` will see.
            images: the most images that it will see: some may turn out to be unreadable.

        Raises:
            adkit.errors.UserError: the parameters take more images, or other levels.
        """

    def memory(self, levels: Mapping[str, Level], images: int) -> int | None:
        """The bytes that the scorer holds once it is fitted on ``images`` images with these levels; None: not known."""
        return None

    def for_export(self) -> Scorer[P]:
        """A scorer of torch operations alone that gives the same scores up to rounding; this one is left unchanged.

        It is run once, on the CPU and in float32, while ``torch.export`` or ``torch.jit.trace`` records its operations.
        So it must use no others (faiss, NumPy), and which ones it uses must depend neither on the values of tensors nor
        on the number of images. Default: the scorer itself.

        Raises:
            adkit.errors.UserError: a scorer with these parameters cannot be exported.
        """
        return self
