"""Turns a detector's whole path into one network of torch operations, for exporters to record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from adkit.detector.fitted import FittedDetector
from adkit.errors import UserError
from adkit.inference.conversion import reason
from adkit.inference.pipeline import fused
from adkit.plugin.checks import with_geometry
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import named
from adkit.plugin.types import Features, Fuse, Level

INPUT = "images"
OUTPUTS = ("score", "map")


class Graph(nn.Module):
    """A detector as one network, from images to scores and maps.

    It takes ``images`` (n, 3, H, W) float32 RGB in [0, 1] and gives ``score`` (n,) and, where there are maps, ``map``
    (n, H, W), both float32 and raw. Every component is recorded under its name, so that an error can say which one
    cannot be exported.
    """

    def __init__(self, detector: FittedDetector) -> None:
        """Make the network of ``detector``, which must be on the CPU and is left unchanged."""
        super().__init__()
        pipeline = detector.pipeline
        embeddings, members = pipeline.embeddings, pipeline.members
        self.size = detector.view.size
        self._names = {
            "extractors": [embedding.who for embedding in embeddings],
            "scorer": named(members[0].scorer),
            "localizer": named(pipeline.localizer),
        }
        extractors = [member(embedding.extractor, Extractor, "for_export")() for embedding in embeddings]
        self._extractors = nn.ModuleList(extractors)
        self._transforms = [embedding.transform for embedding in embeddings]
        self._places = pipeline.places
        self._scorers = [one.scorer.for_export() for one in members]
        self._scales = [one.scale for one in members]
        self._fuse: Fuse = pipeline.fuse
        self._localizer = pipeline.localizer.for_export() if detector.localizes else None
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = []
        for who, extractor, transform in zip(
            self._names["extractors"], self._extractors, self._transforms, strict=True
        ):
            with _recording(who):
                found, levels = extractor(images), cast(Mapping[str, Level], extractor.levels)
                features.append(transform(Features(found, {name: levels[name].geometry for name in levels})))
        who = cast(str, self._names["scorer"])
        with _recording(who):
            pairs = [(scorer, features[place]) for scorer, place in zip(self._scorers, self._places, strict=True)]
            scores = [with_geometry(scorer.score(read), read, who) for scorer, read in pairs]
        score = fused([one.image for one in scores], self._scales, self._fuse)
        if self._localizer is None:
            return (score,)
        with _recording(cast(str, self._names["localizer"])):
            maps = [self._localizer.localize(one, self.size) for one in scores]
        return score, fused(maps, self._scales, self._fuse)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in their order."""
        return OUTPUTS if self._localizer is not None else OUTPUTS[:1]


@contextmanager
def _recording(who: str) -> Iterator[None]:
    """Turn whatever keeps a component from being recorded into a UserError that names the component."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{who}: expected torch operations that can be exported, found: {reason(error)}; choose another, or ask "
            "its author for for_export (docs/plugins.md)"
        ) from error
