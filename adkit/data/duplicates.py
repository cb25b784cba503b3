"""Finding pictures that are in training and in the test as well."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from adkit.data.found import some
from adkit.data.samples import Sample, Source

_EDGE = 1 << 15

Key = bytes | int
Pair = tuple[list[Sample], list[Sample]]
"""Samples (of training, of the test) that may be the same picture."""


def shared_pictures(train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """(training sample, test sample) of equal content, one pair a test sample.

    Sizes are compared first, then the ends of files of one size, and whole files only where those agree, so
    that even a folder of uncompressed pictures, all of one size, is not read whole. A file that cannot be
    read is like no other; the loader names it.
    """
    groups: list[Pair] = [(list(train), list(test))]
    for key in (_size, _ends, _digest):
        groups = [part for group in groups for part in _split(group, key)]
    pairs = [(first[0], sample) for first, second in groups for sample in second]
    order = {sample.id: position for position, sample in enumerate(test)}
    return sorted(pairs, key=lambda pair: order[pair[1].id])


def duplicate_warning(name: str, pairs: Sequence[tuple[Sample, Sample]]) -> str:
    """The sentence on such pairs."""
    count = f"{len(pairs):,} test picture{'s are' if len(pairs) > 1 else ' is'}"
    return (
        f"{name}: {count} among the training pictures too, which flatters the metrics; take one of each pair "
        f"away: {some([f'{test.id} = {train.id}' for train, test in pairs], 3)}"
    )


def _split(group: Pair, key: Callable[[Source], Key | None]) -> list[Pair]:
    """Parts of equal key that have both training and test samples."""
    parts: dict[Key, Pair] = defaultdict(lambda: ([], []))
    for side, samples in enumerate(group):
        for sample in samples:
            if (value := key(sample.source)) is not None:
                parts[value][side].append(sample)
    return [part for part in parts.values() if part[0] and part[1]]


def _size(source: Source) -> int | None:
    if not isinstance(source, Path):
        return source.pixels.nbytes
    try:
        return source.stat().st_size or None
    except OSError:
        return None


def _ends(source: Source) -> Key | None:
    if not isinstance(source, Path):
        return _hash(source.pixels.tobytes())
    try:
        with source.open("rb") as file:
            head = file.read(_EDGE)
            file.seek(-min(_EDGE, source.stat().st_size), 2)
            return _hash(head + file.read(_EDGE))
    except OSError:
        return None


def _digest(source: Source) -> Key | None:
    if not isinstance(source, Path):
        return _hash(source.pixels.tobytes())
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
