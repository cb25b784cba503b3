"""What extractors give for images, kept between runs and between the folds of one.

Features are kept by stream, and found by a digest of all that they depend on, the contents of the images among them, so
that they are never another one's. What is read equals what would be computed bit by bit: a stream has the same batches
whenever its images are the same, and single images are taken out of other streams only by runtimes that give an image
the same features in whichever batch it comes, which a probe makes sure of.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from adkit.data.files import images_under
from adkit.data.images import in_threads
from adkit.data.samples import ArrayItem, Sample
from adkit.inference.engines import Embedded
from adkit.inference.entries import Entry, Key, Masks, Row, Writer, gathered, keys_in, masked, rows_of
from adkit.inference.identity import code_of, processor, source_of, weights_of
from adkit.inference.kept import (
    FEATURES,
    LIMIT_VARIABLE,
    cache_limit,
    dropped,
    files_of,
    folder_of,
    free_bytes,
    shrink,
    state_of,
)
from adkit.inference.pipeline import Embedding, extract
from adkit.inference.store import bytes_needed
from adkit.plugin.types import Features
from adkit.recipe.reader import Recipe, resolved
from adkit.toolkit.cache import cached
from adkit.utils.atomic import draft_of
from adkit.utils.environment import versions
from adkit.utils.progress import Advance

logger = logging.getLogger("adkit")
STEADY: Final = ("openvino", "onnx")
"""The runtimes by which, on a CPU, an image's features were the same bits in all batches, of all networks looked at.

By torch they are others now and then, for it computes the last few of many numbers by other means, and no probe finds
each case.
"""
ENTRIES: Final = 16
"""The largest number of entries that one stream reads, of which each is an open file."""
_NONE: Final = ("", None)
Make = Callable[[Sequence[Sample]], Iterator[Embedded]]
"""Makes the features of images, of those that can be read, in their order."""
_Known = Callable[[], Row]
"""Reads what was kept of an image."""


@dataclass(frozen=True)
class Asked:
    """The images whose features are asked for, and what those depend on besides."""

    samples: Sequence[Sample]
    view: str
    """How an image becomes the input of an extractor."""
    batch_size: int
    count: int
    """How many features there are if every image can be read."""
    masks: Masks | None = None
    """How the masks are made that come with features; None: without any."""
    drawn: str = ""
    """What is drawn on the images first, where it is; what on one of them may then depend on which the others are."""


class FeatureCache:
    """The features of one run's extractors, as far as earlier runs and streams have left them."""

    def __init__(self, recipe: Recipe, embeddings: Sequence[Embedding]) -> None:
        """
        Args:
            embeddings: those of the recipe's extractors, as they are before any training.
        """
        self._embeddings = list(embeddings)
        self._folder = folder_of(FEATURES)
        self._limit = cache_limit()
        self._told = False
        self._probed: dict[str, bool] = {}
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

    def kept(self, asked: Asked, embeddings: Sequence[Embedding], make: Make, advance: Advance) -> Iterator[Embedded]:
        """Yield what extractors give by ``make``, or gave earlier; every file is read once to know the images.

        Args:
            advance: called with the number of images of every batch that is read; ``make`` calls its own.
        """
        size = bytes_needed([one.extractor.levels for one in embeddings], asked.count)
        if not asked.count or size > self._limit / 2 or not all(one in self._embeddings for one in embeddings):
            yield from make(asked.samples)
            return
        places = [self._embeddings.index(one) for one in embeddings]
        context = _short([self._about, places, asked.view, asked.batch_size])
        with _Lookup(asked, embeddings, context, self._folder) as lookup:
            if (entry := lookup.whole()) is not None:
                logger.info("features of %d images were kept", asked.count)
                yield from map(partial(_advanced, advance), entry.batches(asked.masks))
            elif known := self._known(lookup):
                logger.info("features of %d of %d images were kept", len(known), asked.count)
                yield from self._mixed(lookup, known, make, advance)
            else:
                yield from self._keep(lookup, asked.samples, make)

    def _known(self, lookup: _Lookup) -> dict[str, _Known]:
        """Id → how to read the features of that image, of those that other streams have left; none of which if few."""
        if not lookup.shares:
            return {}
        offers = lookup.offers()
        # Of fewer there is less to gain than the probe takes: copies of an image, say.
        few = sum(map(len, offers.values())) < lookup.asked.count / 2
        return {} if few or not self._alike(lookup) else lookup.known(offers)

    def _mixed(self, lookup: _Lookup, known: Mapping[str, _Known], make: Make, advance: Advance) -> Iterator[Embedded]:
        """The batches of a stream of which some images are ``known``, by id, and the others are made."""
        asked = lookup.asked
        others = [sample for sample in asked.samples if sample.id not in known]
        with closing(self._keep(lookup, others, make)) as made:
            rows = _in_order(asked.samples, known, made)

            def batch() -> Embedded | None:
                if not (chosen := list(islice(rows, asked.batch_size))):
                    return None
                ids, found = zip(*chosen, strict=True)
                advance(sum(id in known for id in ids))
                return gathered(ids, found, lookup.embeddings, asked.masks)

            yield from iter(batch, None)  # which, unlike a loop, holds no batch

    def _alike(self, lookup: _Lookup) -> bool:
        """Whether extractors give an image the same bits in whichever batch, as a probe tells, whose answer is kept."""

        def probed() -> Mapping[str, Tensor]:
            return {"alike": torch.tensor(_same_in_batches(lookup.embeddings, lookup.asked.batch_size))}

        if lookup.context not in self._probed:
            key = hashlib.sha256(lookup.context.encode()).hexdigest()
            self._probed[lookup.context] = bool(cached("probes", key, probed)["alike"])
        return self._probed[lookup.context]

    def _keep(self, lookup: _Lookup, samples: Sequence[Sample], make: Make) -> Generator[Embedded]:
        """Make the features of ``samples``, and keep them unless the images are not the same any more at the end."""
        asked, path, keys = lookup.asked, lookup.path(samples), lookup.keys_of(samples)
        count = asked.count if asked.drawn else len(samples)
        size = bytes_needed([one.extractor.levels for one in lookup.embeddings], count)
        if not samples or (asked.drawn and not lookup.all_read):
            yield from make(samples)
            return
        if size > (free := free_bytes(self._folder)) / 4:
            room = f"at most a quarter of the {free / 1e9:.2g} GB free there"
            self._complain(f"they take {size / 1e9:.2g} GB and may take {room}")
            yield from make(samples)
            return
        draft = draft_of(path)
        writer: Writer | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = Writer(draft, {} if asked.drawn else keys)
        except OSError as error:
            self._complain(_reason(error))

        def written(item: Embedded) -> Embedded:
            nonlocal writer
            if writer is not None and not self._write(writer, item):
                dropped(writer.file, draft)
                writer = None
            return item

        try:
            yield from map(written, make(samples))  # which, unlike a loop, holds no item
            least = 1 if lookup.shares else count  # else what lacks an image is never read
            if writer is not None and len(writer) >= least and keys_of(samples, asked.masks) == keys:
                try:
                    writer.finish()
                    draft.replace(path)
                    shrink(path)
                except OSError as error:
                    self._complain(_reason(error))
        finally:
            if writer is not None:
                dropped(writer.file, draft)

    def _write(self, to: Writer, item: Embedded) -> bool:
        """Add a batch; False where that is not possible."""
        try:
            return to.add(item)
        except OSError as error:
            self._complain(_reason(error))
            return False

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


