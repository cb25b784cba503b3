"""What a component may know about the run that it is part of; nothing else is global."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Context:
    """What a component may know about its run: device, seed, precision and image size; every ``build`` gets one."""

    device: str = "cpu"
    """The torch device to compute on: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    seed: int = 0
    """The run's seed, from which ``seed_for`` and ``generator`` derive those of a component."""
    precision: Precision = "float32"
    """The precision that the extractor computes in; the core autocasts, and features are float32 in any case."""
    image_size: tuple[int, int] = (224, 224)
    """(height, width) in pixels of the extractor's input."""
    pretrained: bool = True
    """Whether an extractor must find its pretrained weights; False where saved ones are loaded into it next."""

    def seed_for(self, *purpose: str) -> int:
        """A seed in [0, 2**31) for one purpose: another one for each purpose, and the same in every process."""
        text = "\0".join((str(self.seed), *purpose))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def generator(self, *purpose: str) -> torch.Generator:
        """A CPU generator for one purpose, with the seed of ``seed_for``: ``context.generator("kmeans", "layer2")``."""
        import torch

        return torch.Generator().manual_seed(self.seed_for(*purpose))
