"""Watches the features of a category as they pass, and looks for near copies where nobody named the parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from PIL import Image

from adkit.data.contact_sheet import contact_sheet
from adkit.data.near_copies import NearCopies, NearCopyCollector, near_copies_warning
from adkit.data.samples import Category
from adkit.inference.engines import Embedded, of_first
from adkit.inference.pipeline import Embedding
from adkit.inference.sources import EmbeddedStream, Source
from adkit.plugin.types import Features, Level
from adkit.utils.progress import Display

Side = Literal["training", "calibration", "test"]
MOST: Final[Mapping[str, int]] = {"training": 2000, "calibration": 500, "test": 500}
"""The number of images that are looked at, of each side."""


@dataclass(frozen=True)
class NearCopyReport:
    """What is to be said of the near copies in a category, and shown."""

    warnings: list[str]
    sheet: Image.Image
    """The most suspicious pairs, those of calibration images first."""
    suggestion: str | None
    """The value of ``[data] group`` that puts most of them together; None where no value does."""


class NearCopyWatch:
    """A collector of the mean features of a category's normal images, of the first embedding, while they pass anyway.

    Features of an extractor that was adapted to the training images are not for it: they draw these together.
    """

    def __init__(self, category: Category, sheet: str) -> None:
        """
        Args:
            sheet: where the contact sheet will be, for the warnings.
        """
        self.sheet = sheet
        self._category = category
        self._normal = {sample.id for sample in category.normal}
        # Nobody names groups where a watch is, so a test image is in one with a training image as its copy alone. That
        # has been said, with another remedy.
        trained = {category.group_of(sample) for sample in category.train}
        self._copies = {sample.id for sample in category.test if category.group_of(sample) in trained}
        self._collector = NearCopyCollector(MOST)

    def see(self, side: Side, item: Embedded) -> None:
        """Take a batch of images of one side; anomalous images, and those seen before, are passed over."""
        wanted = self._normal - self._copies if side == "test" else self._normal
        rows = [row for row, id in enumerate(item.ids) if id in wanted and self._collector.wants(side, id)]
        if rows:
            levels = [level[rows].float().mean((1, 2)) for _, level in sorted(item.features[0].items())]
            self._collector.add(side, [item.ids[row] for row in rows], torch.cat(levels, 1).cpu().numpy())

    def watched(self, side: Side, items: Iterable[Embedded]) -> Iterator[Embedded]:
        """Pass ``items`` on, having seen them."""

        def seen(item: Embedded) -> Embedded:
            self.see(side, item)
            return item

        return map(seen, items)

    def report(self) -> NearCopyReport | None:
        """Look for near copies of training images among those for calibration and test; None: no sign of any."""
        found: dict[Side, NearCopies] = {}
        for side in ("calibration", "test"):
            if (copies := self._collector.find(side)) is not None:
                found[side] = copies
        if not found:
            return None
        samples = {sample.id: sample for sample in self._category.normal}
        pairs = [(samples[pair.held_out], samples[pair.training]) for one in found.values() for pair in one.pairs]
        warnings = [near_copies_warning(self._category.name, side, one, self.sheet) for side, one in found.items()]
        values = [one.suggestion.group for one in found.values() if one.suggestion is not None]
        return NearCopyReport(warnings, contact_sheet(pairs, self._category.range), next(iter(values), None))


class WatchedStream:
    """A stream for a scorer to fit on, whose features a watch sees as they pass."""

    def __init__(self, stream: EmbeddedStream, watch: NearCopyWatch) -> None:
        self._stream = stream
        self._watch = watch

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._stream.levels

    @property
    def count(self) -> int:
        return self._stream.count

    def __iter__(self) -> Iterator[Features]:
        return of_first(self._watch.watched("training", self._stream.embedded()))


def look_for_near_copies(
    category: Category, source: Source, embedding: Embedding, display: Display, sheet: str
) -> NearCopyReport | None:
    """Extract the features of as many normal images as are looked at, and report on them; see ``NearCopyWatch``."""
    watch = NearCopyWatch(category, sheet)
    fold = {sample.id for sample in category.folds[0]} if category.folds else set()
    sides: dict[Side, list[str]] = {"training": [], "calibration": [], "test": []}
    samples = {sample.id: sample for sample in category.normal}
    for sample in category.train:
        sides["calibration" if sample.id in fold else "training"].append(sample.id)
    sides["calibration"] += [sample.id for sample in category.calibration]
    sides["test"] += [sample.id for sample in category.test if not sample.label]
    for side, ids in sides.items():
        chosen = [samples[id] for id in ids[: MOST[side]]]
        with display.stage("features", f"{category.name}, {side}", len(chosen)) as advance:
            for item in source.stream(chosen, (embedding,), advance, targets=False).embedded() if chosen else ():
                watch.see(side, item)
    return watch.report()
