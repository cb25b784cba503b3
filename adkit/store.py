"""Features of many pictures on disk, one memory-mapped file a level, for runs that read the same pictures often."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adkit.contracts import Features, Level
from adkit.data.samples import Sample
from adkit.engines import Embedded
from adkit.progress import Advance


def bytes_needed(levels: Mapping[str, Level], pictures: int) -> int:
    """Bytes on disk for float32 features of so many pictures."""
    return sum(4 * pictures * level.grid[0] * level.grid[1] * level.channels for level in levels.values())


def fits(folder: Path, levels: Mapping[str, Level], pictures: int) -> bool:
    """Whether the features take at most a quarter of the disk space that is free at ``folder``."""
    return bytes_needed(levels, pictures) <= shutil.disk_usage(folder).free // 4


class FeatureStore:
    """Filled once from the embedder, then read by row in any order."""

    def __init__(self, folder: Path, levels: Mapping[str, Level]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.levels = dict(levels)
        self._paths = {name: folder / f"{index}.float32" for index, name in enumerate(levels)}
        self._rows: dict[str, int] = {}
        self._files: dict[str, np.memmap[Any, np.dtype[np.float32]]] = {}

    def fill(self, embedded: Iterable[Embedded]) -> None:
        """Write every picture of ``embedded``; those that never come (unreadable ones) stay unknown."""
        # Written as files and mapped afterwards: a disk that fills up is then an error and not a bus fault.
        with ExitStack() as stack:
            files = {name: stack.enter_context(path.open("wb")) for name, path in self._paths.items()}
            for item in embedded:
                for name, file in files.items():
                    file.write(item.features[name].cpu().contiguous().numpy().data)
                start = len(self._rows)
                self._rows.update({picture: start + offset for offset, picture in enumerate(item.ids)})
        if self._rows:
            self._files = {
                name: np.memmap(path, np.float32, "r", shape=(len(self._rows), *level.grid, level.channels))
                for (name, level), path in zip(self.levels.items(), self._paths.values(), strict=True)
            }

    def __contains__(self, picture: str) -> bool:
        return picture in self._rows

    def read(self, ids: Sequence[str], device: str) -> Features:
        """Features of the pictures named, in that order."""
        rows = [self._rows[picture] for picture in ids]
        return Features(
            {name: torch.from_numpy(np.asarray(file[rows])).to(device) for name, file in self._files.items()},
            {name: level.geometry for name, level in self.levels.items()},
        )


class StoredStream:
    """The stored features of some of the pictures: implements ``adkit.Stream``."""

    def __init__(
        self, store: FeatureStore, samples: Sequence[Sample], batch_size: int, device: str, advance: Advance
    ) -> None:
        self._store = store
        self._samples = [sample for sample in samples if sample.id in store]
        self._batch_size = batch_size
        self._device = device
        self._advance = advance

    @property
    def levels(self) -> Mapping[str, Level]:
        return self._store.levels

    @property
    def pictures(self) -> int:
        return len(self._samples)

    def embedded(self) -> Iterator[Embedded]:
        for start in range(0, len(self._samples), self._batch_size):
            samples = self._samples[start : start + self._batch_size]
            ids = tuple(sample.id for sample in samples)
            labels = torch.tensor([sample.label for sample in samples])
            yield Embedded(self._store.read(ids, self._device), ids, labels)
            self._advance(len(ids))

    def __iter__(self) -> Iterator[Features]:
        for item in self.embedded():
            yield item.features
