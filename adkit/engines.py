"""The two Ignite engines of a run without training: the embedder makes features, the evaluator judges them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from ignite.engine import Engine, Events, State
from torch import Tensor

from adkit.inference import Embedding, ScoringPath, embed
from adkit.plugin.guard import check_finite
from adkit.plugin.types import Batch, Features, Level
from adkit.utils.progress import Advance

FINITE_FEATURES = 'check the weights, or compute with [run] precision = "float32"'
FINITE_SCORES = "look at the picture, or choose another scorer"


@dataclass(frozen=True)
class Embedded:
    """A batch after the extractor: the pictures are gone, what is known of them stays."""

    features: tuple[Features, ...]
    """What each embedding made of it."""
    ids: tuple[str, ...]
    labels: Tensor | None = None
    masks: Tensor | None = None
    regions: Tensor | None = None

    @staticmethod
    def of(batch: Batch, features: tuple[Features, ...]) -> Embedded:
        return Embedded(features, batch.ids, batch.labels, batch.masks, batch.regions)

    def __len__(self) -> int:
        return len(self.ids)


def require_finite(embedded: Iterable[Features], ids: Sequence[str]) -> None:
    """Raise UserError, which names the picture, where a feature is not finite."""
    for features in embedded:
        for name, level in features.items():
            check_finite(level, ids, f"extractor: level {name!r}", FINITE_FEATURES)


def create_embedder(embeddings: Sequence[Embedding], advance: Advance) -> Engine:
    """An engine that turns each Batch into an Embedded, which is its output."""

    def step(engine: Engine, batch: Batch) -> Embedded:
        embedded = embed(embeddings, batch.images)
        require_finite(embedded, batch.ids)
        return Embedded.of(batch, embedded)

    embedder = Engine(step)
    embedder.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: advance(len(engine.state.output)))
    return embedder


def outputs(engine: Engine, data: Iterable[Any]) -> Iterator[Any]:
    """Run ``engine`` over ``data`` one iteration at a time and yield each output.

    Ignite pushes and a scorer pulls; an engine that interrupts itself after each iteration serves both, and
    no more than one output is alive.
    """

    # Without a handler of its own, an interrupted engine that is garbage-collected after the run's log is closed would
    # write on the terminal.
    engine.logger.addHandler(logging.NullHandler())
    items = iter(data)
    first = next(items, None)
    if first is None:  # Ignite refuses to run over nothing
        return
    # A chain has no length: Ignite then ends with the data instead of starting it again when unreadable
    # pictures made it shorter than it promised to be.
    items = chain([first], items)
    del first

    def pause(engine: Engine) -> None:
        engine.interrupt()

    with engine.add_event_handler(Events.ITERATION_COMPLETED, pause):
        state = engine.run(items, max_epochs=1)
        while not state.epoch_length:
            yield _take_output(state)
            state = engine.run(items, max_epochs=1)


def _take_output(state: State) -> Any:
    """Leave nothing of the iteration behind, so that nothing but the caller keeps its tensors alive."""
    output, state.output, state.batch = state.output, None, None
    return output


class PictureStream:
    """The features of a list of pictures, extracted anew at each walk.

    As an ``adkit.plugin.Stream`` it gives those of the first of its embeddings.
    """

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        pictures: Callable[[], int],
        embeddings: Sequence[Embedding],
        advance: Advance,
        kinds: Sequence[str] = (),
    ) -> None:
        self.kinds = kinds
        self._batches = batches
        self._pictures = pictures
        self._embeddings = embeddings
        self._advance = advance

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._embeddings[0].levels

    @property
    def pictures(self) -> int:
        return self._pictures()

    def batches(self) -> Iterator[Batch]:
        yield from self._batches()

    def embedded(self) -> Iterator[Embedded]:
        return outputs(create_embedder(self._embeddings, self._advance), self._batches())

    def __iter__(self) -> Iterator[Features]:
        for item in self.embedded():
            yield item.features[0]


@dataclass(frozen=True)
class Judged:
    """What the evaluator found for one batch."""

    ids: tuple[str, ...]
    scores: Tensor
    """(b,) float32 on the CPU, raw."""
    members: Tensor
    """(b, members) float32 on the CPU: each member's own raw scores."""
    peaks: Tensor | None
    """(b,) float32 on the CPU: the highest value of the map, at the size of the image, where it shows the picture;
    only where they are asked for and there are maps."""
    maps: Tensor | None
    """(b, M, M) float32 on the CPU at the metric size, raw; only where masks ask for them."""
    masks: Tensor | None
    regions: Tensor | None


def create_evaluator(path: ScoringPath, metric_size: int, size: tuple[int, int], *, peaks: bool) -> Engine:
    """An engine that scores each Embedded; its output is a Judged.

    Args:
        path: the whole way from features to score and map.
        metric_size: side of the square grid on which pixel metrics are taken.
        size: (height, width) of the images that the extractor was given.
        peaks: whether to look for the highest value of every map.
    """

    def step(engine: Engine, item: Embedded) -> Judged:
        scores = path.score(item.features)
        check_finite(scores.image, item.ids, "scorer: the score", FINITE_SCORES)
        highest = maps = None
        if scores.localizes and (peaks or item.masks is not None):
            maps = path.localize(scores, size)
            check_finite(maps, item.ids, "localizer: the map", FINITE_SCORES)
            highest = map_peaks(maps, item.regions).cpu() if peaks else None
            maps = None if item.masks is None else to_metric_grid(maps, metric_size).cpu()
        members = torch.stack([one.image for one in scores.members], 1).cpu()
        return Judged(item.ids, scores.image.cpu(), members, highest, maps, item.masks, item.regions)

    return Engine(step)


def map_peaks(maps: Tensor, regions: Tensor | None) -> Tensor:
    """The highest value of each map (n, H, W) within its region (n, 4), or anywhere: (n,)."""
    if regions is None:
        return maps.amax((1, 2))
    parts = zip(maps, regions.tolist(), strict=True)
    return torch.stack([one[top:bottom, left:right].amax() for one, (top, left, bottom, right) in parts])


def to_metric_grid(maps: Tensor, size: int) -> Tensor:
    """Bring maps of the extractor's image to the grid on which pixel metrics are taken.

    Args:
        maps: (n, H, W).
        size: side of the metric grid.

    Returns:
        (n, size, size): area resizing where it shrinks [PANDA supplement 2.3], bilinear where it enlarges.
    """
    if maps.shape[1:] == (size, size):
        return maps
    mode = "area" if min(maps.shape[1:]) >= size else "bilinear"
    return torch.nn.functional.interpolate(maps[:, None], (size, size), mode=mode)[:, 0]


def without_padding(judged: Judged, image_size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps and masks, (n, h, w) each, of what shows a picture: the padding around it is neither right nor wrong."""
    assert judged.maps is not None and judged.masks is not None
    if judged.regions is None:
        yield judged.maps, judged.masks
        return
    height, width = judged.maps.shape[1:]
    for one, mask, region in zip(judged.maps, judged.masks, judged.regions.tolist(), strict=True):
        top, bottom = (round(edge * height / image_size[0]) for edge in region[::2])
        left, right = (round(edge * width / image_size[1]) for edge in region[1::2])
        yield one[None, top:bottom, left:right], mask[None, top:bottom, left:right]
