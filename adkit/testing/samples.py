"""Small seeded inputs, for the checks here and for tests of an author's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from adkit.data.samples import in_order
from adkit.plugin.checks import check_features
from adkit.plugin.extractor import Extractor
from adkit.plugin.types import POOL, Batch, Features, Geometry, Level
from adkit.toolkit.scoring import levels_of

SIZE = (24, 20)
"""(height, width) of the images that ``feature_stream``'s levels cover."""


@dataclass(frozen=True)
class FeatureStream:
    """A ``Stream`` over features in memory, which as in a run are normal tensors without gradients."""

    features: Features
    batch_size: int = 8
    unreadable: int = 0
    """The number of images that ``count`` includes and that never come."""

    @property
    def levels(self) -> Mapping[str, Level]:
        return levels_of(self.features)

    @property
    def count(self) -> int:
        """The number of images, unreadable ones included."""
        return self.features.count + self.unreadable

    @property
    def device(self) -> str:
        """The torch device that the features are on."""
        return str(next(iter(self.features.values())).device)

    def __iter__(self) -> Iterator[Features]:
        for first in range(0, self.features.count, self.batch_size):
            yield part(self.features, first, first + self.batch_size)

    def cut(self, batch_size: int) -> FeatureStream:
        """A stream of the same images in batches of another size."""
        return replace(self, batch_size=batch_size)


@dataclass(frozen=True)
class ImagedStream(FeatureStream):
    """An ``ImageStream`` over features in memory, with the images that they are of."""

    shown: tuple[Batch, ...] = ()

    @property
    def kinds(self) -> Sequence[str]:
        return in_order(kind for batch in self.shown for kind in batch.kinds or ())

    def batches(self) -> Iterator[Batch]:
        return iter(self.shown)


def feature_stream(
    levels: Mapping[str, Level] | None = None,
    images: int = 24,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
) -> FeatureStream:
    """A stream of normally distributed features.

    Args:
        levels: the levels of the features; default: ``pool`` of 8 channels, ``layer1`` of 4 on 6×5 cells and ``layer2``
            of 6 on 3×3.
        images: the number of images.
    """
    levels = levels or {
        POOL: Level(8, (1, 1), Geometry.covering((1, 1), SIZE)),
        "layer1": Level(4, (6, 5), Geometry.covering((6, 5), SIZE)),
        "layer2": Level(6, (3, 3), Geometry.covering((3, 3), SIZE)),
    }
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        values = {
            name: torch.randn((images, *level.grid, level.channels), generator=generator).to(device)
            for name, level in levels.items()
        }
    return FeatureStream(Features(values, {name: level.geometry for name, level in levels.items()}), batch_size)


def part(features: Features, first: int, last: int) -> Features:
    """The features of images ``first`` to ``last - 1``: views, so that a change in place shows in the whole."""
    return Features({name: t.detach()[first:last] for name, t in features.items()}, features.geometry)


def copied(features: Features) -> Features:
    """The same features in memory of their own."""
    return Features({name: values.clone() for name, values in features.items()}, features.geometry)


def sample_images(
    count: int = 9,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int | None = None,
) -> list[Batch]:
    """Batches of uniformly random images in [0, 1); one batch unless ``batch_size`` is given."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, 3, *size), generator=generator).to(device)
    step = batch_size or count
    return [
        Batch(images[i : i + step], tuple(f"image#{n}" for n in range(i, min(i + step, count))))
        for i in range(0, count, step)
    ]


def stream_of(extractor: Extractor, seed: int, size: tuple[int, int], device: str = "cpu") -> ImagedStream:
    """A stream of an extractor's features of 12 random images, with those images."""
    shown = tuple(sample_images(12, size, seed, device, batch_size=4))
    with torch.inference_mode(False), torch.no_grad():
        found = extractor(torch.cat([batch.images for batch in shown]))
        features = check_features(found, extractor.levels, sum(map(len, shown)), "extractor")
    return ImagedStream(features, batch_size=4, shown=shown)
