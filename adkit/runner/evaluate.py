"""Scores a list of images by a pipeline, and takes the pixel metrics as the images come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor

from adkit.data.samples import Sample, in_order
from adkit.inference.assemble import Assembled
from adkit.inference.engines import Embedded, outputs
from adkit.inference.pipeline import Fused, Pipeline
from adkit.inference.sources import Source
from adkit.metrics import PixelCounts, PixelMetrics
from adkit.runner.shown import Highest, Keeper, Kept, highest_cells, inside
from adkit.utils.progress import Advance

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Evaluation:
    """Raw scores of the images that could be read, in the order of the data."""

    samples: list[Sample]
    scores: FloatArray
    members: FloatArray
    """(n, members): the raw scores of each member."""
    peaks: FloatArray | None = None
    """(n,): the highest value of each image's map; None unless asked for, or without maps."""
    pixel: dict[str, float | None] | None = None
    """Pixel metric → its value; None without masks or maps."""
    pixel_kinds: Mapping[str, dict[str, float | None]] = field(default_factory=dict)
    """Kind of anomaly → its pixel metrics, with the pixels of all normal images."""
    counts: PixelCounts | None = None
    """The pixels of each image at some thresholds, for intervals; None without masks or maps."""
    unseen: tuple[str, ...] = ()
    """The ids of anomalous images whose mask is empty in the part that the extractor's input shows."""
    kept: Mapping[str, Kept] = field(default_factory=dict)
    """Id → map and highest cell, of the images that the page may show."""

    def keys(self, groups: Mapping[str, str]) -> list[str]:
        """The key of each image's group, by ``Category.groups``: its id where it is a group of its own."""
        return [groups.get(sample.id, sample.id) for sample in self.samples]

    @property
    def labels(self) -> Labels:
        return np.array([sample.label for sample in self.samples], np.int64)


def evaluate(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    source: Source,
    parts: Assembled,
    advance: Advance,
    *,
    targets: bool,
    peaks: bool,
    watch: Callable[[Iterable[Embedded]], Iterable[Embedded]] | None = None,
    keeper: Keeper | None = None,
) -> Evaluation:
    """Score ``samples`` and, with ``targets``, take the pixel metrics where there are masks and maps.

    An anomalous image without a mask among others that have one, because its mask cannot be read, adds no pixels. Masks
    are not read where there are no maps, unless a part of an image is cut off, which may be where its defect is.

    ``peaks`` asks for the highest value of each map; ``watch`` passes the features on, having seen them; ``keeper``
    takes maps and highest cells for the page.
    """
    by_id = {sample.id: sample for sample in samples}
    seen: list[Sample] = []
    found: list[Scored] = []
    pixel = PixelMetrics()
    unseen: list[str] = []
    located = False
    evaluator = create_evaluator(pipeline, parts.metric_size, parts.view.size, peaks=peaks, keeper=keeper)
    masked = targets and any(sample.mask is not None for sample in samples)
    masked = masked and (not parts.view.shows_all or pipeline.probed(parts.view.size).localizes)
    embedded: Iterable[Embedded] = source.stream(samples, pipeline.embeddings, advance, targets=masked).embedded()
    for scored in outputs(evaluator, embedded if watch is None else watch(embedded)):
        seen += (by_id[image] for image in scored.ids)
        if scored.masks is not None:
            empty = ~scored.masks.flatten(1).any(1)
            unseen += (p for p, none in zip(scored.ids, empty.tolist(), strict=True) if none and by_id[p].mask)
        if scored.maps is not None:
            maskless = [by_id[p].label == 1 and by_id[p].mask is None for p in scored.ids]
            for maps, masks in shown_pixels(scored, parts.view.size, maskless):
                pixel.add(maps.numpy(), masks.numpy())
                del maps, masks
            located = True
        found.append(replace(scored, maps=None, masks=None, regions=None))
        del scored  # its maps are not to be there while the next ones are made
    counts = pixel.counts() if located else None
    several = anomalous_kinds(seen)
    kinds = [sample.kind if sample.label and several else "" for sample in seen]
    whole, by_kind = pixel.compute_by_kind(kinds) if located else (None, {})
    highest = [one.peaks.numpy() for one in found if one.peaks is not None]
    return Evaluation(
        seen,
        np.concatenate([np.zeros(0, np.float32), *(one.scores.numpy() for one in found)]),
        np.concatenate([np.zeros((0, len(pipeline.members)), np.float32), *(one.members.numpy() for one in found)]),
        np.concatenate(highest) if highest else None,
        whole,
        {kind: by_kind[kind] for kind in several if located},
        counts,
        tuple(unseen),
        {} if keeper is None else keeper.kept,
    )


