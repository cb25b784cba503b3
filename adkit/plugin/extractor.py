"""What does an image look like as features? The contract of extractors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adkit.plugin.types import Features, Level

if TYPE_CHECKING:
    from torch import Tensor, nn


class Extractor(Protocol):
    """An extractor turns images into features; it is an ``nn.Module``, built in evaluation mode."""

    @property
    def levels(self) -> Mapping[str, Level]:
        """The levels that the extractor gives for inputs of the context's image size, by name."""
        ...

    def __call__(self, images: Tensor) -> Features:
        """The features of n images, given as ``images`` (n, 3, H, W) float32 RGB in [0, 1]."""
        ...


@runtime_checkable
class AdaptableExtractor(Protocol):
    """An extractor that adapters can train."""

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Block name → the block's parameters, from input to output; every parameter is in exactly one block."""
        ...

    def classify(self, images: Tensor) -> Tensor:
        """(n, classes) logits of the pretrained classifier for ``images`` (n, 3, H, W) float32 RGB in [0, 1].

        Raises:
            adkit.errors.UserError: the weights have no classifier.
        """
        ...


@runtime_checkable
class SplittableExtractor(Protocol):
    """An extractor that can be cut in two, so that blocks that an adapter does not train run once per image."""

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """(trunk, tail), where ``tail(trunk(images))`` are the features of ``images``; None where no cut is possible.

        The trunk returns one tensor, whose first dimension is the images, and has none of ``parameters``. The tail is
        called with that tensor and returns Features. Both share their modules with this extractor, so that training
        the tail trains the extractor.
        """
        ...


@runtime_checkable
class FoldableExtractor(Protocol):
    """An extractor that has a faster version of itself for runs that do not train it."""

    def for_inference(self) -> Extractor:
        """A faster extractor of the same features, which cannot be trained; this one is left unchanged.

        Which tensors it has must not depend on the weights: its saved state is loaded into one made of other weights.
        """
        ...
