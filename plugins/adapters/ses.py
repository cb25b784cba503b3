"""ses: draw the normal features together as panda does, and score by all snapshots along the way (PANDA-SES).

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1, section 3.2 (PANDA-SES) and supplement 2.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from adkit.plugin import Component, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks

from ._compactness import SCHEDULE, CompactnessAdapter


class SesParams(TunesBlocks):
    blocks: Blocks = Field(2, description=BLOCKS)


class Ses(CompactnessAdapter[SesParams]):
    """Sample-wise early stopping: a state is kept every ``snapshot_epochs``, and all of them become the detector.

    Each state scores every image; the image's score is the largest of these over the mean that that state gives normal
    images. That mean is of a tenth of them, scored against the others, which serves nothing else: training and the
    scorers that the detector keeps have all images. Those of ``data.calibration`` stay apart from all of this, so that
    ``threshold.method = "split"`` keeps its promise.
    """

    schedule = replace(SCHEDULE, minibatches=4688)  # 150,000 images, some of them again and again
    fuse = "max_ratio"


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("ses", SesParams, Ses)]
