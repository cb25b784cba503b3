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
        """The most bytes that ``fit`` takes at a time for ``images`` images with these levels; None: not known.

        What the fitted scorer holds is among them, what is in the way for one batch alone is not.
        """
        return None

    def operations(self, levels: Mapping[str, Level], images: int) -> float | None:
        """How many additions and multiplications ``fit`` takes, at most, beside those of walking through the images.

        It is asked by ``adkit check``, of whom a scorer that may take hours is expected to tell so before. Default:
        None, they are not worth a word.
        """
        return None

    def nearest(self, level: str, cells: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
        """Find the normal cells that are closest to ``cells``, for who wants to see why an image scores as it does.

        Args:
            level: the name of a level that the scorer was fitted on.
            cells: (q, c) float32 features of that level.
            k: how many to find for each; fewer are found where there are not as many.

        Returns:
            Distances (q, k), ascending, and (q, k) int64 the numbers of those cells in the stream that ``fit`` read:
            cell (i, j) of image n, on a grid of h × w, has the number (n · h + i) · w + j. None, the default: the
            scorer compares with no single cells, or does not know where they are from, as after ``load_state_dict``.
        """
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
