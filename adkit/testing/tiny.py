"""The smallest components that keep their contracts, for checks of components that work with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adkit.errors import NotFittedError
from adkit.plugin.adapter import Adapter, Group, See, Stage, Step
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor
from adkit.plugin.localizer import Localizer
from adkit.plugin.params import Params
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import POOL, Features, Geometry, Level, Scores, Stream
from adkit.testing.samples import SIZE
from adkit.toolkit.blocks import CLASSIFIER
from adkit.toolkit.scoring import checked_state, fitted_levels, scores_of


class TinyExtractor(Extractor):
    """An extractor of two strided convolutions with random weights: levels ``layer1``, ``layer2`` and ``pool``."""

    def __init__(self, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
        super().__init__(Params(), Context(image_size=size, seed=seed))
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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.after(self.layer1(images).relu())

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        modules = {"layer1": self.layer1, "layer2": self.layer2, CLASSIFIER: self.head}
        return {name: list(module.parameters()) for name, module in modules.items()}

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        first = {id(parameter) for parameter in self.layer1.parameters()}
        if any(id(parameter) in first for parameter in parameters):
            return None
        return nn.Sequential(self.layer1, nn.ReLU()), _Tail(self)

    def after(self, first: Tensor) -> dict[str, Tensor]:
        """The features, made of what ``layer1`` gives."""
        second = self.layer2(first).relu()
        pooled = second.mean((2, 3), keepdim=True)
        levels = {"layer1": first, "layer2": second, POOL: pooled}
        return {name: values.permute(0, 2, 3, 1) for name, values in levels.items()}

    def classify(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self(images)[POOL][:, 0, 0])
        return logits


class _Tail(nn.Module):
    def __init__(self, whole: TinyExtractor) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, first: Tensor) -> dict[str, Tensor]:
        return self.whole.after(first)


class TinyAdapter(Adapter):
    """An adapter by compactness: the squared distance of pooled features to their mean before adapting."""

    def __init__(self) -> None:
        super().__init__(Params(), Context())

    def prepare(self, see: See) -> None:
        self._center = torch.cat([features[POOL] for features in see.normal]).mean(0)

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        return [Stage([Group(extractor.blocks()["layer2"])])]

    def loss(self, step: Step, features: Features) -> Tensor:
        return self.score(features).mean()

    def score(self, features: Features) -> Tensor:
        return (features[POOL] - self._center).square().sum((1, 2, 3))


class TinyLevels(Extractor):
    """An extractor of any levels: sines of random sums of the pixels that lie in each cell.

    The features are the same to the last bit in every batch, so that a component that reads them adds all rounding.
    """

    def __init__(self, levels: Mapping[str, Level], seed: int = 0) -> None:
        super().__init__(Params(), Context())
        self._levels = dict(levels)
        generator = torch.Generator().manual_seed(seed)
        for number, level in enumerate(self._levels.values()):
            self.register_buffer(f"weight{number}", torch.randn(level.channels, 12, 1, 1, generator=generator))
        self.eval()

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._levels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = {}
        for (name, level), weight in zip(self._levels.items(), self.buffers(), strict=True):
            cells = nn.functional.adaptive_avg_pool2d(images, (2 * level.grid[0], 2 * level.grid[1]))
            quarters = nn.functional.pixel_unshuffle(cells, 2)  # (n, 12, h, w)
            summed = (quarters[:, None] * weight).sum(2)  # (n, c, h, w)
            found[name] = summed.sin().permute(0, 2, 3, 1)
        return found


class TinyScorer(Scorer):
    """A scorer by the squared distance to the mean of each level."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(Params(), Context(device=device))
        self._means: dict[str, Tensor] = {}

    def fit(self, stream: Stream) -> None:
        rows: dict[str, list[Tensor]] = {name: [] for name in stream.levels}
        for features in stream:
            for name, values in features.items():
                rows[name].append(values.mean((1, 2)))
        self._means = {name: torch.cat(values).mean(0) for name, values in rows.items()}

    def score(self, features: Features) -> Scores:
        if not self._means:
            raise NotFittedError("tiny")
        levels = fitted_levels(self._means, features)
        maps = {name: (features[name] - self._means[name]).square().sum(3) for name in levels}
        return scores_of(maps, features.geometry, "max")

    def state_dict(self) -> dict[str, Tensor]:
        return {f"mean.{name}": mean for name, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        means = checked_state("tiny", state, {"mean.*": 1})
        self._means = {name.removeprefix("mean."): mean.to(self.context.device) for name, mean in means.items()}


class TinyLocalizer(Localizer):
    """A localizer by the mean of all maps, each enlarged by repeating its cells."""

    def __init__(self) -> None:
        super().__init__(Params(), Context())

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        grown = [nn.functional.interpolate(cells[:, None], size)[:, 0] for cells in scores.maps.values()]
        return torch.stack(grown).mean(0)
