"""What a component may know of its surroundings; nothing else is global."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Context:
    """Handed to every ``build``."""

    device: str = "cpu"
    """A torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    seed: int = 0
    precision: Precision = "float32"
    """What the extractor computes in; the core autocasts, and features are float32 whatever it is."""
    image_size: tuple[int, int] = (224, 224)
    """(height, width) in pixels of the images that the extractor is given."""
    pretrained: bool = True
    """False: an extractor need not look for its weights, for saved ones are loaded into it next."""

    def seed_for(self, *purpose: str) -> int:
        """A seed in [0, 2**31) of its own for each purpose, the same in every process."""
        text = "\0".join((str(self.seed), *purpose))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def generator(self, *purpose: str) -> torch.Generator:
        """A CPU generator of its own for each purpose: ``context.generator("kmeans", "layer2")``."""
        import torch

        return torch.Generator().manual_seed(self.seed_for(*purpose))
