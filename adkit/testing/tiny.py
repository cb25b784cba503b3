"""The smallest extractor and adapter that keep their contracts, for checks of what works on such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adkit.contracts import POOL, Batch, Extractor, Features, Geometry, Level, Scorer, Stage, Stream
from adkit.testing.samples import SIZE


class TinyExtractor(nn.Module):
    """Two strided convolutions of random weights: levels ``layer1``, ``layer2`` and ``pool``."""

    def __init__(self, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):  # the modules draw weights that are drawn again below
            self.layer1 = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1)
            self.layer2 = nn.Conv2d(4, 6, kernel_size=3, stride=2, padding=1)
            self.head = nn.Linear(6, 5)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        height, width = size
        self._grids = {
            "layer1": (-(-height // 2), -(-width // 2)),
            "layer2": (-(-height // 4), -(-width // 4)),
            POOL: (1, 1),
        }
        self._size = size
        self.eval()

    @property
    def levels(self) -> Mapping[str, Level]:
        channels = {"layer1": 4, "layer2": 6, POOL: 6}
        return {
            name: Level(channels[name], grid, Geometry.covering(grid, self._size)) for name, grid in self._grids.items()
        }

    def forward(self, images: Tensor) -> Features:
        first = self.layer1(images).relu()
        second = self.layer2(first).relu()
        pooled = second.mean((2, 3), keepdim=True)
        levels = {"layer1": first, "layer2": second, POOL: pooled}
        geometry = {name: level.geometry for name, level in self.levels.items()}
        return Features({name: values.permute(0, 2, 3, 1) for name, values in levels.items()}, geometry)

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {name: list(module.parameters()) for name, module in self.named_children()}

    def classify(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self(images)[POOL][:, 0, 0])
        return logits


class TinyAdapter:
    """Compactness: the mean squared distance of pooled features to their mean before adapting."""

    def prepare(self, extractor: Extractor, normal: Stream, auxiliary: Stream | None, scorer: Scorer | None) -> None:
        assert isinstance(extractor, TinyExtractor)
        self._parameters = list(extractor.layer2.parameters())
        self._center = torch.cat([features[POOL] for features in normal]).mean(0)

    def stages(self) -> Sequence[Stage]:
        return [Stage(self._parameters)]

    def loss(self, extractor: Extractor, batch: Batch, features: Features) -> Tensor:
        return self.score(features).mean()

    def score(self, features: Features) -> Tensor:
        return (features[POOL] - self._center).square().sum((1, 2, 3))
