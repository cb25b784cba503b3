"""The output of frozen blocks, computed once per image: for one training, or for all classes of the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn

from adkit.data.samples import Sample
from adkit.inference.assemble import Assembled, embedding_of
from adkit.inference.device import autocast
from adkit.inference.pipeline import Embedding
from adkit.inference.sources import Source, StoredSource, extract_once
from adkit.inference.store import FeatureStore, Tail, bytes_needed, fits, stored_images
from adkit.plugin.adapter import Stage
from adkit.plugin.checks import described, fault
from adkit.plugin.context import Context
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import GuardedAdapter, blaming
from adkit.plugin.types import Batch, Geometry, Level
from adkit.toolkit.features import FeaturesTable, FeatureTransform
from adkit.training.plan import new_adapter
from adkit.utils.progress import Advance

SAME: Final = 1e-3
"""Share of its norm by which the output of a trunk and of its fast copy, with folded batch norms, may differ."""

TRUNK: Final = "trunk"
"""Name of the level that holds the rows of a trunk."""


class _Tail(Extractor):
    """The blocks behind a trunk, as an extractor that takes rows, what the trunk gives, in place of images."""

    def __init__(self, tail: nn.Module, whole: Extractor, shape: tuple[int, ...]) -> None:
        nn.Module.__init__(self)  # it is made of another extractor, not of parameters
        self.tail = tail
        self._levels, self._shape = whole.levels, shape
        self.eval()

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._levels

    def forward(self, rows: Tensor) -> Mapping[str, Tensor]:
        return cast(Mapping[str, Tensor], self.tail(rows.reshape(len(rows), *self._shape)))


@dataclass(frozen=True)
class Cut:
    """An extractor cut in two: its features are ``tail(trunk(images))``, and training changes the tail alone."""

    trunk: nn.Module
    tail: nn.Module
    context: Context
    who: str
    """Name of the extractor, for the message where it breaks its contract."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the trunk gives for one image."""
        with torch.no_grad():
            shown: Tensor = self.trunk(torch.zeros(1, 3, *self.context.image_size, device=self.context.device))
        return tuple(shown.shape[1:])

    def embedding(self, index: int = 0) -> Embedding:
        """Make the way from images to rows."""
        extractor = TrunkExtractor(self.trunk, self.shape)
        transform = FeatureTransform(FeaturesTable(), extractor.levels, self.context.generator("features"))
        return Embedding(extractor, transform, self.context, self.who, index)

    def frozen(self, images: Tensor) -> Tensor:
        """Compute what the trunk gives for ``images``, float32 on the context's device."""
        with torch.no_grad(), autocast(self.context):
            found: Tensor = self.trunk(images.to(self.context.device, non_blocking=True))
            return found.float()