class _Lookup:
    """What a stream asks for, what its images are known by, and the entries that are open for it."""

    def __init__(self, asked: Asked, embeddings: Sequence[Embedding], context: str, folder: Path) -> None:
        """
        Args:
            context: a digest of all that features depend on besides the images, by which the names of entries begin.
        """
        self.asked = asked
        self.embeddings = embeddings
        self.context = context
        self._folder = folder
        self._keys = keys_of(asked.samples, asked.masks)
        self._opened: list[Entry] = []

    def __enter__(self) -> _Lookup:
        return self

    def __exit__(self, *problem: object) -> None:
        for entry in self._opened:
            entry.close()

    @property
    def all_read(self) -> bool:
        """Whether every file could be read, so that what it has is known."""
        return None not in self._keys.values()

    def keys_of(self, samples: Sequence[Sample]) -> dict[str, Key | None]:
        """Id → key of some of the images."""
        return {sample.id: self._keys[sample.id] for sample in samples}

    def path(self, samples: Sequence[Sample]) -> Path:
        """The file of the features of some of the images."""
        rows = [(sample.id, self._keys[sample.id]) for sample in samples]
        return self._folder / f"{self.context}{_short([self.asked.drawn, rows])}.zip"

    @property
    def shares(self) -> bool:
        """Whether images may be taken out of other streams one by one, as far as can be told without a probe."""
        on_cpu = torch.device(self.embeddings[0].context.device).type == "cpu"
        return on_cpu and not self.asked.drawn and all(one.runtime.name in STEADY for one in self.embeddings)

    def whole(self) -> Entry | None:
        """Open the entry of the very same images; None where there is none, or one of its images could not be read."""
        entry = self._open(self.path(self.asked.samples)) if self.all_read else None
        return entry if entry is not None and len(entry) == self.asked.count else None

    def offers(self) -> dict[Path, list[str]]:
        """Entries of the same context that have most of the images, and the ids of those that each is to give.

        The more small entries there are, the more images are left to be made again, and kept in one.
        """
        wanted = {key for key in self._keys.values() if key}
        found = {path: wanted & keys_in(path) for path in files_of(self._folder, self.context)}
        offers: dict[Path, list[str]] = {}
        for path in sorted(found, key=lambda path: (-len(found[path]), path)):
            given = found[path] & wanted
            if given and len(offers) < ENTRIES:
                offers[path] = [id for id, key in self._keys.items() if key in given]
                wanted -= given
        return offers

    def known(self, offers: Mapping[Path, Sequence[str]]) -> dict[str, _Known]:
        """Id → how to read the features of that image, of those that are offered."""
        found: dict[str, _Known] = {}
        for path, ids in offers.items():
            if (entry := self._open(path)) is not None:
                numbers = entry.numbers
                # Another process may have put a smaller one in its place since its index was read.
                keys = {id: key for id in ids if (key := self._keys[id]) in numbers}
                found |= {id: partial(entry.row, numbers[key]) for id, key in keys.items()}
        return found

    def _open(self, path: Path) -> Entry | None:
        entry = Entry.open(path, self.embeddings)
        if entry is not None:
            self._opened.append(entry)
        return entry


