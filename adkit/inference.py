"""One inference path: whoever wants a score, for evaluation, calibration or prediction, comes through here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adkit.blame import blaming, check_features, check_map, check_scores
from adkit.context import Context
from adkit.contracts import Extractor, Features, Level, Localizer, Scorer, Scores
from adkit.device import autocast
from adkit.features import FeatureTransform


class Embedding:
    """From pictures to the features that a scorer reads: the extractor and the ``[features]`` table."""

    def __init__(
        self, extractor: Extractor, transform: FeatureTransform, context: Context, who: str = "extractor"
    ) -> None:
        """``who`` names the extractor in the message when it breaks its contract."""
        self.extractor = extractor
        self.transform = transform
        self.context = context
        self._who = who

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.transform.levels

    def __call__(self, images: Tensor) -> Features:
        """``images`` (n, 3, H, W) float32 RGB in [0, 1], on any device → float32 features on the context's."""
        with torch.inference_mode(), autocast(self.context), blaming(self._who):
            features = self.extractor(images.to(self.context.device, non_blocking=True))
            check_features(features, self.extractor.levels, len(images), self._who)
        # Copied out of inference mode: a scorer may keep what it is given, and train on it.
        with torch.no_grad():
            levels = {name: level.clone().float() for name, level in features.items()}
            return self.transform(Features(levels, features.geometry))


class ScoringPath:
    """From features to scores and maps: a fitted scorer and a localizer."""

    def __init__(
        self, scorer: Scorer, localizer: Localizer, who_scores: str = "scorer", who_localizes: str = "localizer"
    ) -> None:
        self.scorer = scorer
        self.localizer = localizer
        self._who_scores = who_scores
        self._who_localizes = who_localizes

    def score(self, features: Features) -> Scores:
        """Raw scores and maps of features that the embedding made."""
        with torch.inference_mode(), blaming(self._who_scores):
            return check_scores(self.scorer.score(features), features.pictures, self._who_scores)

    def localize(self, scores: Scores, size: tuple[int, int]) -> Tensor:
        """(n, height, width) raw map of scores that have at least one map."""
        with torch.inference_mode(), blaming(self._who_localizes):
            return check_map(self.localizer.localize(scores, size), len(scores.image), size, self._who_localizes)
