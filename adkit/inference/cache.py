"""What extractors give for a stream of images, kept between runs batch by batch as they gave it.

An entry is a zip file, whose members have a checksum each: a safetensors file a batch, and an index. It is found by a
digest of all that it depends on, the contents of the images among them, so that it is never another one's. What is read
equals what was computed bit by bit, because a stream has the same batches whenever its images are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from adkit.data.files import images_under
from adkit.data.images import in_threads
from adkit.data.samples import ArrayItem, Sample
from adkit.inference.engines import Embedded
from adkit.inference.identity import code_of, processor, source_of, weights_of
from adkit.inference.kept import (
    FEATURES,
    INDEX,
    LIMIT_VARIABLE,
    cache_limit,
    dropped,
    folder_of,
    free_bytes,
    opened,
    shrink,
)
from adkit.inference.pipeline import Embedding
from adkit.inference.store import bytes_needed
from adkit.plugin.types import Features
from adkit.recipe.reader import Recipe, resolved
from adkit.utils.atomic import draft_of
from adkit.utils.environment import versions
from adkit.utils.progress import Advance

logger = logging.getLogger("adkit")
Make = Callable[[], Iterator[Embedded]]


class FeatureCache:
    """The features of one run's extractors, as far as earlier runs have left them."""

    def __init__(self, recipe: Recipe, embeddings: Sequence[Embedding]) -> None:
        """
        Args:
            embeddings: those of the recipe's extractors, as they are before any training.
        """
        self._embeddings = list(embeddings)
        self._folder = folder_of(FEATURES)
        self._limit = cache_limit()
        self._told = False
        context = embeddings[0].context
        tables, components = resolved(recipe), [choice.registered for choice in recipe.extractors]
        self._about = {
            "versions": versions() | {one.origin.distribution: one.origin.version for one in components},
            "code": {"adkit": source_of("adkit"), **dict(item for one in components for item in code_of(one))},
            "machine": [processor(context.device), torch.get_num_threads()],
            "context": [context.device, context.precision, *context.image_size],
            "extractor": tables["extractor"],
            "weights": [weights_of(one.extractor) for one in embeddings],
            "runtimes": [str(one.runtime) for one in embeddings],
        }

    def kept(
        self,
        about: Mapping[str, Any],
        samples: Sequence[Sample],
        embeddings: Sequence[Embedding],
        count: int,
        make: Make,
        advance: Advance,
    ) -> Iterator[Embedded]:
        """Yield what extractors give by ``make``, or gave in an earlier run.

        Args:
            about: what the features depend on besides the images and their extractors.
            samples: the images, whose files are read once to know them.
            count: how many rows ``make`` gives if every image can be read; what has fewer is not kept.
            advance: called with the size of every batch that is read; ``make`` calls its own.
        """
        places = [self._embeddings.index(one) for one in embeddings if one in self._embeddings]
        levels = [one.extractor.levels for one in embeddings]
        size = bytes_needed(levels, count)
        key = None
        if len(places) == len(embeddings) and count and size <= self._limit / 2:
            key = self._key(about, samples, places)
        if key is None:
            yield from make()
            return
        path = self._folder / f"{key}.zip"
        if (found := opened(path)) is None:
            if size <= (free := free_bytes(self._folder)) / 4:
                yield from self._keep(path, count, make(), lambda: self._key(about, samples, places) == key)
            else:
                room = f"at most a quarter of the {free / 1e9:.2g} GB free there"
                self._complain(f"they take {size / 1e9:.2g} GB and may take {room}")
                yield from make()
            return
        logger.info("features of %d images are those of an earlier run: %s", count, path)
        with found:
            for entry in json.loads(found.read(INDEX)):
                advance(len(entry["ids"]))
                yield _embedded(entry, found.read(entry["file"]), embeddings)

    def _key(self, about: Mapping[str, Any], samples: Sequence[Sample], places: Sequence[int]) -> str | None:
        """The digest of all that a stream's features depend on; None where an image cannot be read."""
        try:
            contents = in_threads(_content, samples)
        except OSError:
            return None  # who reads it says why
        rows = [
            (one.id, one.label, one.kind, one.group, *digests) for one, digests in zip(samples, contents, strict=True)
        ]
        text = json.dumps([self._about, dict(about), places, rows], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _keep(self, path: Path, count: int, made: Iterator[Embedded], same: Callable[[], bool]) -> Iterator[Embedded]:
        """Pass ``made`` on and keep it, unless at its end the images are not the ``same`` any more."""
        draft = draft_of(path)
        written: zipfile.ZipFile | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = zipfile.ZipFile(draft, "w")
        except OSError as error:
            self._complain(_reason(error))
        index: list[dict[str, Any]] = []

        def kept(item: Embedded) -> Embedded:
            nonlocal written
            if written is not None and not self._write(written, index, item):
                dropped(written, draft)
                written = None
            return item

        try:
            yield from map(kept, made)  # which, unlike a loop, holds no item
            if written is not None and sum(len(entry["ids"]) for entry in index) == count and same():
                try:
                    written.writestr(INDEX, json.dumps(index))
                    written.close()
                    draft.replace(path)
                    shrink(path)
                except OSError as error:
                    self._complain(_reason(error))
        finally:
            if written is not None:
                dropped(written, draft)

    def _write(self, to: zipfile.ZipFile, index: list[dict[str, Any]], item: Embedded) -> bool:
        """Add a batch; False where that is not possible."""
        tensors = {f"{at}.{name}": level for at, one in enumerate(item.features) for name, level in one.items()}
        if not all(tensor.is_contiguous() for tensor in tensors.values()):
            return False  # what is read is contiguous, of which sums may differ in their last bits
        fields = {"labels": item.labels, "masks": item.masks, "regions": item.regions}
        tensors |= {name: tensor.contiguous() for name, tensor in fields.items() if tensor is not None}
        name = f"{len(index):06}.safetensors"
        try:
            to.writestr(name, safetensors.torch.save({key: tensor.cpu() for key, tensor in tensors.items()}))
        except OSError as error:
            self._complain(_reason(error))
            return False
        groups = None if item.groups is None else list(item.groups)
        index.append({"file": name, "ids": list(item.ids), "groups": groups})
        return True

    def _complain(self, reason: str) -> None:
        """Say once that features are not kept."""
        if self._told:
            return
        self._told = True
        logger.warning(
            "%s: features could not be kept there (%s) and will be computed again: set ADKIT_CACHE to a folder that "
            "has room and can be written, or %s=0",
            self._folder,
            reason,
            LIMIT_VARIABLE,
        )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _embedded(entry: Mapping[str, Any], written: bytes, embeddings: Sequence[Embedding]) -> Embedded:
    tensors = safetensors.torch.load(written)
    features = tuple(
        Features(
            {name: tensors[f"{at}.{name}"].to(one.context.device) for name in one.extractor.levels},
            {name: level.geometry for name, level in one.extractor.levels.items()},
        )
        for at, one in enumerate(embeddings)
    )
    groups = None if entry["groups"] is None else tuple(entry["groups"])
    labels, masks, regions = (tensors.get(name) for name in ("labels", "masks", "regions"))
    return Embedded(features, tuple(entry["ids"]), groups, labels, masks, regions)


def _content(sample: Sample) -> tuple[str, str]:
    """Digests of an image and of its mask."""
    if isinstance(sample.source, ArrayItem):
        pixels = sample.source.pixels
        image = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes()).hexdigest()
    else:
        image = _file(sample.source)
    if sample.mask is None:
        return image, ""
    files = images_under(sample.mask) if sample.mask.is_dir() else [sample.mask]
    return image, ",".join(_file(file) for file in files)


def _file(path: Path) -> str:
    found = path.stat()
    return _digest(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@cache
def _digest(path: Path, state: tuple[int, ...]) -> str:
    """A file's digest, computed once for the streams of a process that have it in one ``state``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