def anomalous_kinds(samples: Sequence[Sample]) -> list[str]:
    """The kinds of the anomalous ``samples``, each once; none where there is but one, which is the total."""
    kinds = in_order(sample.kind for sample in samples if sample.label)
    return kinds if len(kinds) > 1 else []


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the images of several, such as those of folds, one after the other."""
    peaks = [part.peaks for part in parts if part.peaks is not None]
    return Evaluation(
        [sample for part in parts for sample in part.samples],
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.members for part in parts]),
        np.concatenate(peaks) if peaks else None,
    )


@dataclass(frozen=True)
class Scored:
    """What the evaluator found for one batch."""

    ids: tuple[str, ...]
    scores: Tensor
    """(b,) float32 on the CPU: the raw scores."""
    members: Tensor
    """(b, members) float32 on the CPU: each member's own raw scores."""
    peaks: Tensor | None
    """(b,) float32 on the CPU: the highest value of each map at the input's size, within the part that shows the image.
    None unless asked for, or without maps."""
    maps: Tensor | None
    """(b, M, M) float32 on the CPU: the raw maps at the metric size; None without masks or maps."""
    masks: Tensor | None
    """(b, M, M) bool: the masks at the metric size; None where they were not asked for."""
    regions: Tensor | None
    """(b, 4) int64 top, left, bottom, right: the part of each input that shows the image; None if all of it does."""


def create_evaluator(
    pipeline: Pipeline, metric_size: int, size: tuple[int, int], *, peaks: bool, keeper: Keeper | None = None
) -> Engine:
    """An engine that scores one Embedded after the other; its output is a Scored.

    Args:
        pipeline: its members read the features through its embeddings.
        metric_size: side of the square grid on which pixel metrics are taken.
        size: (height, width) of the extractor's input.
        peaks: whether to take the highest value of every map.
        keeper: takes the maps of every batch, and the highest cell of every image.
    """

    def step(engine: Engine, item: Embedded) -> Scored:
        scores = pipeline.score(item.features, item.ids)
        highest = maps = whole = None
        if scores.localizes and (peaks or item.masks is not None or keeper is not None):
            maps = whole = pipeline.localize(scores, size)
            highest = map_peaks(maps, item.regions).cpu() if peaks else None
            maps = None if item.masks is None else to_metric_grid(maps, metric_size).cpu()
        if keeper is not None:
            shown = None if whole is None else inside(whole, item.regions)
            keeper.add(item.ids, scores, shown, _highest(pipeline, scores, item))
        members = torch.stack([one.image for one in scores.members], 1).cpu()
        return Scored(item.ids, scores.image.cpu(), members, highest, maps, item.masks, item.regions)

    return Engine(step)


def _highest(pipeline: Pipeline, scores: Fused, item: Embedded) -> list[Highest | None]:
    """The highest cell of each image of a batch, by the member that finds the image least normal."""
    chosen = least_normal([one.image for one in scores.members], [member.scale for member in pipeline.members])
    found: list[Highest | None] = [None] * len(item)
    for member in dict.fromkeys(chosen):
        cells = highest_cells(scores.members[member], item.features[pipeline.places[member]], item.regions)
        for row, cell in enumerate(cells):
            if chosen[row] == member and cell is not None:
                found[row] = replace(cell, member=member)
    return found


def least_normal(scores: Sequence[Tensor], scales: Sequence[float | None]) -> list[int]:
    """For each image, the member whose score is the highest beside that of a normal image.

    It is the first one where that of a normal image is not known of every member, or is no number above 0: scores of
    several members are in units of their own.

    Args:
        scores: those (n,) that each member gives the images.
        scales: the score that each member gives a normal image.
    """
    if len(scores) == 1 or not all(scale is not None and scale > 0 for scale in scales):
        return [0] * len(scores[0])
    ratios = torch.stack([values / scale for values, scale in zip(scores, scales, strict=True) if scale is not None])
    members: list[int] = ratios.argmax(0).tolist()
    return members


def map_peaks(maps: Tensor, regions: Tensor | None) -> Tensor:
    """(n,): the highest value of each of ``maps`` (n, H, W) within its region of ``regions`` (n, 4), or anywhere."""
    if regions is None:
        return maps.amax((1, 2))
    parts = zip(maps, regions.tolist(), strict=True)
    return torch.stack([one[top:bottom, left:right].amax() for one, (top, left, bottom, right) in parts])


def to_metric_grid(maps: Tensor, size: int) -> Tensor:
    """Resize maps over the extractor's input to the grid on which pixel metrics are taken.

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


def shown_pixels(
    scored: Scored, image_size: tuple[int, int], maskless: Sequence[bool]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps and masks, (n, h, w) each, of what shows an image: the padding around it is neither right nor wrong.

    Args:
        image_size: (height, width) of the extractor's input.
        maskless: (b,) whether an image's mask is missing, so that it has no pixels: h = w = 0.
    """
    assert scored.maps is not None and scored.masks is not None
    height, width = scored.maps.shape[1:]
    if scored.regions is None and not any(maskless):
        yield scored.maps, scored.masks
        return
    whole = [(0, 0, *image_size)] * len(scored.ids)
    regions = whole if scored.regions is None else scored.regions.tolist()
    for one, mask, region, none in zip(scored.maps, scored.masks, regions, maskless, strict=True):
        top, bottom = (0, 0) if none else (round(edge * height / image_size[0]) for edge in region[::2])
        left, right = (0, 0) if none else (round(edge * width / image_size[1]) for edge in region[1::2])
        yield one[None, top:bottom, left:right], mask[None, top:bottom, left:right]
