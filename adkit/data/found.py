"""What the reader of a format hands to ``open_dataset``: pictures, and what to tell the user of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
