"""Splitting images into kept and held-out ones, or into folds, by the seed and the images' ids."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from adkit.data.samples import Sample


def hold_out(
    samples: Sequence[Sample], share: float, seed: int, purpose: str, equal: Mapping[str, int] = MappingProxyType({})
) -> tuple[list[Sample], list[Sample]]:
    """Split into (kept, held out), each in the order given; at least one image is kept.

    An image that equals one of those kept is kept, too; ``equal`` maps ids to numbers that equal images have in common.

    An image's place in the draw is a hash of the seed and its id, so the split is the same on every machine
    and with every version of every library, and an image that is added later moves hardly any other.
    """
    if not share or len(samples) < 2:
        return list(samples), []
    count = min(max(round(share * len(samples)), 1), len(samples) - 1)

    held = {sample.id for sample in sorted(samples, key=lambda sample: _draw(sample, seed, purpose))[:count]}
    seen = {equal[sample.id] for sample in samples if sample.id not in held and sample.id in equal}
    held = {image for image in held if equal.get(image) not in seen}
    return [s for s in samples if s.id not in held], [s for s in samples if s.id in held]


def folded(
    samples: Sequence[Sample], count: int, seed: int, equal: Mapping[str, int]
) -> tuple[tuple[Sample, ...], ...]:
    """Cut samples into ``count`` folds of nearly equal size, or into as many as there are different images.

    Fewer than two different images make no folds. Images of equal content, whose ids ``equal`` maps to the same number,
    are in one fold: a copy of what was fitted on says nothing about new images. Folds are drawn as in ``hold_out``.
    """
    groups: dict[object, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: _draw(sample, seed, "folds")):
        groups[equal.get(sample.id, sample.id)].append(sample)
    if len(groups) < 2:
        return ()
    folds: list[set[str]] = [set() for _ in range(min(count, len(groups)))]
    for group in groups.values():
        min(folds, key=len).update(sample.id for sample in group)
    return tuple(tuple(sample for sample in samples if sample.id in fold) for fold in folds)


def _draw(sample: Sample, seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{sample.id}".encode()).digest()
