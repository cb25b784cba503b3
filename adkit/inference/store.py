"""A store of the features of many images on disk, memory-mapped, for runs that read the same images often."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final
from zlib import crc32

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from adkit.data.samples import Sample
from adkit.inference.engines import Embedded, of_first
from adkit.plugin.types import Features, Level
from adkit.utils.progress import Advance

JOURNAL: Final = "journal.jsonl"
"""Name of the file that lists what a store has."""

Levels = Sequence[Mapping[str, Level]]
"""The levels of each embedding."""


def bytes_needed(levels: Levels, images: int) -> int:
    """Compute the number of bytes that float32 features of ``images`` images take on disk."""
    return images * sum(_row_bytes(level) for one in levels for level in one.values())


def fits(folder: Path, levels: Levels, images: int) -> bool:
    """Whether the features take at most a quarter of the disk space that is free at ``folder``."""
    return bytes_needed(levels, images) <= shutil.disk_usage(folder).free // 4


def stored_images(folder: Path) -> int:
    """Count the images that the journal of the store in ``folder`` lists; 0 where there is no store."""
    journal = folder / JOURNAL
    return sum(len(entry.ids) + len(entry.unreadable) for entry, _ in _entries(journal)) if journal.exists() else 0


class _Entry(BaseModel):
    """A line of the journal: one batch that was written."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str]
    """The images of the batch."""
    unreadable: dict[str, str]
    """Images found since the previous batch that cannot be read, and why."""
    checksum: int
    """CRC-32 of the batch's features, level by level."""
    seconds: float
    """Seconds that the batch took."""


@dataclass(frozen=True)
class _LevelFile:
    """The file of one level: float32 rows, one per image."""

    path: Path
    name: str
    level: Level

    @property
    def row_bytes(self) -> int:
        return _row_bytes(self.level)


class FeatureStore:
    """Features on disk, written batch by batch as the embedder makes them, then read by row in any order.

    Each level is a file, and each batch a line in a journal, written after the features. Opening a store again keeps
    the batches up to the first whose line is torn or whose features are not those that the line was written for
    (a machine that lost power may have kept the one and not the other), and filling goes on from there.
    """

    def __init__(self, folder: Path, levels: Levels) -> None:
        """
        Args:
            folder: created if it is not there.
            levels: the levels of each embedding.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.levels = [dict(one) for one in levels]
        self.unreadable: dict[str, str] = {}
        """Images that cannot be read, and why, from the batches that were there when the store was opened."""
        self.seconds = 0.0
        """Seconds that those batches took."""
        self._journal = folder / JOURNAL
        self._groups = [
            [_LevelFile(folder / f"{group}.{index}.float32", *item) for index, item in enumerate(one.items())]
            for group, one in enumerate(levels)
        ]
        self._rows: dict[str, int] = {}
        self._maps: list[dict[str, np.memmap[Any, np.dtype[np.float32]]]] = []
        self._keep_intact()

    @property
    def _files(self) -> list[_LevelFile]:
        return [file for group in self._groups for file in group]

    def _keep_intact(self) -> None:
        for file in self._files:
            file.path.touch()
        self._journal.touch()
        end = 0
        with ExitStack() as stack:
            opened = [(stack.enter_context(file.path.open("rb")), file.row_bytes) for file in self._files]
            for entry, position in _entries(self._journal):
                checksum = 0
                for source, size in opened:
                    checksum = crc32(source.read(len(entry.ids) * size), checksum)
                if checksum != entry.checksum:
                    break
                self._note(entry.ids)
                self.unreadable |= entry.unreadable
                self.seconds += entry.seconds
                end = position
        _truncate(self._journal, end)
        for file in self._files:
            _truncate(file.path, len(self._rows) * file.row_bytes)
        self._map()

    def missing(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Select those of ``samples``, all images of the store in their order, that are still to be added."""
        at = {sample.id: position for position, sample in enumerate(samples)}
        last = max((at[image] for image in self._rows), default=-1)
        return samples[last + 1 :]

    def fill(self, embedded: Iterable[Embedded], unreadable: Mapping[str, str]) -> None:
        """Add every image of ``embedded`` to the store; images that never come stay unknown to it.

        Args:
            unreadable: images that cannot be read, and why, which grows as ``embedded`` is walked.
        """
        # Written as files and mapped afterward: a disk that fills up is then an error and not a bus fault.
        with ExitStack() as stack:
            files = [[stack.enter_context(file.path.open("ab")) for file in group] for group in self._groups]
            journal = stack.enter_context(self._journal.open("ab"))
            noted, started = len(unreadable), time.perf_counter()
            for item in embedded:
                checksum = 0
                for group, features, opened in zip(self._groups, item.features, files, strict=True):
                    for file, out in zip(group, opened, strict=True):
                        checksum = _append(out, features[file.name], checksum)
                entry = _Entry(
                    ids=list(item.ids),
                    unreadable=dict(islice(unreadable.items(), noted, None)),
                    checksum=checksum,
                    seconds=time.perf_counter() - started,
                )
                journal.write(entry.model_dump_json().encode() + b"\n")
                journal.flush()
                noted, started = len(unreadable), time.perf_counter()
                self._note(item.ids)
        self._map()

    def _note(self, ids: Iterable[str]) -> None:
        start = len(self._rows)
        self._rows.update({image: start + offset for offset, image in enumerate(ids)})

    def _map(self) -> None:
        if self._rows:
            self._maps = [
                {
                    file.name: np.memmap(
                        file.path, np.float32, "r", shape=(len(self._rows), *file.level.grid, file.level.channels)
                    )
                    for file in group
                }
                for group in self._groups
            ]

    def __contains__(self, image: str) -> bool:
        return image in self._rows

    def read(self, ids: Sequence[str], embedding: int, device: str) -> Features:
        """Read the features (n, h, w, c) of the images named, in that order, through one embedding."""
        rows = [self._rows[image] for image in ids]
        return Features(
            {name: torch.from_numpy(np.asarray(file[rows])).to(device) for name, file in self._maps[embedding].items()},
            {name: level.geometry for name, level in self.levels[embedding].items()},
        )


