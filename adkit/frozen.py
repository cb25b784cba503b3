"""The frozen part of a training runs once: what the blocks that are not trained make of each picture, on disk."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adkit.blame import blaming
from adkit.context import Context
from adkit.contracts import Batch, Extractor, Features, SplittableExtractor
from adkit.device import autocast
from adkit.progress import Advance
from adkit.training_contracts import Adapter, BatchingAdapter, FeaturesAdapter

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Cut:
    """An extractor in two: ``tail(trunk(images))`` are its features, and training changes the tail alone."""

    trunk: nn.Module
    tail: Callable[[Tensor], Features]
    context: Context

    def frozen(self, images: Tensor) -> Tensor:
        """What the trunk makes of images, float32 on the context's device."""
        with torch.no_grad(), autocast(self.context):
            found: Tensor = self.trunk(images.to(self.context.device, non_blocking=True))
            return found.float()


def cut_for(
    extractor: Extractor, adapter: Adapter, parameters: Sequence[nn.Parameter], context: Context, who: str
) -> Cut | None:
    """Where the extractor can be cut below all of ``parameters``; None where it, or the adapter, needs the whole.

    Args:
        who: names the extractor in the message when it breaks its contract.
    """
    if isinstance(adapter, BatchingAdapter) or not isinstance(adapter, FeaturesAdapter):
        return None
    if not isinstance(extractor, SplittableExtractor):
        return None
    with blaming(who):
        parts = extractor.split(parameters)
    return None if parts is None else Cut(*parts, context)


class FrozenStore:
    """Activations of the trunk in a file, a picture a row; read back in any order as the images of batches."""

    def __init__(self, path: Path, batches: Iterable[Batch], count: int, cut: Cut, advance: Advance) -> None:
        """
        Args:
            path: of the file, which is written anew.
            batches: every picture once; a picture's number is its place in them.
            count: how many there are.
            advance: told of every batch that is done.

        Raises:
            OSError: the disk is full.
            NoRoomError: the file would take more than a quarter of what is free.
        """
        self._ids: list[str] = []
        shape: tuple[int, ...] = ()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written as a file and mapped afterwards: a disk that fills up is then an error and not a bus fault.
        with path.open("wb") as file:
            for batch in batches:
                rows = cut.frozen(batch.images).cpu()
                if not shape:
                    shape = tuple(rows.shape[1:])
                    _require_room(path, 4 * count * math.prod(shape))
                file.write(rows.contiguous().numpy().tobytes())
                self._ids += batch.ids
                advance(len(batch))
        self._rows: np.memmap[Any, np.dtype[np.float32]] | None = None
        if self._ids:
            self._rows = np.memmap(path, np.float32, "r", shape=(len(self._ids), *shape))

    def __len__(self) -> int:
        return len(self._ids)

    def load(self, numbers: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """The pictures of these numbers, in batches."""
        for first in range(0, len(numbers), batch_size):
            assert self._rows is not None  # there are no numbers of no pictures
            chosen = list(numbers[first : first + batch_size])
            yield Batch(torch.from_numpy(self._rows[chosen]), tuple(self._ids[number] for number in chosen))


class NoRoomError(Exception):
    """The activations would take too much of the disk."""


def _require_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free // 4:
        raise NoRoomError(f"{needed / 1e9:.1f} GB, more than a quarter of the {free / 1e9:.1f} GB that are free")
