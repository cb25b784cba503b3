"""panda: draw the features together around their first mean, and stop before they collapse.

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1, section 3.2 (PANDA-Early) and supplement 2.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from adkit.plugin import Component, Params, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks

from ._compactness import SCHEDULE, CompactnessAdapter


class PandaParams(Params):
    blocks: Blocks = Field(2, description=BLOCKS)


class Panda(CompactnessAdapter):
    """Minimizes the mean squared distance to the mean of ψ₀ for a fixed number of minibatches."""

    schedule = replace(SCHEDULE, minibatches=2300)


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component("panda", "adapter", PandaParams, Panda)]
