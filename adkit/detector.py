"""One inference path: whoever wants a score, be it evaluation, calibration or prediction, comes through here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adkit.context import Context
from adkit.contracts import Extractor, Features, Level, Localizer, Scorer, Scores
from adkit.device import autocast
from adkit.features import FeatureTransform


class Embedding:
    """From pictures to the features that a scorer reads: the extractor and the ``[features]`` table."""

    def __init__(self, extractor: Extractor, transform: FeatureTransform, context: Context) -> None:
        self.extractor = extractor
        self.transform = transform
        self.context = context

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.transform.levels

    def __call__(self, images: Tensor) -> Features:
        """``images`` (n, 3, H, W) float32 RGB in [0, 1], on any device → float32 features on the context's."""
        with torch.inference_mode():
            with autocast(self.context):
                features = self.extractor(images.to(self.context.device, non_blocking=True))
            return self.transform(
                Features({name: level.float() for name, level in features.items()}, features.geometry)
            )


class Detector:
    """A fitted scorer and a localizer over an embedding."""

    def __init__(self, embedding: Embedding, scorer: Scorer, localizer: Localizer) -> None:
        self.embedding = embedding
        self.scorer = scorer
        self.localizer = localizer

    def score(self, features: Features) -> Scores:
        """Raw scores and maps of features that ``embedding`` made."""
        with torch.inference_mode():
            return self.scorer.score(features)

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) raw map of scores that have at least one map."""
        with torch.inference_mode():
            return self.localizer.localize(scores, size)
