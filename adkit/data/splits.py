"""Splitting images into kept and held-out ones, or into folds, by the seed and the images' groups."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from adkit.data.groups import by_group
from adkit.data.samples import Sample
from adkit.errors import UserError

NO_GROUPS: Mapping[str, str] = MappingProxyType({})


def hold_out(
    samples: Sequence[Sample], share: float, seed: int, purpose: str, groups: Mapping[str, str] = NO_GROUPS
) -> tuple[list[Sample], list[Sample]]:
    """Split into (kept, held out), each in the order given; no group is separated, and at least one is kept.

    Groups are held out until the number of images is as near to the share as the next group allows. A group's place in
    the draw is a hash of the seed and its key, so the split is the same on every machine and with every version of
    every library, and an image that is added later moves hardly any other.

    Args:
        groups: id → key of the group; an image that is not there is a group of its own, with its id as key.
    """
    parts = by_group(samples, groups)
    if not share or len(parts) < 2:
        return list(samples), []
    wanted = min(max(round(share * len(samples)), 1), len(samples) - 1)

    held: set[str] = set()
    for key in sorted(parts, key=lambda key: draw(key, seed, purpose))[:-1]:
        size = len(parts[key])
        if held and abs(len(held) + size - wanted) > abs(len(held) - wanted):
            break
        if len(held) >= wanted:
            break
        held.update(sample.id for sample in parts[key])
    return [s for s in samples if s.id not in held], [s for s in samples if s.id in held]


def folded(
    samples: Sequence[Sample], count: int, seed: int, groups: Mapping[str, str], key: str, what: str
) -> tuple[tuple[Sample, ...], ...]:
    """Cut samples into ``count`` folds of nearly equal size, none of which separates a group; drawn as in ``hold_out``.

    Args:
        groups: id → key of the group; an image that is not there is a group of its own.
        key: the recipe's key that asks for the folds, for the error.
        what: the category, for the error.

    Raises:
        UserError: there are fewer groups than folds.
    """
    parts = by_group(samples, groups)
    if len(parts) < count:
        grouped = any(sample.group is not None for sample in samples)
        unit = "groups of normal images" if grouped else "different normal images"
        more = "groups" if grouped else "images"
        raise UserError(
            f"{key}: expected at least {count} {unit} in {what}, one for each fold, found {len(parts)}: add {more}, or "
            "ask for fewer folds"
        )
    folds: list[set[str]] = [set() for _ in range(count)]
    for one in sorted(parts, key=lambda one: draw(one, seed, "folds")):
        min(folds, key=len).update(sample.id for sample in parts[one])
    return tuple(tuple(sample for sample in samples if sample.id in fold) for fold in folds)


def one_per_group(samples: Sequence[Sample], seed: int, groups: Mapping[str, str]) -> list[int]:
    """Draw the places of one sample of each group, by a hash of the seed and its id, in the order of the samples."""
    place = {sample.id: number for number, sample in enumerate(samples)}
    drawn = (min(part, key=lambda sample: draw(sample.id, seed, "one")) for part in by_group(samples, groups).values())
    return sorted(place[sample.id] for sample in drawn)


def draw(key: str, seed: int, purpose: str) -> bytes:
    """Compute the place of an image or group in a draw: the same on every machine, whatever else is drawn."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{key}".encode()).digest()
