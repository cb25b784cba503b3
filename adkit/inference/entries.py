"""Kept features as files: a zip file of a safetensors file an image and an index, which says what images they are."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adkit.data.samples import Sample
from adkit.errors import UserError
from adkit.inference.engines import Embedded
from adkit.inference.kept import BROKEN, INDEX, index_of, opened, put
from adkit.inference.pipeline import Embedding
from adkit.plugin.types import Features

Key = str
"""A digest of an image's contents, and of those of its mask where its features come with it."""
Row = Mapping[str, Tensor]
"""What is kept of one image: each level of each extractor, as ``0.layer1``, its ``region`` if batches have regions, and
its ``mask`` if there is an anomalous pixel."""


@dataclass(frozen=True)
class Masks:
    """How the masks of a list of images are made."""

    size: int
    """Their side in pixels."""
    resize: str
    threshold: float | None
    """What ``[data] mask_resize`` and ``mask_threshold`` say."""


class Entry:
    """Kept features that are open to be read."""

    def __init__(self, file: zipfile.ZipFile, index: Mapping[str, Any], embeddings: Sequence[Embedding]) -> None:
        """
        Args:
            file: an entry whose every part is intact.
            index: what its index says.
            embeddings: those whose extractors gave the features.
        """
        self._file = file
        self._index = index
        self._embeddings = embeddings

    @staticmethod
    def open(path: Path, embeddings: Sequence[Embedding]) -> Entry | None:
        """Open what was kept as ``path``; None where there is nothing to read."""
        found = opened(path)
        return None if found is None else Entry(*found, embeddings)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __len__(self) -> int:
        """The number of images."""
        return len(self._index["keys"])

    @property
    def numbers(self) -> dict[Key, int]:
        """Key → the number of the row of such an image."""
        return {key: number for number, key in enumerate(self._index["keys"]) if key}

    def row(self, number: int) -> Row:
        """Read what was kept of one image.

        Raises:
            UserError: the file was whole when it was opened, and is not any more.
        """
        try:
            found: Row = safetensors.torch.load(self._file.read(_member(number)))
        except (*BROKEN, SafetensorError) as error:
            raise UserError(
                f"{self._file.filename}: expected kept features that stay as they are, found that they cannot be read "
                f"any more ({error}): run it again; ADKIT_CACHE names another folder for them"
            ) from error
        return found

    def batches(self, masks: Masks | None) -> Iterator[Embedded]:
        """Yield the batches as they were given; ``masks`` as ``gathered`` takes them."""
        batches: list[list[str]] = self._index["ids"]
        firsts = accumulate(map(len, batches), initial=0)

        def batch(first: int, ids: list[str]) -> Embedded:
            return gathered(ids, [self.row(first + at) for at in range(len(ids))], self._embeddings, masks)

        return map(batch, firsts, batches)  # which, unlike a loop, holds no batch


def keys_in(path: Path) -> set[Key]:
    """The keys of the images that an entry has, which is not looked at further; none where it has no index."""
    index = index_of(path)
    return set() if index is None else {key for key in index["keys"] if key}


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
        self._given = keys
        self._ids: list[tuple[str, ...]] = []
        self._keys: list[Key | None] = []

    def __len__(self) -> int:
        """The number of images so far."""
        return len(self._keys)

    def add(self, item: Embedded) -> bool:
        """Write a batch; False where that is not possible.

        Raises:
            OSError: the disk is full, or the like.
        """
        if not all(level.is_contiguous() for features in item.features for level in features.values()):
            return False  # what is read is contiguous, of which sums may differ in their last bits
        for id, row in zip(item.ids, rows_of(item), strict=True):
            tensors = {name: tensor.cpu().contiguous() for name, tensor in row.items()}
            put(self.file, _member(len(self)), safetensors.torch.save(tensors))
            self._keys.append(self._given.get(id))
        self._ids.append(item.ids)
        return True

    def finish(self) -> None:
        """Write the index, without which the file is no entry.

        Raises:
            OSError: the disk is full, or the like.
        """
        put(self.file, INDEX, json.dumps({"ids": self._ids, "keys": self._keys}))
        self.file.close()


def rows_of(item: Embedded) -> Iterator[Row]:
    """Each image of a batch."""
    levels = {f"{number}.{name}": level for number, one in enumerate(item.features) for name, level in one.items()}
    regions = {} if item.regions is None else {"region": item.regions}
    for at in range(len(item)):
        row = {name: tensor[at] for name, tensor in (levels | regions).items()}
        if item.masks is not None and item.masks[at].any():
            row["mask"] = item.masks[at]
        yield row


def gathered(ids: Sequence[str], rows: Sequence[Row], embeddings: Sequence[Embedding], masks: Masks | None) -> Embedded:
    """One batch of single images, as the loader and the extractors would have made it of these.

    Args:
        masks: how masks are made; None: none are asked for.
    """
    found = None
    if masks is not None:
        empty = torch.zeros(masks.size, masks.size, dtype=torch.bool)
        found = torch.stack([row.get("mask", empty) for row in rows])
    regions = torch.stack([row["region"] for row in rows]) if "region" in rows[0] else None
    return Embedded(_features(rows, embeddings), tuple(ids), found, regions)


def masked(sample: Sample) -> bool:
    """Whether a sample's mask is read where masks are asked for: those of normal images are all zeros."""
    return bool(sample.label) and sample.mask is not None


def _features(rows: Sequence[Row], embeddings: Sequence[Embedding]) -> tuple[Features, ...]:
    def stacked(number: int, one: Embedding, name: str) -> Tensor:
        return torch.stack([row[f"{number}.{name}"] for row in rows]).to(one.context.device)

    return tuple(
        Features(
            {name: stacked(number, one, name) for name in one.extractor.levels},
            {name: level.geometry for name, level in one.extractor.levels.items()},
        )
        for number, one in enumerate(embeddings)
    )
