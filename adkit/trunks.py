"""Classes of the same pictures share what the frozen blocks make of them: one pass, whatever is trained behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, cast

import torch
from torch import Tensor, nn

from adkit.assemble import Assembled, embedding_of
from adkit.contracts import Batch, Extractor, Features, Geometry, Level, SplittableExtractor
from adkit.data.samples import Sample
from adkit.engines import Embedded, require_finite
from adkit.features import FeaturesTable
from adkit.frozen import Cut
from adkit.inference import Embedding
from adkit.progress import Advance
from adkit.sources import EmbeddedStream, PictureSource, Source, require_readable
from adkit.store import FeatureStore, StoredStream
from adkit.training_contracts import BatchingAdapter, ExtendingAdapter, FeaturesAdapter
from adkit.training_recipe import new_adapter

TRUNK: Final = "trunk"
SAME: Final = 1e-3
"""Share of their norm by which the trunks of an extractor and of its fast copy may differ: batch norms are folded."""


class _Trunk(nn.Module):
    """The blocks that no training changes, as an extractor: what they give, in one row, is its only level."""

    def __init__(self, trunk: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        self.levels = {TRUNK: Level(prod(shape), (1, 1), Geometry.covering((1, 1), (1, 1)))}
        self.eval()

    def forward(self, images: Tensor) -> Features:
        rows = self.trunk(images).flatten(1)[:, None, None]
        return Features({TRUNK: rows}, {TRUNK: self.levels[TRUNK].geometry})


class _Tail(nn.Module):
    """The blocks behind it, as an extractor whose images are such rows."""

    def __init__(self, tail: nn.Module, whole: Extractor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.tail = tail
        self.levels = whole.levels
        self._shape = shape
        self.eval()

    def forward(self, rows: Tensor) -> Features:
        return cast(Features, self.tail(rows.reshape(len(rows), *self._shape)))


@dataclass(frozen=True)
class Trunks:
    """The frozen part of each of the recipe's extractors, in what the run computes in."""

    parts: Assembled
    trained: tuple[frozenset[str], ...]
    """Names of the parameters that the adapter trains."""
    trunks: tuple[nn.Module, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Of what each gives for one picture."""

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """From pictures to rows."""
        found = []
        for index, (trunk, shape) in enumerate(zip(self.trunks, self.shapes, strict=True)):
            choice = self.parts.recipe.extractors[index]
            found.append(embedding_of(_Trunk(trunk, shape), choice, FeaturesTable(), self.parts.context, index))
        return tuple(found)

    def tails(self, embeddings: Sequence[Embedding]) -> tuple[Embedding, ...] | None:
        """From rows to features, as each of ``embeddings`` makes them; None where one has another trunk."""
        found = []
        for whole in embeddings:
            extractor = cast(nn.Module, whole.extractor)
            halves = _halves(extractor, self.trained[whole.index])
            if halves is None or not _equal(halves[0], self.trunks[whole.index]):
                return None
            tail = _Tail(halves[1], whole.extractor, self.shapes[whole.index])
            recipe = self.parts.recipe
            choice = recipe.extractors[whole.index]
            found.append(embedding_of(tail, choice, recipe.features, whole.context, whole.index))
        return tuple(found)

    def source(self, store: FeatureStore, pictures: PictureSource) -> TrunkSource:
        """Of the features of ψ₀; ``store`` has the rows of every picture."""
        tails = self.tails(self.parts.embeddings)
        assert tails is not None  # they were cut when this was made
        return TrunkSource(self, store, pictures, tails)

    def gives_what(self, cut: Cut, index: int) -> bool:
        """Whether the tail of ``cut`` takes what this trunk gives: the cut lies at the same place."""
        noise = torch.rand(2, 3, *self.parts.view.size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            one, other = self.trunks[index](noise.to(cut.context.device)), cut.frozen(noise)
        return one.shape == other.shape and bool(torch.dist(one.float(), other) <= SAME * other.norm())


def shared_trunks(parts: Assembled) -> Trunks | None:
    """Where the extractors can be cut below what the recipe's adapter trains; None where one cannot."""
    adapter = new_adapter(parts)
    if not isinstance(adapter, FeaturesAdapter) or isinstance(adapter, BatchingAdapter | ExtendingAdapter):
        return None
    names, trunks, shapes = [], [], []
    for trainable, embedding in zip(parts.trainable, parts.embeddings, strict=True):
        wanted = {id(parameter) for parameter in adapter.trained(trainable)}
        named = cast(nn.Module, trainable).named_parameters()
        trained = frozenset(name for name, parameter in named if id(parameter) in wanted)
        halves = _halves(cast(nn.Module, embedding.extractor), trained)
        if halves is None:
            return None
        with torch.no_grad():
            shown = halves[0](torch.zeros(1, 3, *parts.view.size, device=parts.context.device))
        names.append(trained)
        trunks.append(halves[0])
        shapes.append(tuple(shown.shape[1:]))
    return Trunks(parts, tuple(names), tuple(trunks), tuple(shapes))


def _halves(extractor: nn.Module, trained: frozenset[str]) -> tuple[nn.Module, nn.Module] | None:
    """Of a fast copy, too, which has fewer parameters by the same names."""
    if not isinstance(extractor, SplittableExtractor):
        return None
    return extractor.split([parameter for name, parameter in extractor.named_parameters() if name in trained])


def _equal(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class TrunkSource:
    """Reads rows that were computed once for every picture, and makes features of them: implements ``Source``."""

    def __init__(
        self, trunks: Trunks, store: FeatureStore, pictures: PictureSource, tails: tuple[Embedding, ...]
    ) -> None:
        """
        Args:
            store: of the rows of every picture.
            pictures: the same pictures themselves.
            tails: what makes features of rows.
        """
        self.bad = pictures.bad
        self.trunks = trunks
        self._store = store
        self._pictures = pictures
        self._tails = tails

    def fresh(self, embeddings: tuple[Embedding, ...]) -> Source:
        tails = self.trunks.tails(embeddings)
        if tails is None:
            return self._pictures.fresh(embeddings)
        return TrunkSource(self.trunks, self._store, self._pictures, tails)

    def decoding(self, embeddings: tuple[Embedding, ...]) -> PictureSource:
        return self._pictures.decoding(embeddings)

    def stream(
        self, samples: Sequence[Sample], advance: Advance, *, targets: bool, embedding: int | None = None
    ) -> EmbeddedStream:
        require_readable(samples, self.bad)
        tails = self._tails if embedding is None else (self._tails[embedding],)
        return _TailStream(self._rows(samples, [tail.index for tail in tails], advance), tails)

    def minibatches(
        self, samples: Sequence[Sample], index: int, batch_size: int
    ) -> tuple[int, Callable[[Sequence[int]], Iterator[Batch]]]:
        """(pictures, their numbers → batches whose images are what trunk ``index`` gives)."""
        stored = [sample for sample in samples if sample.id in self._store]
        shape = self.trunks.shapes[index]

        def load(numbers: Sequence[int]) -> Iterator[Batch]:
            for first in range(0, len(numbers), batch_size):
                ids = tuple(stored[number].id for number in numbers[first : first + batch_size])
                rows = self._store.read(ids, index, "cpu")[TRUNK]
                yield Batch(rows.reshape(len(ids), *shape), ids)

        return len(stored), load

    def _rows(self, samples: Sequence[Sample], indices: Sequence[int], advance: Advance) -> StoredStream:
        parts = self.trunks.parts
        batch_size, device = parts.recipe.data.batch_size, parts.context.device
        return StoredStream(self._store, samples, list(dict.fromkeys(indices)), batch_size, device, advance)


class _TailStream:
    """Features of stored rows; as an ``adkit.Stream`` it gives those of the first of its tails."""

    def __init__(self, rows: StoredStream, tails: Sequence[Embedding]) -> None:
        self._rows = rows
        self._tails = tails

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._tails[0].levels

    @property
    def pictures(self) -> int:
        return self._rows.pictures

    def embedded(self) -> Iterator[Embedded]:
        places = {index: place for place, index in enumerate(dict.fromkeys(tail.index for tail in self._tails))}
        for item in self._rows.embedded():
            features = tuple(tail(item.features[places[tail.index]][TRUNK]) for tail in self._tails)
            require_finite(features, item.ids)
            yield Embedded(features, item.ids, item.labels)

    def __iter__(self) -> Iterator[Features]:
        for item in self.embedded():
            yield item.features[0]
