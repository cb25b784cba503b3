"""What does an image look like as features? The contract of extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adkit.plugin.types import Features, Level

if TYPE_CHECKING:
    from torch import Tensor, nn


class Extractor(Protocol):
    """What does an image look like as features? An ``nn.Module``, in evaluation mode when handed over."""

    @property
    def levels(self) -> Mapping[str, Level]:
        """The levels that calling it gives, for images of the context's size."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """``images`` (n, 3, H, W) float32 RGB in [0, 1] → features of n images."""
        ...


@runtime_checkable
class AdaptableExtractor(Protocol):
    """What an extractor must offer beside, for adapters that change its weights."""

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Block name → its parameters, from input to output; every parameter is in exactly one block."""
        ...

    def classify(self, images: Tensor) -> Tensor:
        """``images`` as above → (n, classes) logits of the pretrained classifier.

        Raises:
            adkit.errors.UserError: the weights have no classifier.
        """
        ...


@runtime_checkable
class SplittableExtractor(Protocol):
    """What an extractor may offer beside, so that blocks that an adapter does not train run once per image."""

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """(trunk, tail), where ``tail(trunk(images))`` are the features of ``images``; None where it cannot be cut.

        The trunk gives one tensor, images first, and has none of ``parameters``; the tail is called with that tensor
        and gives Features. Both share their modules with this extractor, so that what trains the tail trains it.
        """
        ...


@runtime_checkable
class FoldableExtractor(Protocol):
    """What an extractor may offer beside, for runs that do not train it."""

    def for_inference(self) -> Extractor:
        """An extractor of the same features that is faster and may not be trained; this one is left as it is.

        Which tensors it has must not depend on the weights: a saved state is loaded into the copy of another extractor.
        """
        ...
