"""The one inference path: every score, for evaluation, calibration or prediction, is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from adkit.inference.device import autocast
from adkit.inference.runtimes import TORCH, Runtime, Wanted, choose, probe_images
from adkit.plugin.checks import check_features, check_finite
from adkit.plugin.context import Context, Precision
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import blaming, named
from adkit.plugin.localizer import Localizer
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features, Fuse, Level, Scores
from adkit.toolkit.features import FeatureTransform

FINITE_FEATURES: Final = 'check the weights, or compute with [run] precision = "float32"'
FINITE_SCORES: Final = "look at the image, or choose another component"


class Embedding:
    """The way from images to the features that a scorer reads: the extractor and the ``[features]`` table."""

    def __init__(
        self,
        extractor: Extractor,
        transform: FeatureTransform,
        context: Context,
        who: str = "extractor",
        index: int = 0,
        wanted: Wanted = TORCH,
    ) -> None:
        """
        Args:
            who: names the extractor in the message where it breaks its contract.
            index: its place among the recipe's extractors.
            wanted: what may compute the extractor; other than torch only where it is not trained any more.
        """
        self.index = index
        self.extractor = extractor
        self.transform = transform
        self.context = context
        self.who = who
        self.wanted = wanted
        self._dtypes = {torch.float32, getattr(torch, context.precision)}

    @property
    def levels(self) -> Mapping[str, Level]:
        return self.transform.levels

    @cached_property
    def runtime(self) -> Runtime:
        """What computes the extractor, which is chosen when it is asked for.

        Raises:
            UserError: the recipe names a runtime, which does not agree with torch.
        """
        return choose(self.extractor, self.context, self.wanted)

    def by_torch(self, precision: Precision | None = None) -> Embedding:
        """Make the same embedding as torch computes it, in its own precision or another one."""
        context = replace(self.context, precision=precision or self.context.precision)
        return Embedding(self.extractor, self.transform, context, self.who, self.index)

    def __call__(self, images: Tensor, ids: Sequence[str] = ()) -> Features:
        """Compute the float32 features of ``images``, on the context's device.

        Args:
            images: (n, 3, H, W) float32 RGB in [0, 1], on any device.
            ids: names of the images, for the message where a feature is not finite; default: that is not looked at.

        Raises:
            UserError: a feature is not finite.
            PluginError: the extractor breaks its contract.
        """
        return self.finish(self.extract(images), ids)

    def extract(self, images: Tensor) -> Features:
        """Compute what the extractor gives for ``images``, as ``__call__`` has them, in its own precision.

        Raises:
            PluginError: the extractor breaks its contract.
        """
        runtime = self.runtime
        with torch.inference_mode(), autocast(self.context), blaming(self.who):
            features = self.checked(runtime(images.to(self.context.device, non_blocking=True)), len(images))
        if runtime.run is not None and not any(level.is_inference() for level in features.values()):
            return features
        # Copied out of inference mode: a scorer may keep what it is given, and train on it.
        with torch.no_grad():
            return Features({name: level.clone() for name, level in features.items()}, features.geometry)

    def finish(self, features: Features, ids: Sequence[str] = ()) -> Features:
        """Make the features that a scorer reads of those that ``extract`` gave; ``ids`` as ``__call__`` has them.

        Raises:
            UserError: a feature is not finite.
        """
        with torch.no_grad():
            levels = {name: level.float() for name, level in features.items()}
            embedded = self.transform(Features(levels, features.geometry))
        for name, level in embedded.items() if ids else ():
            check_finite(level, ids, f"{self.who}: level {name!r}", FINITE_FEATURES)
        return embedded

    def checked(self, found: object, images: int) -> Features:
        """Return what the extractor, or its tail, gave for so many images, with the geometry of its levels.

        Raises:
            PluginError: it is not what the extractor's levels state.
        """
        return check_features(found, self.extractor.levels, images, self.who, self._dtypes)


def embed(embeddings: Iterable[Embedding], images: Tensor, ids: Sequence[str] = ()) -> tuple[Features, ...]:
    """Compute the features of ``images`` (n, 3, H, W) through each embedding; ``ids`` as an embedding takes them."""
    return tuple(embedding(images, ids) for embedding in embeddings)


def extract(embeddings: Iterable[Embedding], images: Tensor) -> tuple[Features, ...]:
    """Compute what the extractor of each embedding gives for ``images`` (n, 3, H, W)."""
    return tuple(embedding.extract(images) for embedding in embeddings)


@dataclass(frozen=True)
class Member:
    """A fitted scorer and the embedding whose features it reads; a detector has one or more."""

    embedding: Embedding
    scorer: Scorer
    scale: float | None = None
    """The raw score of a normal image that the scorer was not fitted on: the mean where scores are divided by it, else
    the median; None where there were no such images."""


@dataclass(frozen=True)
class Fused:
    """The scores of n images, by each member and fused."""

    image: Tensor
    """(n,) raw score of the detector for each image."""
    members: tuple[Scores, ...]
    """The scores that each member gives."""
    ids: Sequence[str] = ()
    """Names of the images, for the message where a map is not finite."""

    @property
    def first(self) -> float | None:
        """The score of the first image; None where it is not finite."""
        score = float(self.image[0])
        return score if math.isfinite(score) else None

    @property
    def localizes(self) -> bool:
        """Whether every member gives maps."""
        return all(scores.maps for scores in self.members)


class Pipeline:
    """The way from images to scores and maps: members, the rule that fuses their scores, and a localizer."""

    def __init__(self, members: Iterable[Member], localizer: Localizer, fuse: Fuse = "mean") -> None:
        self.members = tuple(members)
        self.localizer = localizer
        self.fuse = fuse
        self.embeddings = tuple(dict.fromkeys(member.embedding for member in self.members))
        """The embeddings that members read, each once, in the order of the members."""
        places = {embedding: place for place, embedding in enumerate(self.embeddings)}
        self.places = tuple(places[member.embedding] for member in self.members)
        """The place of each member's embedding in ``embeddings``."""
        self._probed: dict[tuple[int, int], Fused] = {}

    def with_members(self, members: Iterable[Member]) -> Pipeline:
        """Make the same pipeline of other members."""
        return Pipeline(members, self.localizer, self.fuse)

    def scaled(self, scales: Iterable[float | None]) -> Pipeline:
        """Make the same pipeline, in which each member has its scale."""
        pairs = zip(self.members, scales, strict=True)
        return self.with_members(replace(member, scale=scale) for member, scale in pairs)

    def __call__(self, images: Tensor, ids: Sequence[str] = ()) -> Fused:
        """Compute the raw scores of ``images`` (n, 3, H, W); see ``embed`` and ``score``."""
        return self.score(embed(self.embeddings, images, ids), ids)

    def probed(self, size: tuple[int, int]) -> Fused:
        """Compute the raw scores of the first probe image of this (height, width), once, with maps if there are any."""
        if size not in self._probed:
            self._probed[size] = self(probe_images(size)[:1])
        return self._probed[size]

    def score(self, features: Sequence[Features], ids: Sequence[str] = ()) -> Fused:
        """Compute raw scores from the features of the same images through each of ``embeddings``.

        Args:
            ids: names of the images, for the message where a score or a map is not finite; default: that is not looked
                at.

        Raises:
            UserError: a score is not finite.
            PluginError: a scorer breaks its contract.
        """
        with torch.inference_mode():
            pairs = zip(self.members, self.places, strict=True)
            scores = tuple(member.scorer.score(features[place]) for member, place in pairs)
            found = Fused(self._fused([one.image for one in scores]), scores, ids)
        if ids:
            check_finite(found.image, ids, f"{named(self.members[0].scorer)}: the score", FINITE_SCORES)
        return found

    def localize(self, scores: Fused, size: tuple[int, int]) -> Tensor:
        """Compute the raw maps (n, height, width) of scores that localize, fused as the scores are.

        Raises:
            UserError: a map is not finite.
            PluginError: the localizer breaks its contract.
        """
        with torch.inference_mode():
            maps = self._fused(self.localizer.localize(one, size) for one in scores.members)
        if scores.ids:
            check_finite(maps, scores.ids, f"{named(self.localizer)}: the map", FINITE_SCORES)
        return maps

    def _fused(self, values: Iterable[Tensor]) -> Tensor:
        return fused(values, [member.scale for member in self.members], self.fuse)


def fused(values: Iterable[Tensor], scales: Sequence[float | None], rule: Fuse) -> Tensor:
    """Fuse one tensor per member into one, without holding them all.

    Raises:
        ValueError: the rule is the largest ratio and a scale is not above 0.
    """
    total: Tensor | None = None
    for value, scale in zip(values, scales, strict=True):
        if rule == "max_ratio":
            if scale is None or scale <= 0:
                raise ValueError(f"scale: expected a number above 0 for the largest ratio, found {scale}")
            value = value / scale
        if total is None:
            total = value
        elif rule == "max_ratio":
            total = torch.maximum(total, value)
        else:
            total = total + value
    assert total is not None  # there is at least one member
    return total / len(scales) if rule == "mean" and len(scales) > 1 else total
