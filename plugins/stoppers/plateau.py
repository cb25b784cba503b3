"""plateau: stop when the mean score of held-out normal images falls no further.

Harmful in Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), table 2
(AUROC on MVTec 95.4, without any training 96.3): normal images score lower and lower while the features forget what
would tell anomalous ones apart, and no normal image shows that. It is here to be compared with; use ``vicinal``.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from pydantic import Field

from adkit.plugin import Component, Context, Look, Params, Stopper, Verdict, hookimpl
from adkit.toolkit.patience import Patience, none_held_out


class PlateauParams(Params):
    validation: float = Field(
        0.2, gt=0, le=0.9, description="share of the normal training images to hold out and judge by"
    )
    patience: int = Field(20, ge=1, description="checks without improvement, one per epoch, after which to stop")
    min_delta: float = Field(0.0, ge=0, description="the mean score must fall by more than this to count as better")


class Plateau(Patience, Stopper[PlateauParams]):
    """A stopper that judges by the mean of the adapter's score over the held-out images."""

    def __init__(self, params: PlateauParams, context: Context) -> None:
        Stopper.__init__(self, params, context)
        Patience.__init__(self, "validation score", params.patience, lower_is_better=True, min_delta=params.min_delta)
        self.validation = params.validation

    def check(self, look: Look) -> Verdict:
        total, images = 0.0, 0
        with torch.no_grad():
            for batch in look.held_out:
                scores = look.adapter.score(look.extractor(batch.images))  # (n,)
                total += float(scores.cpu().double().sum())
                images += len(scores)
        if not images:
            raise none_held_out("plateau")
        if not isfinite(total):
            return self.judge(look.progress, None, "scores of held-out images became NaN or infinite")
        return self.judge(look.progress, total / images)


@hookimpl
def adkit_stoppers() -> list[Component[Any]]:
    return [Component.stopper("plateau", PlateauParams, Plateau)]