def keys_of(samples: Sequence[Sample], masks: Masks | None) -> dict[str, Key | None]:
    """Id → key of each of ``samples``; None where a file cannot be read, of which who reads it says why."""
    found = in_threads(partial(_key, masks=masks), samples)
    return {sample.id: key for sample, key in zip(samples, found, strict=True)}


def _key(sample: Sample, masks: Masks | None) -> Key | None:
    try:
        if masks is None or not masked(sample):
            return _content(sample)
        assert sample.mask is not None
        files = images_under(sample.mask) if sample.mask.is_dir() else [sample.mask]
        return _short([_content(sample), [_file(file) for file in files], repr(masks)])
    except OSError:
        return None


def _in_order(
    samples: Sequence[Sample], known: Mapping[str, _Known], made: Iterator[Embedded]
) -> Iterator[tuple[str, Row]]:
    """The id of each of ``samples`` with its features, which are known or ``made``; unreadable images have none."""
    others = chain.from_iterable(map(_named, made))  # which, unlike a loop, holds no batch while the next one is made
    id, row = next(others, _NONE)
    for sample in samples:
        if (read := known.get(sample.id)) is not None:
            yield sample.id, read()
        elif row is not None and sample.id == id:
            yield id, row
            row = None
            id, row = next(others, _NONE)


def _named(item: Embedded) -> Iterator[tuple[str, Row | None]]:
    return zip(item.ids, rows_of(item), strict=True)


def _advanced(advance: Advance, item: Embedded) -> Embedded:
    advance(len(item))
    return item


def _same_in_batches(embeddings: Sequence[Embedding], size: int) -> bool:
    """Whether images have the same features, to the bit, in batches of ``size`` and beside others in smaller ones."""
    draws = torch.Generator().manual_seed(0)
    shape = embeddings[0].context.image_size
    images = torch.rand(2 * size, 3, *shape, generator=draws) * torch.rand(2 * size, 1, 1, 1, generator=draws)
    halves = [extract(embeddings, half) for half in images.split(size)]  # type: ignore[no-untyped-call]
    for count in sorted({1, 2, size // 2 + 1, size - 1, size} & set(range(1, size + 1))):
        chosen = torch.randperm(2 * size, generator=draws)[:count]
        found = extract(embeddings, images[chosen])
        for one, other, level in _levels_of(*halves, found):
            if not torch.equal(torch.cat([one, other])[chosen.to(level.device)], level):
                return False
    return True


def _levels_of(*several: tuple[Features, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Each level of each extractor, as it is in several batches."""
    return zip(*([level for features in batch for level in features.values()] for batch in several), strict=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _short(about: Any) -> str:
    """Half of the digest of something: 128 bits."""
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _content(sample: Sample) -> str:
    """A digest of an image."""
    if isinstance(sample.source, ArrayItem):
        pixels = sample.source.pixels
        return hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes()).hexdigest()
    return _file(sample.source)


def _file(path: Path) -> str:
    """A digest of a file and of what its name says of its type."""
    return _digest(path, state_of(path)) + path.suffix.lower()


@cache
def _digest(path: Path, state: tuple[int, ...]) -> str:
    """A file's digest, computed once for the streams of a process that have it in one ``state``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
