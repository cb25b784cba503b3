"""A recipe before it is understood: its values, and the place where each of them was written.

Importing this module imports no pydantic, so that a file that is not TOML is told at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from adkit.errors import UserError
from adkit.recipe.shipped import ShippedRecipe, find_recipe, no_such_recipe
from adkit.utils.text import is_text, toml_key, without_credentials

_PLACE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)

_DOTTED = re.compile(r"(?:(?P<table>[a-z]+)\.)?(?P<key>[a-z_]+): ")

_KEYS = re.compile(r"\('(.+?)',?\)")  # as tomllib's messages show a table: ('a', 'b')

_BLANKS = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")

_CUT = re.compile("[,\n]")

KeyPath = tuple[str | int, ...]
"""Keys from the top of the document down; an int is a place in a list."""


@dataclass(frozen=True)
class Document:
    """The values of a recipe, from a file or from Python, with the ``--set`` arguments laid over them."""

    values: dict[str, Any]
    path: Path | ShippedRecipe | None = None
    """Where they were read; None where they come from Python."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    """Key path → the argument that set it, the last one last."""

    def problem(self, path: KeyPath, sentence: str, at: KeyPath | None = None) -> Problem:
        """``recipes/tile.toml:31: scorer.k: sentence``; with ``at``, the place is that of another key."""
        at = path if at is None else at
        given = [number for number, key in enumerate(self.overrides) if at[: len(key)] == key]
        dotted = f"{dotted_key(path)}: " if path else ""
        if given:
            place = f"--set {without_credentials(list(self.overrides.values())[given[-1]])}: "
            return Problem((2, given[-1]), f"{place}{dotted}{sentence}")
        line = self.lines.get(at)
        if self.path is None or line is None:
            return Problem((1, 0), f"{f'{self.path}: ' if self.path else ''}{dotted}{sentence}")
        return Problem((0, line), f"{self.path}:{line}: {dotted}{sentence}")

    @contextmanager
    def locating(self, table: str | None = None, keys: Collection[str] = ()) -> Iterator[None]:
        """Give the sentences of a UserError from inside the place of the key that they begin with.

        ``scorer.k: expected …`` begins with its table; with ``table``, a sentence may begin with one of its ``keys``.
        """
        try:
            yield
        except UserError as error:
            raise UserError(self._located(sentence, table, keys) for sentence in error.problems) from error

    def _located(self, sentence: str, table: str | None, keys: Collection[str]) -> str:
        match = _DOTTED.match(sentence)
        if match is None:
            return sentence
        name = match["table"] or (table if match["key"] in keys else None)
        if name is None or (match["table"] and name not in self.values):
            return sentence
        path = (name, match["key"])
        written = path[1] in self.values.get(name, {})
        return self.problem(path, sentence[match.end() :], at=path if written else (name,)).text


@dataclass(frozen=True, order=True)
class Problem:
    """A sentence, and where it stands among the others: lines first, then what has none, then arguments."""

    rank: tuple[int, int]
    text: str = field(compare=False)


def read_document(source: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> Document:
    """Read a recipe's values, without a look at what they mean.

    Args:
        source: a file, the name of a recipe that ships with adkit, or the recipe's tables.
        overrides: ``"scorer.k=5"`` and the like.

    Raises:
        UserError: a file that cannot be read or is not TOML, or an override that is not ``key=value``.
    """
    if isinstance(overrides, str):  # which is a sequence too, of letters
        overrides = [overrides]
    if isinstance(source, Mapping):
        path, text, values = None, "", _plain(source)
    else:
        path = find_recipe(Path(source))
        text = _read(path)
        values = _parse(path, text)
    problems: list[str] = []
    taken: dict[KeyPath, str] = {}
    for argument in overrides:
        problem = _override(values, taken, argument)
        if problem:
            shown = without_credentials(argument.encode(errors="backslashreplace").decode())
            problems.append(f"--set {shown}: {problem}")
    if problems:
        raise UserError(problems)
    return Document(values, path, key_lines(text), taken)


def parse_toml(path: Path | str) -> dict[str, Any]:
    """The values of a TOML file, or of a recipe that ships with adkit.

    Raises:
        UserError: a file that cannot be read, or ``tile.toml:12:5: not valid TOML: …``.
    """
    found = find_recipe(Path(path))
    return _parse(found, _read(found))


def dotted_key(path: KeyPath) -> str:
    """``scorer.k``, as TOML would write the key; ``data.category[2]`` for the third item of a list."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{toml_key(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def _read(path: Path | ShippedRecipe) -> str:
    data = path.read_bytes() if isinstance(path, ShippedRecipe) else _bytes(path)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 text (found byte 0x{data[error.start]:02x}): save the recipe as UTF-8"
        ) from None


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            names = ", ".join(other.name for other in sorted(path.glob("*.toml")))
            raise UserError(f"{path}: a folder, not a recipe; recipes in it: {names or 'none'}")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(no_such_recipe(path)) from None
    except OSError as error:
        raise UserError(f"{path}: the recipe cannot be read: {error.strerror}") from None


