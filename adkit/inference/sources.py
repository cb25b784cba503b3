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
    """Where features come from: gives streams, and remembers which images could not be read."""

    @property
    def bad(self) -> BadImages:
        """The images that could not be read so far."""
        ...

    def stream(
        self, samples: Sequence[Sample], advance: Advance, *, targets: bool, embedding: int | None = None
    ) -> EmbeddedStream:
        """Stream the features of ``samples``, through one embedding or all; with labels and masks if ``targets``."""
        ...

    def fresh(self, embeddings: tuple[Embedding, ...]) -> Source:
        """Make a source of the same images through other embeddings."""
        ...

    def decoding(self, embeddings: tuple[Embedding, ...]) -> ImageSource:
        """Make a source as ``fresh`` does, but one that always decodes the images anew at every iteration."""
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

    def __init__(
        self, parts: Assembled, bad: BadImages, total: int, embeddings: tuple[Embedding, ...] | None = None
    ) -> None:
        """
        Args:
            bad: collects the run's images that cannot be read.
            total: number of images of the whole run, of which a share may be unreadable.
            embeddings: default: those of ``parts``.
        """
        self.bad = bad
        self._parts = parts
        self._total = total
        self._embeddings = parts.embeddings if embeddings is None else embeddings

    def fresh(self, embeddings: tuple[Embedding, ...]) -> ImageSource:
        return self.decoding(embeddings)

    def decoding(self, embeddings: tuple[Embedding, ...]) -> ImageSource:
        return ImageSource(self._parts, self.bad, self._total, embeddings)

    def stream(
        self, samples: Sequence[Sample], advance: Advance, *, targets: bool, embedding: int | None = None
    ) -> ImageStream:
        def batches() -> Iterator[Batch]:
            yield from self._batches(samples, targets=targets)
            require_readable(samples, self.bad)

        def readable() -> int:
            return sum(sample.id not in self.bad for sample in samples)

        embeddings = self._embeddings if embedding is None else (self._embeddings[embedding],)
        return ImageStream(batches, readable, embeddings, advance, in_order(sample.kind for sample in samples))

    def embedded(self, samples: Sequence[Sample], advance: Advance) -> Iterator[Embedded]:
        """Yield the features of ``samples`` through all embeddings, even where none of them can be read."""
        return outputs(create_embedder(self._embeddings, advance), self._batches(samples, targets=False))

    def _batches(self, samples: Sequence[Sample], *, targets: bool) -> Iterator[Batch]:
        yield from self._parts.loader(samples, self.bad, self._parts.recipe.data.batch_size, targets)
        self.bad.check(self._total)


class StoredSource:
    """A source that reads a store, which was filled from every image once."""

    def __init__(self, parts: Assembled, store: FeatureStore, images: ImageSource) -> None:
        self.bad = images.bad
        self._parts = parts
        self._store = store
        self._images = images

    def fresh(self, embeddings: tuple[Embedding, ...]) -> ImageSource:
        return self.decoding(embeddings)

    def decoding(self, embeddings: tuple[Embedding, ...]) -> ImageSource:
        return self._images.decoding(embeddings)

    def stream(
        self, samples: Sequence[Sample], advance: Advance, *, targets: bool, embedding: int | None = None
    ) -> EmbeddedStream:
        require_readable(samples, self.bad)
        embeddings = range(len(self._parts.embeddings)) if embedding is None else (embedding,)
        return StoredStream(
            self._store, samples, embeddings, self._parts.recipe.data.batch_size, self._parts.context.device, advance
        )


def extract_once(images: ImageSource, samples: Sequence[Sample], store: FeatureStore, advance: Advance) -> None:
    """Add the features of ``samples`` through the embeddings of ``images`` to ``store``."""
    for image, reason in store.unreadable.items():
        images.bad.add(image, reason)
    store.fill(images.embedded(samples, advance), images.bad.reasons)
