"""Holding pictures out by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from adkit.data.samples import Sample


def hold_out(samples: Sequence[Sample], share: float, seed: int, purpose: str) -> tuple[list[Sample], list[Sample]]:
    """Split into (kept, held out), each in the order given; at least one picture is kept.

    A picture's place in the draw is a hash of the seed and its id, so the split is the same on every machine
    and with every version of every library, and a picture that is added later moves hardly any other.
    """
    if not share or len(samples) < 2:
        return list(samples), []
    count = min(max(round(share * len(samples)), 1), len(samples) - 1)

    def draw(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed}\0{purpose}\0{sample.id}".encode()).digest()

    held = {sample.id for sample in sorted(samples, key=draw)[:count]}
    return [s for s in samples if s.id not in held], [s for s in samples if s.id in held]
