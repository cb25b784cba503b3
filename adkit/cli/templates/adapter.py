"""mine: draw the features of normal images together around their mean before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from adkit.plugin import Adapter, Component, Extractor, Features, Group, Params, Schedule, See, Stage, Step, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, tuned
from pydantic import Field
from torch import Tensor


class MineParams(Params):
    blocks: Blocks = Field(1, description=BLOCKS)
    power: float = Field(1.0, gt=0, description="exponent of the squared distance")


class MineAdapter(Adapter[MineParams]):
    """Trains some blocks by the squared distance of each level's mean feature to its center."""

    schedule = Schedule(optimizer="sgd", learning_rate=1e-4, relative_steps=True, batch_size=32, minibatches=40)
    reads_images = False  # so blocks that are not trained run once an image

    _centers: dict[str, Tensor]

    def prepare(self, see: See) -> None:
        sums = {name: torch.zeros(level.channels) for name, level in see.normal.levels.items()}
        count = 0
        for features in see.normal:
            count += features.count
            for name, level in features.items():
                sums[name] += level.mean((1, 2)).sum(0).cpu()  # (n, h, w, c) → (c,)
        self._centers = {name: (total / count).to(self.context.device) for name, total in sums.items()}

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        return [Stage([Group(tuned(extractor, self.params.blocks))])]

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        distances = self._distances(features)
        return {name: values.mean() / len(distances) for name, values in distances.items()}

    def score(self, features: Features) -> Tensor:
        return torch.stack(list(self._distances(features).values())).mean(0)

    def _distances(self, features: Features) -> dict[str, Tensor]:
        """Level → (n,): the distance of each image."""
        means = {name: level.mean((1, 2)) for name, level in features.items()}  # (n, c)
        found = {name: (mean - self._centers[name]).square().sum(1) for name, mean in means.items()}
        return {name: distances**self.params.power for name, distances in found.items()}


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("mine", MineParams, MineAdapter)]
