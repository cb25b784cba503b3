"""Near matches for names that somebody mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, options: Iterable[str], likeness: float = 0.6) -> str | None:
    """The option closest to ``name``, whatever its case, or None where none is as alike (1: the same)."""
    folded = {option.casefold(): option for option in options}
    matches = get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[matches[0]] if matches else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`` (did you mean k?)``, or nothing where no option is close."""
    match = near(name, options)
    return f" (did you mean {match}?)" if match else ""