def _parse(path: Path | ShippedRecipe, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: not valid TOML: its lists or tables are nested too deeply") from None
    except ValueError as error:
        match = _PLACE.fullmatch(str(error))
        if not match:  # an integer with thousands of digits
            raise UserError(f"{path}: not valid TOML: {str(error).split(';')[0]}") from None
        what = _KEYS.sub(lambda keys: f"[{keys[1]}]".replace("', '", "."), match[1][:1].lower() + match[1][1:])
        line = int(match[2] or text.count("\n") + 1)
        column = int(match[3] or len(text) - text.rfind("\n"))
        hint = "; text needs quotes" if what == "invalid value" else ""
        raise UserError(f"{path}:{line}:{column}: not valid TOML: {what}{hint}") from None


def _override(values: dict[str, Any], taken: dict[KeyPath, str], argument: str) -> str | None:
    """Set what an argument says; what is wrong with the argument, if anything."""
    if not is_text(argument):
        return "not UTF-8 text"
    key, equals, text = argument.partition("=")
    if not equals or not key.strip():
        return "expected key=value, such as scorer.k=5"
    try:
        path, _ = _only_path(tomllib.loads(f"{key} = 0"))
    except ValueError:
        return f"expected a dotted key before the equals sign, such as scorer.k, found {key!r}"
    table = values
    for depth, name in enumerate(path[:-1], 1):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            return f"{dotted_key(path[:depth])} is not a table in the recipe"
    value = _override_value(text)
    if value is text and text.lstrip()[:1] in ("'", '"'):
        return "expected text in quotes as TOML has it, found another; a backslash in double quotes is written twice"
    table[path[-1]] = value
    taken.pop(path, None)  # so that the last argument for a key stands last
    taken[path] = argument
    return None


def _override_value(text: str) -> Any:
    """The TOML value that ``text`` is, or else the bare string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _plain(value: Any) -> Any:
    """A Python value as a TOML parser would give it; None counts as left out."""
    match value:
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
        case list() | tuple():
            return [_plain(item) for item in value]
        case os.PathLike():
            return os.fspath(value)
        case _:
            return value


def _only_path(values: Any) -> tuple[tuple[str, ...], Any]:
    """The one path of keys through tables, and what stands at its end."""
    path: tuple[str, ...] = ()
    while isinstance(values, dict) and values:
        ((key, values),) = values.items()
        path += (key,)
    return path, values


def key_lines(text: str) -> dict[KeyPath, int]:
    """Key path → the line, counted from 1, on which the key or its table's header stands.

    A table that only its children mention stands where the first of them does. ``text`` must be a document
    that ``tomllib`` reads; a key that cannot be placed is left out, so that no line is a guess.
    """
    lines = _Lines(text.replace("\r\n", "\n") + "\n")
    with suppress(ValueError, IndexError, RecursionError):  # what was found before it got lost is right
        lines.find()
    return lines.found


class _Lines:
    """The lines of a document's keys and list items: ``tomllib`` says where each of them ends.

    It is given a text in which no more may follow, and its complaint names the place where more follows.
    """

    def __init__(self, text: str) -> None:
        self.found: dict[KeyPath, int] = {}
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lengths: dict[KeyPath, int] = {}  # array of tables → the number of its tables so far

    def find(self) -> None:
        table: KeyPath = ()
        place = self._behind_blanks(0)
        while place < len(self._text):
            if self._text[place] == "[":
                end = self._text.index("\n", place)
                table = self._header(place, end)
            else:
                self._pair(table, place)
                end = self._stop(place, "v={")  # as in an inline table, where no second line may follow
            place = self._behind_blanks(end)

    def _header(self, place: int, end: int) -> KeyPath:
        keys, content = _only_path(tomllib.loads(self._text[place:end]))
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            if depth == len(keys) and content == [{}]:  # of a header in double brackets
                self._lengths[path] = self._lengths.get(path, 0) + 1
                self._note(path, place)
            if path in self._lengths:
                path += (self._lengths[path] - 1,)
        self.found.pop(path, None)  # where a child of it stood before
        self._note(path, place)
        return path

    def _pair(self, table: KeyPath, place: int) -> None:
        equals = self._stop(place, "[")  # as in a header, where no equals sign may follow
        path = (*table, *_only_path(tomllib.loads(f"[{self._text[place:equals]}]"))[0])
        self._note(path, place)
        self._inside(path, self._behind_blanks(equals + 1))

    def _inside(self, path: KeyPath, place: int) -> None:
        """Note what stands in the value at ``place``, if that is a list or an inline table."""
        opening, numbers = self._text[place], count()
        while self._text[place] in "[{,":
            place = self._behind_blanks(place + 1)
            if self._text[place] in "]}":  # of an empty one, or behind a last comma
                return
            if opening == "{":
                self._pair(path, place)
            else:
                item = (*path, next(numbers))
                self._note(item, place)
                self._inside(item, place)
            place = self._stop(place, "" if opening == "{" else "v=")

    def _note(self, path: KeyPath, place: int) -> None:
        line = bisect_right(self._starts, place)
        while path and path not in self.found:
            self.found[path] = line
            path = path[:-1]

    def _behind_blanks(self, place: int) -> int:
        blanks = _BLANKS.match(self._text, place)
        return blanks.end() if blanks else place

    def _stop(self, place: int, opening: str = "") -> int:
        """Where tomllib stops when it reads ``opening`` and the text from ``place`` on: at what cannot stand there."""
        for size in (100, 10_000, len(self._text)):  # mostly little of the text will do
            cut = _CUT.search(self._text, place + size)
            text = opening + self._text[place : cut.end() if cut else None]
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                found = _PLACE.fullmatch(str(error))
                if found and found["line"]:
                    rest = text.split("\n", int(found["line"]) - 1)[-1][int(found["column"]) - 1 :]
                    if len(opening + rest) < len(text):
                        return place + len(text) - len(opening + rest)
        raise ValueError("it reads nothing, or all")
