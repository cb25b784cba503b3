"""panda: draw the normal features together around their first mean, for a fixed number of steps (PANDA-Early).

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1, section 3.2 (PANDA-Early) and supplement 2.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from adkit.plugin import Component, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks

from ._compactness import SCHEDULE, CompactnessAdapter


class PandaParams(TunesBlocks):
    blocks: Blocks = Field(2, description=BLOCKS)


class Panda(CompactnessAdapter[PandaParams]):
    """The adapter of PANDA-Early: the squared distance to the mean of ψ₀ is minimized for a fixed number of steps."""

    schedule = replace(SCHEDULE, minibatches=2300)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("panda", PandaParams, Panda)]
