"""Text for people: lists of names, near matches, values as TOML writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def toml_value(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping():
            pairs = ", ".join(f"{toml_key(key)} = {toml_value(inner)}" for key, inner in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            return str(value)


def toml_key(key: str) -> str:
    """A key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def is_text(value: str) -> bool:
    """Whether TOML can write a string: not where Python has a stand-in for a byte that is no text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def near(name: str, options: Iterable[str], likeness: float = 0.6) -> str | None:
    """The option closest to ``name``, whatever its case, or None where none is as alike (1: the same)."""
    folded = {option.casefold(): option for option in options}
    matches = get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[matches[0]] if matches else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """`` (did you mean k?)``, or nothing where no option is close."""
    match = near(name, options)
    return f" (did you mean {match}?)" if match else ""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun in the form that it calls for: ``1 image``, ``1,000 images``, ``0 categories``.

    Args:
        noun: what is counted, in the singular.
        plural: its plural; default: ``noun`` with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


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
