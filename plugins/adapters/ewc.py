"""ewc: draw the normal features together, but hold back weights that the pretrained classifier needs (PANDA-EWC).

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equations 3 and 4, section 3.2 (PANDA-EWC) and supplement 2.1; the penalty is that of Kirkpatrick et al., Overcoming
catastrophic forgetting in neural networks (PNAS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adkit.plugin import Component, Features, See, Step, UserError, hookimpl
from adkit.toolkit.blocks import BLOCKS, Blocks, TunesBlocks, tuned

from ._compactness import SCHEDULE, CompactnessAdapter
from ._fisher import fisher

UNIFORM: Final = 3e-3
"""The importance of every weight where all are alike: the mean of the Fisher information in the last two blocks of
EfficientNet-Lite 0 on images of textures, so that one strength serves both."""


class EwcParams(TunesBlocks):
    strength: float = Field(1e4, gt=0, description="factor λ of the penalty on changes of important weights")
    fisher: Literal["predicted", "classes", "uniform"] = Field(
        "predicted",
        description="importance of each weight. predicted: Fisher information with labels that the classifier predicts "
        "for the images of [auxiliary] or else the normal ones; classes: Fisher information with the classes of "
        "[auxiliary], which must be those of the classifier; uniform: the same for all weights",
    )
    fisher_images: int = Field(3200, ge=1, description="largest number of images to take the Fisher information from")
    penalty: Literal["implicit", "explicit"] = Field(
        "implicit",
        description="how the penalty is minimized. implicit: by steps of its own, which cannot diverge; explicit: as a "
        "part of the loss",
    )
    blocks: Blocks = Field(2, description=BLOCKS)


class Ewc(CompactnessAdapter[EwcParams]):
    """The adapter of PANDA-EWC, which minimizes compactness + λ/2 Σ F (θ − θ₀)².

    θ₀ are the pretrained weights and F is their diagonal Fisher information. Compactness is a mean over images, where
    equation 4 has a sum: λ is relative to that.

    The paper minimizes that by SGD as a whole: ``penalty = "explicit"``. A plain step of rate lr multiplies a weight's
    distance from θ₀ by 1 − lr·λ·F: without clipping it overshoots where lr·λ·F is above 1 and diverges above 2. With
    λ = 1e4 and lr = 1e-2 it reaches 290 in the last blocks of EfficientNet-Lite 0. Clipping bounds every step, so that
    nothing diverges; but where the penalty's gradient is the larger one, hardly anything is left of that of
    compactness. The implicit step is ours, for backbones like this one: it goes where
    lr·λ/2·F (θ − θ₀)² + ½ (θ − θ′)² is least, θ′ the weight as it was, which divides the distance by 1 + lr·λ·F. It
    cannot overshoot, however large F is, and for a small one the two agree. Without weight decay both rest where
    equation 4 is least, as long as the rate is that at which the gradient of compactness acts on the weights, clipping
    and momentum included. With it the implicit step rests elsewhere: there the gradient of compactness, which alone is
    clipped, is not 0, and decay, which is not clipped, counts for more beside it.
    """

    schedule = replace(SCHEDULE, minibatches=7800)

    _parameters: list[nn.Parameter]
    _initial: list[Tensor]
    """θ₀"""
    _importance: list[Tensor]
    """F"""

    def prepare(self, see: See) -> None:
        extractor, auxiliary = see.extractor, see.auxiliary
        if self.params.fisher == "classes" and auxiliary is None:
            raise UserError(
                'adapter.fisher: expected an [auxiliary] table for "classes", the data set that the weights were '
                'trained on, found none: add it, or set fisher = "predicted", which needs no labels'
            )
        super().prepare(see)
        self._parameters = tuned(extractor, self.params.blocks)
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        if self.params.fisher == "uniform":
            self._importance = [torch.full_like(initial, UNIFORM) for initial in self._initial]
        else:
            images, count = see.normal if auxiliary is None else auxiliary, self.params.fisher_images
            self._importance = fisher(extractor, self._parameters, images, self.params.fisher, count, self.context)

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        with torch.set_grad_enabled(self.params.penalty == "explicit" and torch.is_grad_enabled()):
            penalty = self._penalty()
        return {**super().loss(step, features), "penalty": penalty}

    def after_step(self, step: Step, rates: Mapping[nn.Parameter, float]) -> None:
        """Take the implicit step of the penalty: θ ← (θ + lr·λ·F·θ₀) / (1 + lr·λ·F)."""
        if self.params.penalty == "explicit":
            return
        for parameter, initial, importance in zip(self._parameters, self._initial, self._importance, strict=True):
            pull = rates[parameter] * self.params.strength * importance
            parameter.lerp_(initial, pull / (1 + pull))

    def _penalty(self) -> Tensor:
        """The penalty λ/2 Σ F (θ − θ₀)², a scalar."""
        sums = [
            (importance * (parameter - initial).square()).sum()
            for parameter, initial, importance in zip(self._parameters, self._initial, self._importance, strict=True)
        ]
        return self.params.strength / 2 * torch.stack(sums).sum()


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("ewc", EwcParams, Ewc)]
