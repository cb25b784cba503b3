"""The table ``[sweep]``: lists of values for dotted keys, and the points of their grid."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final, Literal

from adkit.errors import UserError
from adkit.recipe.document import Document, KeyPath, dotted_key
from adkit.utils.text import toml_value

SWEEP: Final = "sweep"
MOST: Final = 1000
"""Points beyond which a sweep is refused: nobody waits for so many runs."""
RankBy = Literal["synthetic", "test"]
_OWN: Final = ("sample", "rank_by")
_FIXED: Final = (("run", "name"), ("run", "output"))
"""Keys that the sweep itself sets."""


@dataclass(frozen=True)
class Sweep:
    """What a recipe's ``[sweep]`` asks for."""

    values: Mapping[str, list[Any]]
    """Dotted key → the values that it takes."""
    sample: int | None
    """How many points of the grid are drawn; None: all."""
    rank_by: RankBy
    """``synthetic``: the AUROC of drawn defects, in which no test image takes part; ``test``: that of the test."""

    def points(self, seed: int) -> list[dict[str, Any]]:
        """The points, each key → value, in the order of the grid; a sample is drawn by ``seed``."""
        count = prod(len(values) for values in self.values.values())
        grid = (dict(zip(self.values, one, strict=True)) for one in product(*self.values.values()))
        if self.sample is None or self.sample >= count:
            return list(grid)
        chosen = set(random.Random(seed).sample(range(count), self.sample))
        return [point for number, point in enumerate(grid) if number in chosen]


def overrides_of(point: Mapping[str, Any]) -> list[str]:
    """A point as arguments of ``--set``."""
    return [f"{key}={toml_value(value)}" for key, value in point.items()]


def sweep_of(document: Document) -> Sweep | None:
    """The sweep of a recipe; None without that table.

    Raises:
        UserError: the table is not right, every problem at once.
    """
    if SWEEP not in document.values:
        return None
    table = document.values[SWEEP]
    if not isinstance(table, dict):
        raise UserError(document.problem((SWEEP,), "expected a table: write [sweep] on a line of its own").text)
    problems: list[tuple[KeyPath, str]] = []
    values: dict[str, list[Any]] = {}
    for path, value in _leaves({key: one for key, one in table.items() if key not in _OWN}):
        key = dotted_key(path)
        if path[0] == SWEEP:
            problems.append((path, "expected a key of another table: this one says what to try of those"))
        elif path in _FIXED:
            problems.append((path, f"expected a key that makes runs differ, found {key}, which the sweep sets itself"))
        elif not isinstance(value, list) or not value:
            problems.append((path, f"expected a list of the values to try, found {toml_value(value)}"))
        elif any(one in value[:at] for at, one in enumerate(value)):
            problems.append((path, f"expected values that differ, found {toml_value(value)}"))
        else:
            values[key] = value
    if not values and not problems:
        problems.append(((), 'expected a key with the values to try, such as "scorer.k" = [1, 2, 5], found none'))
    sample, rank_by = table.get("sample"), table.get("rank_by", "synthetic")
    if sample is not None and (not isinstance(sample, int) or isinstance(sample, bool) or sample < 1):
        problems.append((("sample",), f"expected a whole number of points of at least 1, found {toml_value(sample)}"))
        sample = None
    if rank_by not in ("synthetic", "test"):
        problems.append((("rank_by",), f'expected "synthetic" or "test", found {toml_value(rank_by)}'))
    count = prod(len(one) for one in values.values())
    if min(count, sample or count) > MOST:
        problems.append(((), f"expected at most {MOST:,} points, found {count:,}: set sample, or fewer values"))
    if problems:
        raise UserError(document.problem((SWEEP, *path), sentence).text for path, sentence in problems)
    return Sweep(values, sample, rank_by)


def _leaves(table: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key that is no table, with its path: ``"scorer.k" = …`` and ``scorer.k = …`` are the same."""
    for key, value in table.items():
        path = (*above, *key.split("."))
        if isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path, value
