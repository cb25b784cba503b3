"""Sources of the features of images: the images themselves, or a store that all categories share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from adkit.data.loader import BadImages
from adkit.data.samples import Sample, in_order
from adkit.errors import UserError
from adkit.inference.assemble import Assembled
from adkit.inference.engines import Embedded, ImageStream, create_embedder, outputs
from adkit.inference.pipeline import Embedding
from adkit.inference.store import FeatureStore, StoredStream
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

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> EmbeddedStream:
        """Stream the features of ``samples`` through ``embeddings``; with labels and masks if ``targets``."""
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

    def __init__(self, parts: Assembled, bad: BadImages, total: int) -> None:
        """
        Args:
            bad: collects the run's images that cannot be read.
            total: number of images of the whole run, of which a share may be unreadable.
        """
        self.bad = bad
        self._parts = parts
        self._total = total

    @property
    def images(self) -> ImageSource:
        return self

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> ImageStream:
        def batches() -> Iterator[Batch]:
            yield from self._batches(samples, targets=targets)
            require_readable(samples, self.bad)

        def readable() -> int:
            return sum(sample.id not in self.bad for sample in samples)

        return ImageStream(batches, readable, embeddings, advance, in_order(sample.kind for sample in samples))

    def embedded(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance
    ) -> Iterator[Embedded]:
        """Yield the features of ``samples``, even where none of them can be read."""
        return outputs(create_embedder(embeddings, advance), self._batches(samples, targets=False))

    def _batches(self, samples: Sequence[Sample], *, targets: bool) -> Iterator[Batch]:
        yield from self._parts.loader(samples, self.bad, self._parts.recipe.data.batch_size, targets)
        self.bad.check(self._total)


class StoredSource:
    """A source that reads the features of ψ₀ from a store, which was filled from every image once."""

    def __init__(self, parts: Assembled, store: FeatureStore, images: ImageSource) -> None:
        self.bad = images.bad
        self.images = images
        self._parts = parts
        self._store = store

    def stream(
        self, samples: Sequence[Sample], embeddings: Sequence[Embedding], advance: Advance, *, targets: bool
    ) -> EmbeddedStream:
        stored = self._parts.embeddings
        if not set(embeddings) <= set(stored):
            return self.images.stream(samples, embeddings, advance, targets=targets)
        require_readable(samples, self.bad)
        places = [stored.index(embedding) for embedding in embeddings]
        batch_size, device = self._parts.recipe.data.batch_size, self._parts.context.device
        return StoredStream(self._store, samples, places, batch_size, device, advance)


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
