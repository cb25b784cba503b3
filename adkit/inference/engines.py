"""The Ignite engine that makes features of images, and how the outputs of an engine are read one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ignite.engine import Engine, Events, State
from torch import Tensor

from adkit.inference.pipeline import Embedding, extract
from adkit.plugin.types import Batch, Features, Level
from adkit.utils.freed import GROWN, FreeMemory
from adkit.utils.progress import Advance


@dataclass(frozen=True)
class Embedded:
    """A batch after the extractor: the images are gone, what is known about them stays."""

    features: tuple[Features, ...]
    """The features of the batch through each embedding."""
    ids: tuple[str, ...]
    """One name per image; masks and regions are those of ``adkit.plugin.Batch``."""
    masks: Tensor | None = None
    regions: Tensor | None = None

    @staticmethod
    def of(batch: Batch, features: tuple[Features, ...]) -> Embedded:
        """Put ``features`` in place of the images of ``batch``."""
        return Embedded(features, batch.ids, batch.masks, batch.regions)

    def __len__(self) -> int:
        return len(self.ids)


def create_embedder(embeddings: Sequence[Embedding], advance: Advance) -> Engine:
    """Make an engine that turns each ``Batch`` into an ``Embedded``, its output, of what the extractors give."""

    def step(engine: Engine, batch: Batch) -> Embedded:
        return Embedded.of(batch, extract(embeddings, batch.images))

    embedder = Engine(step)
    embedder.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: advance(len(engine.state.output)))
    return embedder


def extracted(embeddings: Sequence[Embedding], batches: Iterable[Batch], advance: Advance) -> Iterator[Embedded]:
    """What the extractors give for each of ``batches``."""
    return outputs(create_embedder(embeddings, advance), batches)


def finished(items: Iterable[Embedded], embeddings: Sequence[Embedding]) -> Iterator[Embedded]:
    """Make the features that scorers read of what the extractors gave."""

    def made(item: Embedded) -> Embedded:
        pairs = zip(embeddings, item.features, strict=True)
        return replace(item, features=tuple(embedding.finish(given, item.ids) for embedding, given in pairs))

    return map(made, items)  # which, unlike a loop, holds nothing while the next one is made


def of_first(items: Iterable[Embedded]) -> Iterator[Features]:
    """The features through the first embedding."""

    def first(item: Embedded) -> Features:
        return item.features[0]

    return map(first, items)


def outputs(engine: Engine, data: Iterable[Any]) -> Iterator[Any]:
    """Run ``engine`` over ``data``, one iteration at a time, and yield each output.

    Ignite pushes and a scorer pulls; an engine that interrupts itself after each iteration serves both, and
    no more than one output is alive.
    """

    # Without a handler of its own, an interrupted engine that is garbage-collected after the run's log is closed would
    # write on the terminal.
    engine.logger.addHandler(logging.NullHandler())
    items, free = iter(data), FreeMemory()
    first = next(items, None)
    if first is None:  # Ignite refuses to run over nothing
        return
    # A chain has no length: Ignite then ends with the data instead of starting it again when unreadable
    # images made it shorter than it promised to be.
    items = chain([first], items)
    del first

    def pause(engine: Engine) -> None:
        engine.interrupt()

    with engine.add_event_handler(Events.ITERATION_COMPLETED, pause):
        state = engine.run(items, max_epochs=1)
        while not state.epoch_length:
            yield _take_output(state)
            free.give_back(GROWN)
            state = engine.run(items, max_epochs=1)
    free.give_back()


def _take_output(state: State) -> Any:
    """Take the output out of ``state``, so that nothing but the caller keeps the tensors of the iteration alive."""
    output, state.output, state.batch = state.output, None, None
    return output


class ImageStream:
    """The features of a list of images, extracted anew at each iteration over them.

    As an ``adkit.plugin.Stream`` it gives the features of the first of its embeddings.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        images: Callable[[], int],
        embeddings: Sequence[Embedding],
        advance: Advance,
        kinds: Sequence[str] = (),
        embedded: Callable[[], Iterator[Embedded]] | None = None,
    ) -> None:
        """
        Args:
            embedded: gives the features, kept ones among them; default: they are extracted of ``batches``.
        """
        self.kinds = kinds
        self._embedded = embedded
        self._batches = batches
        self._images = images
        self._embeddings = embeddings
        self._advance = advance

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._embeddings[0].levels

    @property
    def count(self) -> int:
        return self._images()

    def batches(self) -> Iterator[Batch]:
        yield from self._batches()

    def embedded(self) -> Iterator[Embedded]:
        if self._embedded is not None:
            return self._embedded()
        return finished(extracted(self._embeddings, self._batches(), self._advance), self._embeddings)

    def __iter__(self) -> Iterator[Features]:
        return of_first(self.embedded())
