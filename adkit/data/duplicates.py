"""Images of equal content, none of which should be trained on and also calibrate the threshold or be tested on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from adkit.data.samples import Sample, Source
from adkit.utils.text import counted, some

_EDGE = 1 << 15
"""Bytes at each end of a file that are compared before the whole file is."""

Key = bytes | int
Pair = tuple[Sample, Sample]
"""Two images of equal content, the second of which counts as a copy of the first."""


def equal_images(samples: Iterable[Sample]) -> dict[str, int]:
    """Map the id of each image that equals another to a number that all images of its content have in common.

    Sizes are compared first, then the ends of files of one size, and whole files only where those agree, so
    that even a folder of uncompressed images, all of one size, is not read whole. A file that cannot be
    read counts as equal to no other; the loader reports it.
    """
    groups = [list({sample.id: sample for sample in samples}.values())]
    for key in (_size, _ends, _digest):
        groups = [part for group in groups for part in _split(group, key)]
    return {sample.id: number for number, group in enumerate(groups) for sample in group}


def shared_images(normal: Iterable[Sample], test: Iterable[Sample], equal: Mapping[str, int]) -> list[Pair]:
    """Find pairs (normal image, test image) of equal content, one per test image that equals a normal one."""
    first: dict[int, Sample] = {}
    for sample in normal:
        if sample.id in equal:
            first.setdefault(equal[sample.id], sample)
    return [(first[equal[sample.id]], sample) for sample in test if equal.get(sample.id) in first]


def foreign_images(samples: Iterable[Sample], others: Iterable[Sample]) -> tuple[list[Sample], list[Pair]]:
    """Split ``samples`` into those that equal none of ``others``, and pairs (other, sample) of those that do.

    No id may occur in both.
    """
    samples, others = list(samples), list(others)
    pairs = shared_images(others, samples, equal_images((*others, *samples)))
    equal = {sample.id for _, sample in pairs}
    return [sample for sample in samples if sample.id not in equal], pairs


def foreign_warning(pairs: Sequence[Pair]) -> str:
    """The sentence on auxiliary images that are left out."""
    images = f"{counted(len(pairs), 'image')} of it {'is' if len(pairs) == 1 else 'are'}"
    return f"[auxiliary]: {images} among those of [data], too, and left out: {_shown(pairs)}"


def moved_warning(name: str, pairs: Sequence[Pair]) -> str:
    """The sentence on images that were moved to training."""
    one = len(pairs) == 1
    return (
        f"{name}: {counted(len(pairs), 'calibration image')} "
        f"{'is a copy of another normal image and was' if one else 'are copies of other normal images and were'} moved "
        f"to training, because a copy says nothing about new images; remove one of each pair: {_shown(pairs)}"
    )


def parted_warning(name: str, count: int, keys: Sequence[str]) -> str:
    """The sentence on calibration images that were moved to training, because it has images of the same groups."""
    one = count == 1
    return (
        f"{name}: {counted(count, 'calibration image')} {'is' if one else 'are'} of groups that are trained on, too, "
        f"and {'was' if one else 'were'} moved to training, because the promise on false alarms is about new groups; "
        f"set whole groups apart: {some(keys, 3)}"
    )


def separated_warning(name: str, keys: Sequence[str]) -> str:
    """The sentence on groups that the data itself puts on both sides of training and test."""
    groups = f"{counted(len(keys), 'group')} {'has' if len(keys) == 1 else 'have'}"
    return (
        f"{name}: {groups} images both in training and in the test, which makes the metrics better than they will be "
        f"on new groups; put each group on one side: {some(keys, 3)}"
    )


def shared_warning(name: str, pairs: Sequence[Pair]) -> str:
    """The sentence on images that are trained on and tested."""
    images = f"{counted(len(pairs), 'test image')} {'is' if len(pairs) == 1 else 'are'}"
    return (
        f"{name}: {images} among the training images too, which inflates the metrics; remove one of each pair: "
        f"{_shown(pairs)}"
    )


def _shown(pairs: Sequence[Pair]) -> str:
    return some([f"{copy.id} = {first.id}" for first, copy in pairs], 3)


def _split(group: Sequence[Sample], key: Callable[[Source], Key]) -> list[list[Sample]]:
    """Split a group into parts of equal key, of which those of two images or more are kept."""
    parts: dict[Key, list[Sample]] = defaultdict(list)
    for sample in group:
        with suppress(OSError):  # a file that is empty, or cannot be read, equals no other
            if value := key(sample.source):
                parts[value].append(sample)
    return [part for part in parts.values() if len(part) > 1]


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else source.pixels.nbytes


def _ends(source: Source) -> bytes:
    if not isinstance(source, Path):
        return _hash(source.pixels.tobytes())
    with source.open("rb") as file:
        head = file.read(_EDGE)
        file.seek(-min(_EDGE, source.stat().st_size), 2)
        return _hash(head + file.read(_EDGE))


def _digest(source: Source) -> bytes:
    if not isinstance(source, Path):
        return _hash(source.pixels.tobytes())
    with source.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
