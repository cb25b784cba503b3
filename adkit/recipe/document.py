"""A recipe before it is understood: its values, and the place where each of them was written.

Importing this module imports no pydantic, so that a file that is not TOML is told at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adkit.errors import UserError
from adkit.recipe.shipped import ShippedRecipe, find_recipe, no_such_recipe
from adkit.utils.text import is_text, toml_key

_PLACE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)

_DOTTED = re.compile(r"(?:(?P<table>[a-z]+)\.)?(?P<key>[a-z_]+): ")

_KEYS = re.compile(r"\('(.+?)',?\)")  # as tomllib's messages show a table: ('a', 'b')


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
            place = f"--set {list(self.overrides.values())[given[-1]]}: "
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
            problems.append(f"--set {argument.encode(errors='backslashreplace').decode()}: {problem}")
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
        inner: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        return f"expected a dotted key before the equals sign, such as scorer.k, found {key!r}"
    path: tuple[str, ...] = ()
    while isinstance(inner, dict):
        path, inner = (*path, *inner), next(iter(inner.values()))
    table = values
    for depth, name in enumerate(path[:-1], 1):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            return f"{dotted_key(path[:depth])} is not a table in the recipe"
    table[path[-1]] = _override_value(text)
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


KeyPath = tuple[str | int, ...]
"""Keys from the top of the document down; an int is a place in a list."""


_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")


_SPACE = re.compile(r"[ \t]*")


_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")


_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?:""|")?|"(?:[^"\\\n]|\\.)*"'''  # basic
    r"""|'''.*?'''(?:''|')?|'[^'\n]*'""",  # literal
    re.DOTALL,
)


_SCALAR = re.compile(r"[^,\]}#\n]+")


class _LostError(Exception):
    """The scanner does not understand what stands here."""


def key_lines(text: str) -> dict[KeyPath, int]:
    """Key path → the line, counted from 1, on which the key or its table's header stands.

    A table that only its children mention stands where the first of them does. ``text`` must be a document
    that ``tomllib`` reads; a key that the scanner cannot place is left out, so that no line is a guess.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    try:
        scanner.document()
    except (_LostError, RecursionError):
        return scanner.lines  # what stands before the place where it got lost is right
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}
        """Array of tables → the number of its tables so far."""

    def document(self) -> None:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.place < len(self.text):
            if self.text[self.place] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK)

    def header(self) -> KeyPath:
        line = self.line()
        array = self.text.startswith("[[", self.place)
        self.place += 2 if array else 1
        keys = self.dotted()
        self.expect("]]" if array else "]")
        path: KeyPath = ()
        for depth, key in enumerate(keys):
            path += (key,)
            if array and depth == len(keys) - 1:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
        if array:
            self.note(path[:-1], line)
        self.note(path, line)
        self.lines[path] = line  # rather than where a child of it stood before
        return path

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = (*table, *self.dotted())
        self.note(path, line)
        self.expect("=")
        self.skip(_SPACE)
        self.value(path)

    def value(self, path: KeyPath) -> None:
        first = self.text[self.place : self.place + 1]
        if first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.take(_STRING if first in {'"', "'"} else _SCALAR)

    def array(self, path: KeyPath) -> None:
        self.expect("[")
        for index in range(len(self.text)):
            self.skip(_BLANK)
            if self.text.startswith("]", self.place):
                break
            self.note((*path, index), self.line())
            self.value((*path, index))
            self.skip(_BLANK)
            if not self.text.startswith(",", self.place):
                break
            self.place += 1
        self.expect("]")

    def inline_table(self, path: KeyPath) -> None:
        self.expect("{")
        self.skip(_BLANK)
        while not self.text.startswith("}", self.place):
            self.pair(path)
            self.skip(_BLANK)
            if self.text.startswith(",", self.place):
                self.place += 1
                self.skip(_BLANK)
            elif not self.text.startswith("}", self.place):
                raise _LostError
        self.expect("}")

    def dotted(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self.skip(_SPACE)
            keys.append(_unquoted(self.take(_KEY)))
            self.skip(_SPACE)
            if not self.text.startswith(".", self.place):
                return tuple(keys)
            self.place += 1

    def note(self, path: KeyPath, line: int) -> None:
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], line)

    def line(self) -> int:
        return bisect_right(self.starts, self.place)

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.place)
        self.place = match.end() if match else self.place

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.place)
        if not match:
            raise _LostError
        self.place = match.end()
        return match[0]

    def expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.place):
            raise _LostError
        self.place += len(mark)


def _unquoted(key: str) -> str:
    if key[0] == '"':
        return next(iter(tomllib.loads(f"{key} = 0")))
    return key.strip("'")
