"""mine: what random filters see in each cell, as a cheap baseline without pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from adkit.plugin import Component, Context, Extractor, Geometry, Level, Params, UserError, hookimpl
from pydantic import Field
from torch import Tensor, nn


class MineParams(Params):
    channels: int = Field(32, ge=1, description="number of filters")
    side: int = Field(4, ge=1, description="side of a cell in pixels")


class MineExtractor(Extractor[MineParams]):
    """The mean response of each filter, rectified, over square cells: one level, ``cells``."""

    def __init__(self, params: MineParams, context: Context) -> None:
        super().__init__(params, context)
        height, width = context.image_size
        if params.side > min(height, width):
            raise UserError(
                f"extractor.side: expected at most the side of an image, {min(height, width)}, found {params.side}: "
                "lower it"
            )
        # A recipe's seed gives the weights: never a global generator.
        drawn = torch.randn(params.channels, 3, 5, 5, generator=context.generator("mine", "filters"))
        self.filters = nn.Parameter(drawn - drawn.mean((1, 2, 3), keepdim=True))
        self._grid = (height // params.side, width // params.side)
        self.to(context.device)
        self.eval()

    @property
    def levels(self) -> Mapping[str, Level]:
        geometry = Geometry.covering(self._grid, self.context.image_size)
        return {"cells": Level(self.params.channels, self._grid, geometry)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        responses = nn.functional.conv2d(images, self.filters, padding=2).relu()
        cells = nn.functional.adaptive_avg_pool2d(responses, self._grid)  # (n, c, h, w)
        return {"cells": cells.permute(0, 2, 3, 1)}

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"filters": [self.filters]}  # so that adapters can train it


@hookimpl
def adkit_extractors() -> list[Component[Any]]:
    return [Component.extractor("mine", MineParams, MineExtractor)]
