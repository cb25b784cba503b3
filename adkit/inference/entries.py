"""Kept features as files: a zip file of a safetensors file an image and an index, which says what images they are."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from adkit.data.loader import groups_of
from adkit.data.samples import Sample
from adkit.inference.engines import Embedded
from adkit.inference.kept import INDEX, index_of, opened
from adkit.inference.pipeline import Embedding
from adkit.plugin.types import Features

Key = str
"""A digest of an image's contents, and of those of its mask where its features come with it."""
Row = Mapping[str, Tensor]
"""What is kept of one image: each level of each extractor, as ``0.layer1``, and its ``mask`` and ``region`` if any."""


@dataclass(frozen=True)
class Masks:
    """How the masks of a list of images are made."""

    size: int | None
    """Their side in pixels; None where none of the images has a mask."""
    resize: str
    threshold: float | None
    """What ``[data] mask_resize`` and ``mask_threshold`` say."""


class Entry:
    """Kept features that are open to be read."""

    def __init__(self, file: zipfile.ZipFile, embeddings: Sequence[Embedding]) -> None:
        """
        Args:
            file: an entry whose every part is intact.
            embeddings: those whose extractors gave the features.
        """
        self._file = file
        self._embeddings = embeddings
        self._index: list[dict[str, Any]] = json.loads(file.read(INDEX))

    @staticmethod
    def open(path: Path, embeddings: Sequence[Embedding]) -> Entry | None:
        """Open what was kept as ``path``; None where there is nothing to read."""
        found = opened(path)
        return None if found is None else Entry(found, embeddings)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __len__(self) -> int:
        return sum(len(batch["ids"]) for batch in self._index)

    @property
    def numbers(self) -> dict[Key, int]:
        """Key → the number of the row of such an image."""
        return dict(reversed(_keyed(self._index)))

    def row(self, number: int) -> Row:
        """Read what was kept of one image."""
        found: Row = safetensors.torch.load(self._file.read(_member(number)))
        return found

    def batches(self) -> Iterator[Embedded]:
        """Yield the batches as they were given."""
        return map(self._batch, self._index)  # which, unlike a loop, holds no batch

    def _batch(self, about: Mapping[str, Any]) -> Embedded:
        rows = [self.row(about["first"] + at) for at in range(len(about["ids"]))]
        groups = None if about["groups"] is None else tuple(about["groups"])
        labels = None if about["labels"] is None else torch.tensor(about["labels"])
        features = _features(rows, self._embeddings)
        return Embedded(features, tuple(about["ids"]), groups, labels, _stacked(rows, "mask"), _stacked(rows, "region"))


def keys_in(path: Path) -> set[Key]:
    """The keys of the images that an entry has, which is not looked at further; none where it has no index."""
    return {key for key, _ in _keyed(index_of(path) or [])}


def _keyed(index: Sequence[Mapping[str, Any]]) -> list[tuple[Key, int]]:
    return [(key, one["first"] + at) for one in index for at, key in enumerate(one["keys"]) if key]


def _member(number: int) -> str:
    return f"{number:08}.safetensors"


class Writer:
    """Writes an entry batch by batch."""

    def __init__(self, draft: Path, keys: Mapping[str, Key | None]) -> None:
        """
        Args:
            keys: id → key of the images that later streams may look for one by one.

        Raises:
            OSError: the file cannot be made.
        """
        self.file = zipfile.ZipFile(draft, "w")
        self._keys = keys
        self._index: list[dict[str, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: Embedded) -> bool:
        """Write a batch; False where that is not possible.

        Raises:
            OSError: the disk is full, or the like.
        """
        if not all(level.is_contiguous() for features in item.features for level in features.values()):
            return False  # what is read is contiguous, of which sums may differ in their last bits
        about = {
            "first": self._count,
            "ids": list(item.ids),
            "groups": None if item.groups is None else list(item.groups),
            "labels": None if item.labels is None else item.labels.tolist(),
            "keys": [self._keys.get(id) for id in item.ids],
        }
        for row in rows_of(item):
            tensors = {name: tensor.cpu().contiguous() for name, tensor in row.items()}
            self.file.writestr(_member(self._count), safetensors.torch.save(tensors))
            self._count += 1
        self._index.append(about)
        return True

    def finish(self) -> None:
        """Write the index, without which the file is no entry.

        Raises:
            OSError: the disk is full, or the like.
        """
        self.file.writestr(INDEX, json.dumps(self._index))
        self.file.close()


def rows_of(item: Embedded) -> Iterator[Row]:
    """Each image of a batch."""
    tensors = {f"{number}.{name}": level for number, one in enumerate(item.features) for name, level in one.items()}
    tensors |= {name: one for name, one in (("mask", item.masks), ("region", item.regions)) if one is not None}
    return ({name: tensor[at] for name, tensor in tensors.items()} for at in range(len(item)))


def gathered(
    samples: Sequence[Sample], rows: Sequence[Row], embeddings: Sequence[Embedding], masks: Masks | None
) -> Embedded:
    """One batch of single images, as the loader and the extractors would have made it of these.

    Args:
        masks: how masks are made; None: neither labels nor masks are asked for.
    """
    found = None
    if masks is not None and masks.size is not None:
        empty = torch.zeros(masks.size, masks.size, dtype=torch.bool)
        found = torch.stack([row["mask"] if masked(one) else empty for one, row in zip(samples, rows, strict=True)])
    return Embedded(
        _features(rows, embeddings),
        tuple(sample.id for sample in samples),
        groups_of(samples),
        None if masks is None else torch.tensor([sample.label for sample in samples]),
        found,
        _stacked(rows, "region"),
    )


def masked(sample: Sample) -> bool:
    """Whether a sample's mask is read where masks are asked for: those of normal images are all zeros."""
    return bool(sample.label) and sample.mask is not None


def _features(rows: Sequence[Row], embeddings: Sequence[Embedding]) -> tuple[Features, ...]:
    def stacked(number: int, one: Embedding, name: str) -> Tensor:
        return torch.stack([row[f"{number}.{name}"].to(one.context.device) for row in rows])

    return tuple(
        Features(
            {name: stacked(number, one, name) for name in one.extractor.levels},
            {name: level.geometry for name, level in one.extractor.levels.items()},
        )
        for number, one in enumerate(embeddings)
    )


def _stacked(rows: Sequence[Row], name: str) -> Tensor | None:
    return torch.stack([row[name] for row in rows]) if name in rows[0] else None
