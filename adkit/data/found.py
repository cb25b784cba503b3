"""What the reader of a format hands to ``open_dataset``: pictures, and what to tell the user of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from adkit.data.samples import Sample


@dataclass(frozen=True)
class Found:
    """One category as it lies on disk, before pictures are held out."""

    name: str
    normal: Sequence[Sample]
    """Normal pictures to train on."""
    test: Sequence[Sample]
    expected: str
    """Where normal pictures were looked for, for the sentence that says that there are none."""
    calibration: Sequence[Sample] | None = None
    """Pictures that the layout itself sets apart for calibration; None where it says nothing of it."""


@dataclass(frozen=True)
class Notes:
    """Sentences gathered on the way, so that all problems are told at once."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def missing(name: str, present: Sequence[str]) -> str:
    """``found a, b, c (did you mean b?)``: the end of a sentence on a name that is not there."""
    by_folded = {other.casefold(): other for other in present}
    near = get_close_matches(name.casefold(), by_folded, n=2, cutoff=0.7)
    hint = f" (did you mean {' or '.join(by_folded[key] for key in near)}?)" if near else ""
    return f"found {some(present, 20) if present else 'none'}{hint}"
