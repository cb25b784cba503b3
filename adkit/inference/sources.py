"""Sources of the features of images: the images themselves, or a store that all categories share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from adkit.data.loader import BadImages
from adkit.data.samples import Sample, in_order
from adkit.errors import UserError
from adkit.inference.assemble import Assembled
from adkit.inference.cache import Asked, FeatureCache, Make
from adkit.inference.engines import Embedded, ImageStream, extracted, finished
from adkit.inference.entries import Masks
from adkit.inference.pipeline import Embedding
from adkit.inference.store import FeatureStore, StoredStream, Tail
from adkit.plugin.types import Batch, Stream
from adkit.utils.progress import Advance
from adkit.utils.text import some


class EmbeddedStream(Stream, Protocol):
    """A stream that also says which image each row of its features is."""

    def embedded(self) -> Iterator[Embedded]: ...


class Source(Protocol):
    """The contract of sources of features: they give streams, and remember which images could not be read."""

    @property
    def bad(self) -> BadImages:
        """The images that could not be read so far."""
        ...

    @property
    def images(self) -> ImageSource:
        """The source of the same images that decodes them anew at every iteration."""
        ...

    def of(self, parts: Assembled) -> Source:
        """The source of images as ``parts``, those of a category, see them."""
        ...

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> EmbeddedStream:
        """Stream the features of ``samples`` through ``embeddings``; with masks if ``targets``."""
        ...


def require_readable(samples: Sequence[Sample], bad: BadImages) -> None:
    """Raise UserError when there are images and not one of them can be read."""
    if samples and all(sample.id in bad for sample in samples):
        raise UserError(
            f"{some([sample.id for sample in samples], 1)}: expected at least one image that can be read, found none "
            f"({bad.reasons[samples[0].id]}); check the files, or remove them from the data"
        )


class ImageSource:
    """A source that decodes and extracts the images at every iteration."""

    def __init__(self, parts: Assembled, bad: BadImages, total: int, cache: FeatureCache | None = None) -> None:
        """
        Args:
            bad: collects the run's images that cannot be read.
            total: number of images of the whole run, of which a share may be unreadable.
            cache: keeps features for other streams and runs; None: nothing is kept.
        """
        self.bad = bad
        self._parts = parts
        self._total = total
        self._cache = cache

    @property
    def images(self) -> ImageSource:
        return self

    def of(self, parts: Assembled) -> ImageSource:
        return ImageSource(parts, self.bad, self._total, self._cache)

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> ImageStream:
        def batches() -> Iterator[Batch]:
            yield from self._batches(samples, targets=targets)
            require_readable(samples, self.bad)

        def readable() -> int:
            return sum(sample.id not in self.bad for sample in samples)

        def embedded() -> Iterator[Embedded]:
            yield from self.embedded(samples, embeddings, advance, targets=targets)
            require_readable(samples, self.bad)

        kinds = in_order(sample.kind for sample in samples)
        return ImageStream(batches, readable, embeddings, advance, kinds, embedded)

    def embedded(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool = False
    ) -> Iterator[Embedded]:
        """Yield the features of ``samples``, with masks if ``targets``, even where none can be read."""

        def make(some: Sequence[Sample]) -> Iterator[Embedded]:
            return extracted(embeddings, self._batches(some, targets=targets), advance)

        data, masks = self._parts.recipe.data, None
        if targets and any(sample.mask is not None for sample in samples):
            masks = Masks(self._parts.metric_size, data.mask_resize, data.mask_threshold)
        return self._kept(self._asked(samples, len(samples), masks), embeddings, make, advance)

    def drawn(
        self,
        what: str,
        samples: Sequence[Sample],
        embeddings: Sequence[Embedding],
        count: int,
        make: Make,
        advance: Advance,
    ) -> Iterator[Embedded]:
        """Yield features of what ``make``'s extractors give for images that are drawn on ``samples``.

        Args:
            what: says what is drawn.
            count: how many drawn images there are if every image can be read.
        """
        return self._kept(self._asked(samples, count, drawn=what), embeddings, make, advance)

    def _asked(self, samples: Sequence[Sample], count: int, masks: Masks | None = None, drawn: str = "") -> Asked:
        return Asked(samples, repr(self._parts.view), self._parts.recipe.data.batch_size, count, masks, drawn)

    def _kept(self, asked: Asked, embeddings: Sequence[Embedding], make: Make, advance: Advance) -> Iterator[Embedded]:
        cache = self._cache
        items = make(asked.samples) if cache is None else cache.kept(asked, embeddings, make, advance)
        return finished(items, embeddings)

    def _batches(self, samples: Sequence[Sample], *, targets: bool) -> Iterator[Batch]:
        yield from self._parts.loader(samples, self.bad, self._parts.recipe.data.batch_size, targets)
        self.bad.check(self._total)


class Kept(Protocol):
    """The contract of what a store keeps of every image: the features of ψ₀, or what frozen blocks give."""

    @property
    def embeddings(self) -> tuple[Embedding, ...]:
        """The ways from images to what is kept, one per extractor of the recipe."""
        ...

    def tail(self, embedding: Embedding) -> Tail | None:
        """Find the way from what is kept to the features of ``embedding``; None where there is none."""
        ...


@dataclass(frozen=True)
class InitialFeatures:
    """The features of ψ₀, which are what is kept where nothing is trained: implements ``Kept``."""

    embeddings: tuple[Embedding, ...]

    def tail(self, embedding: Embedding) -> Tail | None:
        if embedding not in self.embeddings:
            return None
        return Tail(self.embeddings.index(embedding), embedding.levels, lambda features, ids: features)


class StoredSource:
    """A source that reads a store, which was filled from every image once, and images for what it cannot give."""

    def __init__(self, parts: Assembled, kept: Kept, store: FeatureStore, images: ImageSource) -> None:
        """
        Args:
            kept: what ``store`` has of every image.
            images: a source of the images themselves.
        """
        self.bad = images.bad
        self.images = images
        self.kept = kept
        self.store = store
        self._parts = parts
        self._tails: WeakKeyDictionary[Embedding, Tail | None] = WeakKeyDictionary()

    def of(self, parts: Assembled) -> StoredSource:
        return self  # what categories share, they see alike

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> EmbeddedStream:
        tails = [tail for embedding in embeddings if (tail := self._tail(embedding)) is not None]
        if len(tails) < len(embeddings):
            return self.images.stream(samples, embeddings, advance, targets=targets)
        require_readable(samples, self.bad)
        batch_size, device = self._parts.recipe.data.batch_size, self._parts.context.device
        return StoredStream(self.store, samples, tails, batch_size, device, advance)

    def _tail(self, embedding: Embedding) -> Tail | None:
        if embedding not in self._tails:
            self._tails[embedding] = self.kept.tail(embedding)
        return self._tails[embedding]


def extract_once(
    images: ImageSource,
    samples: Sequence[Sample],
    embeddings: Sequence[Embedding],
    store: FeatureStore,
    advance: Advance,
) -> None:
    """Add the features of ``samples`` through ``embeddings`` to ``store``."""
    for image, reason in store.unreadable.items():
        images.bad.add(image, reason)
    store.fill(images.embedded(samples, embeddings, advance), images.bad.reasons)
