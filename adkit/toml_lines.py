"""On which line of a TOML document does each key stand? ``tomllib`` does not tell."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

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
