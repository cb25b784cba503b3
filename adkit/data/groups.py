"""Groups: which images show one part, so that no split separates them and promises hold for new parts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from adkit.data.samples import Sample
from adkit.utils.text import counted, some

FOLDER: Final = re.compile(r"folder(?::([1-9]\d*))?")
"""How a level of the path is named: ``folder``, the one that the image lies in, or ``folder:2``, the second."""

Key = Callable[[str], str | None]
"""Finds the key of the group of the image with this id; None where the id does not say."""


def is_expression(group: str) -> bool:
    """Whether ``group`` says how to read a key off an id, and does not name the column of a table."""
    return bool(FOLDER.fullmatch(group)) or "(" in group


def keys_by(group: str) -> Key:
    """Make the function that reads the key of a group off an id.

    Args:
        group: an expression for ``re.search``, whose parentheses, joined by a slash, are the key, or ``folder`` or
            ``folder:N``.

    Raises:
        ValueError: it is neither; the message says what is expected.
    """
    if level := FOLDER.fullmatch(group):
        # folder:1 is the first folder from the root; the id's last part is the file.
        index = -2 if level[1] is None else int(level[1]) - 1

        def folder(id: str) -> str | None:
            parts = id.lstrip("/").split("/")  # an absolute path begins with a slash, before which there is no folder
            return parts[index] if len(parts) > max(index + 1, 1) else None

        return folder
    try:
        expression = re.compile(group)
    except re.error as error:
        raise ValueError(f"expected a regular expression, found {group!r} ({error})") from error
    if not expression.groups:
        raise ValueError(
            'expected an expression with parentheses around the part\'s name, such as "(t\\\\d+)_", or "folder" or '
            f'"folder:N", found {group!r}'
        )

    def joined(id: str) -> str | None:
        found = expression.search(id)
        if found is None or not any(found.groups()):
            return None
        # Lot 1, part 23 is not lot 12, part 3. Parentheses of an alternative that did not match say nothing.
        return "/".join(one for one in found.groups() if one is not None)

    return joined


def without_key(category: str, group: str | None, ids: Sequence[str]) -> str:
    """The problem of ids whose group is not said.

    Args:
        group: an expression, or the name of a column; None: the data itself names the groups of other images.
    """
    by = "" if group is None else f" by {group}"
    remedy = "change the expression" if group is not None and is_expression(group) else "name it in the data"
    return (
        f"group: expected a group for every image of {category}{by}, found none for "
        f'{counted(len(ids), "image")} ({some(ids, 3)}): {remedy}, or set group_missing = "own", by which '
        "such an image is a part of its own"
    )


def nothing_keyed(category: str, group: str, ids: Sequence[str]) -> str:
    """The sentence on a ``group_missing = "own"`` that every image falls under, as it does where ``group`` is wrong."""
    return (
        f"{category}: expected a group for some image by {group}, found none for any of {counted(len(ids), 'image')} "
        f"({some(ids, 3)}), so each counts as a part of its own: if some show one part, correct data.group"
    )


def linked(samples: Iterable[Sample], equal: Mapping[str, int]) -> dict[str, str]:
    """Map the id of each image that belongs with others to the key that all of these have in common.

    Images of one group belong together, and so do images of equal content; what belongs with the same image belongs
    together, too. An image that is alone with no group of its own is left out: its id stands for it.

    Args:
        equal: id → a number that images of equal content have in common.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    own = {sample.id: sample.id if sample.group is None else sample.group for sample in samples}
    copies: dict[int, str] = {}
    for id, key in own.items():
        parent.setdefault(key, key)
        if id in equal:
            first, second = sorted((root(copies.setdefault(equal[id], key)), root(key)))
            parent[second] = first  # the smallest key stays, whatever the order
    return {id: root(key) for id, key in own.items() if root(key) != id}


def on_both_sides(one: Iterable[Sample], other: Iterable[Sample], groups: Mapping[str, str]) -> list[str]:
    """Find the named groups that have images in both, in the order of ``one``."""
    there = {groups.get(sample.id, sample.id) for sample in other if sample.group is not None}
    found = (groups.get(sample.id, sample.id) for sample in one if sample.group is not None)
    return [key for key in dict.fromkeys(found) if key in there]


def by_group(samples: Iterable[Sample], groups: Mapping[str, str]) -> dict[str, list[Sample]]:
    """Collect the samples of each group, in the order in which groups occur; a sample without a group is its own."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[groups.get(sample.id, sample.id)].append(sample)
    return dict(found)