@dataclass(frozen=True)
class Trunks:
    """The trunk, the frozen part, of each of the recipe's extractors as the run computes it: implements ``Kept``."""

    parts: Assembled
    trained: tuple[frozenset[str], ...]
    """Names of the parameters that the adapter trains, per extractor."""
    cuts: tuple[Cut, ...]
    """The extractors, cut below these."""

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """The ways from images to rows, one per trunk."""
        return tuple(cut.embedding(index) for index, cut in enumerate(self.cuts))

    def tail(self, embedding: Embedding) -> Tail | None:
        """Make the way from rows to the features of ``embedding``; None where it has another trunk."""
        index, recipe = embedding.index, self.parts.recipe
        cut = _cut_by_name(embedding, self.trained[index])
        if cut is None or not _equal(cut.trunk, self.cuts[index].trunk):
            return None
        behind = _Tail(cut.tail, embedding.extractor, self.cuts[index].shape)
        ending = embedding_of(behind, recipe.extractors[index], recipe.features, embedding.context, index)
        return Tail(index, ending.levels, lambda rows, ids: ending(rows[TRUNK], ids))

    def gives_what(self, cut: Cut, index: int) -> bool:
        """Whether the tail of ``cut`` takes what trunk ``index`` gives, because the cut is at the same place."""
        noise = torch.rand(2, 3, *self.parts.view.size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            one, other = self.cuts[index].trunk(noise.to(cut.context.device)), cut.frozen(noise)
        return one.shape == other.shape and bool(torch.dist(one.float(), other) <= SAME * other.norm())


def shared_trunks(parts: Assembled) -> Trunks | None:
    """Cut all extractors below what the recipe's adapter trains; None where one of them cannot be cut.

    All is computed by torch then: in a lower precision, other runtimes round where the cut is, and only there.
    """
    adapter = new_adapter(parts)
    if adapter is None or adapter.extends:
        return None
    names, cuts = [], []
    for trainable, embedding in zip(parts.trainable, parts.embeddings, strict=True):
        stages = adapter.stages(trainable)
        if not _runs_once(adapter, stages):
            return None
        wanted = {id(parameter) for stage in stages for parameter in stage.parameters}
        trained = frozenset(name for name, parameter in trainable.named_parameters() if id(parameter) in wanted)
        cut = _cut_by_name(embedding, trained)
        if cut is None:
            return None
        names.append(trained)
        cuts.append(cut)
    return Trunks(parts.by_torch(), tuple(names), tuple(cuts))


def _runs_once(adapter: GuardedAdapter, stages: Sequence[Stage]) -> bool:
    """Whether what the blocks below the trained ones give is all that steps read, of the normal images alone."""
    return not adapter.reads_images and all(stage.images == "normal" for stage in stages)


def _cut_by_name(embedding: Embedding, trained: frozenset[str]) -> Cut | None:
    """Cut an extractor below the parameters of these names, of which a fast copy may lack some."""
    parameters = embedding.extractor.named_parameters()
    return _cut(embedding, [parameter for name, parameter in parameters if name in trained])


def _cut(embedding: Embedding, parameters: Sequence[nn.Parameter]) -> Cut | None:
    """Cut the extractor of an embedding below ``parameters``; None where it cannot be cut."""
    with blaming(embedding.who, "split"):
        halves = member(embedding.extractor, Extractor, "split")(parameters)
    right = halves is None or (
        isinstance(halves, tuple) and len(halves) == 2 and all(isinstance(half, nn.Module) for half in halves)
    )
    if not right:
        raise fault(embedding.who, "split", "(trunk, tail), two modules, or None", described(halves), "return these")
    if halves is None:
        return None
    trunk, tail = halves
    return Cut(trunk, tail, embedding.context, embedding.who)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same tensors."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class Rows:
    """Rows on disk: what a trunk gives for each image, read in any order as batches in place of the images."""

    def __init__(self, store: FeatureStore, samples: Sequence[Sample], index: int, shape: tuple[int, ...]) -> None:
        """
        Args:
            samples: images, of which those count that ``store`` has; an image's number is its place among those.
            index: number of the embedding in ``store``.
            shape: shape of what the trunk gives for one image.
        """
        self._ids = [sample.id for sample in samples if sample.id in store]
        self._store = store
        self._index = index
        self._shape = shape

    def __len__(self) -> int:
        return len(self._ids)

    def load(self, numbers: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Read the rows of the images of these numbers, in batches."""
        for first in range(0, len(numbers), batch_size):
            ids = tuple(self._ids[number] for number in numbers[first : first + batch_size])
            rows = self._store.read(ids, self._index, "cpu")[TRUNK]
            yield Batch(rows.reshape(len(ids), *self._shape), ids)


class Frozen:
    """The frozen blocks of one training, which give rows for its images, each computed once."""

    def __init__(self, cut: Cut, index: int, source: Source, folder: Path) -> None:
        """
        Args:
            index: number of the extractor among the recipe's.
            source: source of the images.
            folder: where to store rows that the source does not have.
        """
        self._cut, self._index, self._source, self._folder = cut, index, source, folder
        self._shared: FeatureStore | None = None
        if isinstance(source, StoredSource) and isinstance(source.kept, Trunks) and source.kept.gives_what(cut, index):
            self._shared = source.store

    @property
    def shared(self) -> bool:
        """Whether the source has the rows, as is the case where all classes of the same images share them."""
        return self._shared is not None

    def rows(self, name: str, samples: Sequence[Sample], advance: Advance) -> Rows:
        """Give the rows of ``samples``, computing those that are not stored yet.

        Args:
            name: tells these rows from those of other images. Rows that an earlier attempt left under it are completed,
                so each attempt must name the same images in the same order.
            advance: called with the number of images of every batch that is computed.

        Raises:
            NoRoomError: the rows would take more than a quarter of the free disk space.
        """
        if self._shared is not None:
            return Rows(self._shared, samples, self._index, self._cut.shape)
        embedding, folder = self._cut.embedding(), self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        if not stored_images(folder) and not fits(folder, [embedding.levels], len(samples)):
            needed = bytes_needed([embedding.levels], len(samples))
            raise NoRoomError(f"{needed / 1e9:.1f} GB, more than a quarter of the free disk space")
        store = FeatureStore(folder, [embedding.levels])
        extract_once(self._source.images, store.missing(samples), (embedding,), store, advance)
        return Rows(store, samples, 0, self._cut.shape)


class NoRoomError(Exception):
    """Rows would take too much of the disk; the message says how much."""


class TrunkExtractor(Extractor):
    """A trunk as an extractor, whose only level is what the trunk gives for an image, as one row."""

    def __init__(self, trunk: nn.Module, shape: tuple[int, ...]) -> None:
        """
        Args:
            shape: shape of what ``trunk`` gives for one image.
        """
        nn.Module.__init__(self)  # it is made of another extractor, not of parameters
        self.trunk = trunk
        self._levels = {TRUNK: Level(prod(shape), (1, 1), Geometry.covering((1, 1), (1, 1)))}
        self.eval()

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._levels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {TRUNK: self.trunk(images).flatten(1)[:, None, None]}


def cut_for(embedding: Embedding, adapter: GuardedAdapter, stages: Sequence[Stage]) -> Cut | None:
    """Cut the extractor of ``embedding`` below all that ``stages`` train.

    Returns:
        The halves; None where the extractor cannot be cut or the adapter needs the whole.
    """
    if not _runs_once(adapter, stages):
        return None
    return _cut(embedding, [parameter for stage in stages for parameter in stage.parameters])
