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


def near(name: str, options: Iterable[str], *, likeness: float = 0.6, most: int = 1) -> list[str]:
    """The options that are most like ``name``, whatever its case, and at least so alike (1: the same)."""
    folded = {option.casefold(): option for option in options}
    return [folded[match] for match in get_close_matches(name.casefold(), folded, n=most, cutoff=likeness)]


def did_you_mean(name: str, options: Iterable[str], *, likeness: float = 0.6, most: int = 1) -> str:
    """`` (did you mean k?)``, or nothing where no option is close."""
    matches = near(name, options, likeness=likeness, most=most)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def joined(names: Iterable[str], word: str) -> str:
    """``a, b or c``: names with a word before the last one."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


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


def without_credentials(text: str) -> str:
    """A text whose URIs have no user, no password and no query: ``http://me:secret@host?key=k`` becomes ``http://host``."""
    without_user = re.sub(r"(?<=://)[^\s/]*@", "", text)
    return re.sub(r"(://[^\s?]*)\?\S*?(?=['\"]?(?:\s|$))", r"\1", without_user)


def missing(name: str, present: Sequence[str]) -> str:
    """``found a, b, c (did you mean b?)``: the end of a sentence on a name that is not there."""
    return f"found {some(present, 20) if present else 'none'}{did_you_mean(name, present, likeness=0.7, most=2)}"