def _row_bytes(level: Level) -> int:
    return 4 * level.grid[0] * level.grid[1] * level.channels


def _append(file: BinaryIO, values: torch.Tensor, checksum: int) -> int:
    """Write a level of a batch, and return the checksum of the batch up to and with it."""
    data = values.cpu().contiguous().numpy().data.cast("B")
    file.write(data)
    file.flush()
    return crc32(data, checksum)


def _entries(journal: Path) -> Iterator[tuple[_Entry, int]]:
    """Yield the lines up to the first one that is not whole, each with the position of its end."""
    position = 0
    with journal.open("rb") as file:
        for line in file:
            position += len(line)
            try:
                entry = _Entry.model_validate_json(line)
            except ValidationError:
                return
            if not line.endswith(b"\n"):
                return
            yield entry, position


def _truncate(path: Path, size: int) -> None:
    with path.open("rb+") as file:
        file.truncate(size)


@dataclass(frozen=True)
class Tail:
    """The rest of the way to the features of an embedding, from what a store has of an image."""

    place: int
    """Number of that embedding in the store by which the way begins."""
    levels: Mapping[str, Level]
    """The levels at its end."""
    finish: Callable[[Features, Sequence[str]], Features]
    """Makes the features of what was read, and of the names of its images."""


class StoredStream:
    """A stream of features by what is stored of some of the images.

    As an ``adkit.plugin.Stream`` it gives the features at the end of the first of its tails.
    """

    def __init__(
        self,
        store: FeatureStore,
        samples: Sequence[Sample],
        tails: Sequence[Tail],
        batch_size: int,
        device: str,
        advance: Advance,
    ) -> None:
        self._store = store
        self._samples = [sample for sample in samples if sample.id in store]
        self._tails = tails
        self._batch_size = batch_size
        self._device = device
        self._advance = advance

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._tails[0].levels

    @property
    def count(self) -> int:
        return len(self._samples)

    def embedded(self) -> Iterator[Embedded]:
        for start in range(0, len(self._samples), self._batch_size):
            samples = self._samples[start : start + self._batch_size]
            yield self._read(samples)
            self._advance(len(samples))

    def _read(self, samples: Sequence[Sample]) -> Embedded:
        ids = tuple(sample.id for sample in samples)
        places = dict.fromkeys(tail.place for tail in self._tails)
        read = {place: self._store.read(ids, place, self._device) for place in places}
        features = tuple(tail.finish(read[tail.place], ids) for tail in self._tails)
        return Embedded(features, ids)

    def __iter__(self) -> Iterator[Features]:
        return of_first(self.embedded())
