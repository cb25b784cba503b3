"""What does an image look like as features? The contract of extractors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from adkit.plugin.contract import Contract, P
from adkit.plugin.types import Level


class Extractor(Contract[P], nn.Module):
    """An extractor turns images into features; it is an ``nn.Module``, in evaluation mode once it is built."""

    kind: ClassVar[str] = "extractor"
    required: ClassVar[tuple[str, ...]] = ("levels", "forward")

    @property
    @abstractmethod
    def levels(self) -> Mapping[str, Level]:
        """The levels that the extractor gives for inputs of the context's image size, by name."""

    @abstractmethod
    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """The levels of n images, (n, h, w, c) each, by the names and in the order of ``levels``.

        Args:
            images: (n, 3, H, W) float32 RGB in [0, 1], on the context's device.
        """

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Block name → the block's parameters, from input to output; every parameter is in exactly one block.

        Adapters train blocks; default: there are none, and the extractor cannot be adapted.
        """
        return {}

    def classify(self, images: Tensor) -> Tensor | None:
        """(n, classes) logits of the pretrained classifier; default: None, there is no classifier.

        Args:
            images: as for ``forward``.

        Raises:
            adkit.errors.UserError: the weights have no classifier.
        """
        return None

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """(trunk, tail), where ``tail(trunk(images))`` are the levels of ``images``; default: None, no cut is possible.

        Blocks that an adapter does not train then run once per image. The trunk returns one tensor, whose first
        dimension is the images, and has none of ``parameters``. The tail is called with that tensor and gives what
        ``forward`` gives. Both share their modules with this extractor, so that training the tail trains the extractor.
        """
        return None

    def for_inference(self) -> Extractor[P]:
        """A faster extractor of the same features, in evaluation mode, never trained; this one is left unchanged.

        Which tensors it has must not depend on the weights: its saved state is loaded into one made of other weights.
        Default: the extractor itself.
        """
        return self

    def for_export(self) -> Extractor[P]:
        """An extractor of torch operations alone, as ``Scorer.for_export``; default: the extractor itself.

        OpenVINO and ONNX Runtime compute it, too, where its features agree with those of ``forward``.
        """
        return self
