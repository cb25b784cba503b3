"""Where the features of a list of pictures come from: the pictures, or a store that all categories share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from adkit.assemble import Assembled
from adkit.contracts import Batch, Stream
from adkit.data.loader import BadPictures, Loader
from adkit.data.samples import Sample
from adkit.engines import Embedded, PictureStream
from adkit.errors import UserError
from adkit.progress import Advance
from adkit.store import FeatureStore, StoredStream


class EmbeddedStream(Stream, Protocol):
    """A stream that also says which picture each row of its features is."""

    def embedded(self) -> Iterator[Embedded]: ...


class Source(Protocol):
    """Gives streams, and remembers which pictures could not be read."""

    @property
    def bad(self) -> BadPictures: ...

    def stream(self, samples: Sequence[Sample], advance: Advance, *, targets: bool) -> EmbeddedStream:
        """Features of ``samples``; with labels and masks where ``targets``."""
        ...


def require_readable(samples: Sequence[Sample], bad: BadPictures) -> None:
    """Raise UserError when there are pictures and not one of them can be read."""
    if samples and all(sample.id in bad for sample in samples):
        raise UserError(
            f"{samples[0].id} and {len(samples) - 1} more: expected at least one picture that can be read, found none "
            f"({bad.reasons[samples[0].id]}); check the files, or take them out of the data"
        )


class PictureSource:
    """Decodes and extracts at every walk."""

    def __init__(self, parts: Assembled, bad: BadPictures, total: int) -> None:
        """
        Args:
            bad: takes up the run's pictures that cannot be read.
            total: pictures of the whole run, of which a share may be unreadable.
        """
        self.bad = bad
        self._parts = parts
        self._total = total

    def stream(self, samples: Sequence[Sample], advance: Advance, *, targets: bool) -> EmbeddedStream:
        loader = Loader(
            samples,
            self._parts.view,
            self._parts.recipe.data.batch_size,
            self.bad,
            targets=targets,
            metric_size=self._parts.metric_size if targets else None,
        )

        def batches() -> Iterator[Batch]:
            yield from loader
            self.bad.check(self._total)
            require_readable(samples, self.bad)

        def readable() -> int:
            return sum(sample.id not in self.bad for sample in samples)

        return PictureStream(batches, readable, self._parts.embedding, advance)


class StoredSource:
    """Reads a store that was filled from every picture once."""

    def __init__(self, parts: Assembled, store: FeatureStore, bad: BadPictures) -> None:
        self.bad = bad
        self._parts = parts
        self._store = store

    def stream(self, samples: Sequence[Sample], advance: Advance, *, targets: bool) -> EmbeddedStream:
        require_readable(samples, self.bad)
        return StoredStream(
            self._store, samples, self._parts.recipe.data.batch_size, self._parts.context.device, advance
        )


def extract_once(
    parts: Assembled, pictures: PictureSource, samples: Sequence[Sample], folder: Path, advance: Advance
) -> StoredSource:
    """Extract ``samples`` into files under ``folder``."""
    store = FeatureStore(folder, parts.embedding.levels)
    store.fill(pictures.stream(samples, advance, targets=False).embedded())
    return StoredSource(parts, store, pictures.bad)
