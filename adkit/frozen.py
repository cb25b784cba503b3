"""An extractor in two, so that the blocks that are not trained run once a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch import Tensor, nn

from adkit.inference.device import autocast
from adkit.inference.pipeline import Embedding
from adkit.plugin.adapter import Adapter, BatchingAdapter, FeaturesAdapter
from adkit.plugin.context import Context
from adkit.plugin.extractor import Extractor, SplittableExtractor
from adkit.plugin.guard import blaming
from adkit.plugin.types import Features, Geometry, Level
from adkit.toolkit.features import FeaturesTable, FeatureTransform

TRUNK: Final = "trunk"


class TrunkExtractor(nn.Module):
    """The blocks that no training changes, as an extractor: what they give, in one row, is its only level."""

    def __init__(self, trunk: nn.Module, shape: tuple[int, ...]) -> None:
        """``shape``: of what it gives for one picture."""
        super().__init__()
        self.trunk = trunk
        self.levels = {TRUNK: Level(prod(shape), (1, 1), Geometry.covering((1, 1), (1, 1)))}
        self.eval()

    def forward(self, images: Tensor) -> Features:
        rows = self.trunk(images).flatten(1)[:, None, None]
        return Features({TRUNK: rows}, {TRUNK: self.levels[TRUNK].geometry})


def shape_of(trunk: nn.Module, context: Context) -> tuple[int, ...]:
    """Of what it gives for one picture."""
    with torch.no_grad():
        shown: Tensor = trunk(torch.zeros(1, 3, *context.image_size, device=context.device))
    return tuple(shown.shape[1:])


def trunk_embedding(trunk: nn.Module, shape: tuple[int, ...], context: Context, who: str, index: int = 0) -> Embedding:
    """From pictures to what ``trunk`` makes of them, each a row; ``shape`` is that of one before."""
    extractor = TrunkExtractor(trunk, shape)
    transform = FeatureTransform(FeaturesTable(), extractor.levels, context.generator("features"))
    return Embedding(extractor, transform, context, who, index)


@dataclass(frozen=True)
class Cut:
    """``tail(trunk(images))`` are the features of an extractor, and training changes the tail alone."""

    trunk: nn.Module
    tail: Callable[[Tensor], Features]
    context: Context
    who: str
    """Names the extractor in the message when it breaks its contract."""

    def frozen(self, images: Tensor) -> Tensor:
        """What the trunk makes of images, float32 on the context's device."""
        with torch.no_grad(), autocast(self.context):
            found: Tensor = self.trunk(images.to(self.context.device, non_blocking=True))
            return found.float()


def cut_for(
    extractor: Extractor, adapter: Adapter, parameters: Sequence[nn.Parameter], context: Context, who: str
) -> Cut | None:
    """Where the extractor can be cut below all of ``parameters``; None where it, or the adapter, needs the whole.

    Args:
        who: names the extractor in the message when it breaks its contract.
    """
    if isinstance(adapter, BatchingAdapter) or not isinstance(adapter, FeaturesAdapter):
        return None
    if not isinstance(extractor, SplittableExtractor):
        return None
    with blaming(who):
        parts = extractor.split(parameters)
    return None if parts is None else Cut(*parts, context, who)
