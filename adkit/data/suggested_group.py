"""The suggestion of a ``[data] group``: what in the ids of images is the same where they show one part?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from adkit.data.groups import keys_by

LIKELY: Final = 0.8
"""The share of near copies that a suggestion puts together, at least."""
CROWDED: Final = 0.2
"""The chance that a suggestion puts two images together that were drawn at random, at most."""
_EQUAL: Final = 0.02
"""The difference of shares below which the finer of two groupings is taken."""
_TOKEN: Final = re.compile(r"\d+|[^\W\d_]+|[\W_]+")
_SEPARATORS: Final = ("_", "-", " ")


@dataclass(frozen=True)
class SuggestedGroup:
    """A value of ``[data] group`` by which near copies are of one group."""

    group: str
    """The value: a regular expression, ``folder`` or ``folder:N``."""
    together: float
    """The share of near copies that it puts together, above ``LIKELY``."""
    groups: int
    """The number of groups that it makes of all images."""


def suggest_group(ids: Sequence[str], alike: Sequence[tuple[str, str]]) -> SuggestedGroup | None:
    """Choose the value of ``[data] group`` that puts near copies together and tells most other images apart.

    Folders, what file names begin with, their parts and their numbers without the last digits are tried. A value must
    find a key in every id, put ``LIKELY`` of the near copies together, and two images at random with a chance of at
    most ``CROWDED``. Of several, those that put most together count, and of them the one that makes the smallest
    groups: what is joined in vain costs little, what is torn apart breaks the promise.

    Args:
        ids: all images.
        alike: pairs of ids that are near copies, the surest first. The surer half is used, but never fewer than 5.

    Returns:
        None where no value does.
    """
    surest = alike[: max(5, (len(alike) + 1) // 2)]
    found = []
    for candidate in dict.fromkeys(_candidates(ids)):
        key = keys_by(candidate)
        keys = {id: key(id) for id in ids}
        sizes = Counter(keys.values())
        if None in sizes or not surest:
            continue
        together = sum(keys[one] == keys[other] for one, other in surest) / len(surest)
        by_chance = sum(size * (size - 1) for size in sizes.values()) / (len(ids) * (len(ids) - 1))
        if together >= LIKELY and by_chance <= CROWDED:
            found.append((by_chance, SuggestedGroup(candidate, together, len(sizes))))
    if not found:
        return None
    most = max(suggestion.together for _, suggestion in found)
    best = [(by_chance, one) for by_chance, one in found if one.together >= most - _EQUAL]
    return min(best, key=lambda pair: pair[0])[1]  # the first of equals: the simplest


def _candidates(ids: Sequence[str]) -> Iterator[str]:
    """Values to try, the simplest first."""
    depth = min(len(PurePosixPath(id).parts) for id in ids)
    yield "folder"
    yield from (f"folder:{level}" for level in range(1, depth))
    yield from _of_one_form(ids)
    yield r"(?:^|/)([^/\d]*\d+)[^/]*$"
    for sign in _SEPARATORS:
        part = f"[^/{sign}]+"
        yield f"({part}){sign}[^/]*$"
        yield f"({part}{sign}{part}){sign}[^/]*$"
        yield f"([^/]+){sign}{part}$"
    for last in (r"\d", r"\d{1,2}", r"\d{1,3}"):  # a number of fewer digits leaves what stands before it
        yield rf"([^/]*?){last}\D*$"
        yield rf"(.*?){last}\D*$"


def _of_one_form(ids: Sequence[str]) -> Iterator[str]:
    """Expressions for names that all have one form, such as ``t017_exp3_num_1055``: letters, digits, signs in turn."""
    names = [[*_TOKEN.findall(PurePosixPath(id).stem)] for id in ids]
    forms = {tuple(_kind(token) for token in name) for name in names}
    if len(forms) != 1:
        return
    columns = [[*column] for column in zip(*names, strict=True)]
    varied = [number for number, column in enumerate(columns) if len(set(column)) > 1]
    if any(_kind(columns[number][0]) == "sign" for number in varied):
        return
    texts = [_pattern(column) for column in columns]
    for number in varied[:-1]:
        start, end = "".join(texts[: number + 1]), "".join(texts[number + 1 : number + 2])
        expected = ["".join(name[: number + 1]) for name in names]
        yield from _first_right(ids, expected, f"({start}){end}", rf"(?:^|/)({start}){end}[^/]*$")
    for number in varied:
        before = texts[number - 1] if number else ""
        end = "".join(texts[number + 1 : number + 2]) or r"\."
        expected = [name[number] for name in names]
        rest = "".join(texts[number + 1 :])
        whole = rf"(?:^|/){''.join(texts[:number])}({texts[number]}){rest}\.[^/]*$"
        yield from _first_right(ids, expected, f"{before}({texts[number]}){end}", whole)
    for number in varied[1:-1]:
        start, end = "".join(texts[:number]), "".join(texts[number + 1 :])
        yield rf"(?:^|/)({start}){texts[number]}({end})\.[^/]*$"


def _first_right(ids: Sequence[str], expected: Sequence[str], *expressions: str) -> Iterator[str]:
    """The first of the expressions that finds the expected key in every id, if one does."""
    for expression in expressions:
        key = keys_by(expression)
        if all(key(id) == text for id, text in zip(ids, expected, strict=True)):
            yield expression
            return


def _kind(token: str) -> str:
    return "digits" if token[0].isdigit() else "letters" if token[0].isalpha() else "sign"


def _pattern(column: Iterable[str]) -> str:
    """An expression for what the names have in one place: the text itself where it is the same in all."""
    texts = set(column)
    if len(texts) == 1:
        # Not re.escape, which also escapes what needs no escape, such as a hyphen: people will read this.
        return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", texts.pop())
    return r"\d+" if _kind(texts.pop()) == "digits" else r"[^\W\d_]+"
