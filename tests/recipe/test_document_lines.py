import tomllib
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

import pytest

from adkit.recipe.document import KeyPath, key_lines


def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key path that tomllib yields."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*path, index))


TRICKY = r"""
# [comment.a]
top = 1 # top2 = 2
"quoted key" = 2
'literal.key' = 3
"esc\u0061ped\"" = 4
dotted.inner . "last one" = 5
dotted.other = 6
lists = [
  "one", # two = 2
  'three', QQQ
four = 4
[five]
QQQ,
  [1, 2], [
    3,
  ],
]
basic = "a \" [b] # c = 1"
multi = QQQ
[notatable]
key = 1 \QQQ
still = 2 ""\"QQQ""
literal = '''
[nor.this]
it''s = 3'''''
inline = { first = 1, "se cond" = { third = [ { fourth = 4 } ] }, fifth.sixth = '}' }
date = 1979-05-27 07:32:00
empty = {}
none = []

[a]
k = 1
  [ a . b ] # indented
  k2 = true
[x.y.z]
k3 = 1
[x]
k4 = 2
[[array]]
n = 1
[[array]]
n2 = 2
[array.sub]
n3 = 3
[[array.nested]]
n4 = 4
[[array.nested]]
n5 = 5
["a.b"]
k5 = 1
""".replace("QQQ", '"' * 3)


def test_the_tricky_document_is_placed_whole():
    document = tomllib.loads(TRICKY)
    assert set(key_lines(TRICKY)) == set(paths(document))


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (("top",), "top = 1"),
        (("quoted key",), '"quoted key"'),
        (("literal.key",), "'literal.key'"),
        (('escaped"',), '"esc'),
        (("dotted",), "dotted.inner"),
        (("dotted", "inner", "last one"), "dotted.inner"),
        (("dotted", "other"), "dotted.other"),
        (("lists", 0), '  "one"'),
        (("lists", 1), "  'three'"),
        (("lists", 3, 0), "  [1, 2]"),
        (("lists", 4, 0), "    3"),
        (("basic",), "basic"),
        (("literal",), "literal = "),
        (("inline", "se cond", "third", 0, "fourth"), "inline"),
        (("inline", "fifth", "sixth"), "inline"),
        (("date",), "date"),
        (("a", "b"), "  [ a . b ]"),
        (("a", "b", "k2"), "  k2"),
        (("x",), "[x]"),
        (("x", "y"), "[x.y.z]"),
        (("array", 1, "n2"), "n2"),
        (("array", 1, "sub", "n3"), "n3"),
        (("array", 1, "nested", 1, "n5"), "n5"),
        (("a.b", "k5"), "k5"),
    ],
)
def test_line_of(path, start):
    assert TRICKY.splitlines()[key_lines(TRICKY)[path] - 1].startswith(start)


def test_windows_line_ends():
    assert key_lines('a = """\r\n\r\n"""\r\nb = 1\r\n')[("b",)] == 4


def test_a_place_that_it_cannot_read_ends_the_scan_without_a_guess():
    assert key_lines("a = 1\n???\nb = 2\n") == {("a",): 1}


LETTERS = "abz_-.# \"'[]=\\\n🙂"
SCALARS = [
    "-7",
    "true",
    "1e-6",
    "inf",
    "1979-05-27 07:32:00",
    '"#"',
    "'\\'",
    '"\\""',
    "QQQ\n[t]\nk = 1\nQQQ".replace("Q", '"'),
    'QQQa""\nQQQ""'.replace("Q", '"'),
    "QQQ\n''\n[u]QQQ".replace("Q", "'"),
    "QQQ'a'QQQ".replace("Q", "'"),
    "QQQQQQ".replace("Q", "'"),
]


def keys(chance: Random) -> set[str]:
    return {"".join(chance.choices(LETTERS, k=chance.randint(0, 6))) for _ in range(chance.randint(0, 3))}


def quoted(key: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}
    return '"' + "".join(escapes.get(letter, letter) for letter in key) + '"'


def value(chance: Random, depth: int = 0) -> str:
    if depth == 3 or chance.random() < 0.5:
        return chance.choice(SCALARS)
    items = [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return chance.choice(["[ # [x]\n{}\n]", "[{}]"]).format(chance.choice([",\n", ", "]).join(items))


def document(chance: Random) -> tuple[str, dict[KeyPath, int]]:
    """A document and the lines on which its keys were written: who writes it knows."""
    text, lines = "", {}
    for table in sorted(keys(chance)):
        text += chance.choice(["", "# k = 1 ]\n", "\n"])
        lines[(table,)] = text.count("\n") + 1
        text += f"[{quoted(table)}] # [no]\n"
        for key in sorted(keys(chance)):
            lines[(table, key)] = text.count("\n") + 1
            text += f"  {quoted(key)}\t= {value(chance)}{chance.choice(['', ' # c = 1'])}\n"
    return text, lines


@pytest.mark.parametrize("seed", range(100))
def test_generated_documents_are_placed_right(seed):
    text, expected = document(Random(seed))
    assert set(paths(tomllib.loads(text))) >= set(expected)
    found = key_lines(text)
    assert {path: found.get(path) for path in expected} == expected
    assert set(found) <= set(paths(tomllib.loads(text)))


class Writer:
    """Writes a document of all that TOML has, and notes where each key and item begins: who writes it knows."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.text = ""
        self.lines: dict[KeyPath, int] = {}
        self.numbers = count()

    def document(self) -> None:
        self.pairs(())
        for _ in range(self.chance.randint(0, 3)):
            self.table((), ())

    def table(self, above: KeyPath, names: tuple[str, ...]) -> None:
        keys = self.keys()
        for index in range(self.chance.randint(0, 3)) if self.chance.random() < 0.5 else (None,):
            path = (*above, *keys) if index is None else (*above, *keys, index)
            self.one_of("", "\n", "# [x], y = '''\n", "  ")
            self.note(path)
            header = self.dotted((*names, *keys))
            self.text += f"[ {header} ]" if index is None else f"[[{header} ]]"
            self.one_of("\n", " # z = 1\n")
            self.pairs(path)
            if len(names) < 2:
                self.table(path, (*names, *keys))

    def pairs(self, table: KeyPath) -> None:
        for _ in range(self.chance.randint(0, 3)):
            self.one_of("", "\n", "# [x], y = '''\n", "  ")
            self.pair(table, 0)
            self.one_of("\n", " # z = 1\n", "\t\n")

    def pair(self, table: KeyPath, depth: int) -> None:
        keys = self.keys()
        self.note((*table, *keys))
        self.text += self.dotted(keys)
        self.one_of("=", " = ", "\t= ")
        self.value((*table, *keys), depth)

    def value(self, path: KeyPath, depth: int) -> None:
        kind = self.chance.choice(["scalar", "scalar", "list", "table"]) if depth < 3 else "scalar"
        if kind == "scalar":
            self.one_of(*SCALARS, "0x1F", "07:32:00", '"é, [x] = {"', "'\\'")
            return
        blanks = ["", " ", "\n", " # ], x = 1\n\t"] if kind == "list" else ["", " "]
        self.text += "[" if kind == "list" else "{"
        last = self.chance.randint(-1, 2)
        for index in range(last + 1):
            self.one_of(*blanks)
            if kind == "list":
                self.note((*path, index))
                self.value((*path, index), depth + 1)
            else:
                self.pair(path, depth + 1)
            self.one_of(*blanks)
            self.text += "," if index < last else ""
        self.one_of("", *[",", ",\n"] * (kind == "list" and last >= 0))
        self.one_of(*blanks)
        self.text += "]" if kind == "list" else "}"

    def keys(self) -> tuple[str, ...]:
        marks = self.chance.choice(["", "", ".", "=", "#", " ", "[", ",", "'", '"', "\\", "é"])
        return tuple(f"k{next(self.numbers)}{marks}" for _ in range(self.chance.randint(1, 2)))

    def dotted(self, keys: tuple[str, ...]) -> str:
        return self.chance.choice([".", " . "]).join(map(self.written, keys))

    def written(self, key: str) -> str:
        if key.isascii() and key.isalnum() and self.chance.random() < 0.5:
            return key
        return quoted(key) if "'" in key or self.chance.random() < 0.5 else f"'{key}'"

    def note(self, path: KeyPath) -> None:
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], self.text.count("\n") + 1)

    def one_of(self, *texts: str) -> None:
        self.text += self.chance.choice(texts)


@pytest.mark.parametrize("seed", range(100))
def test_all_that_toml_has_is_placed_where_it_was_written(seed):
    writer = Writer(Random(seed))
    writer.document()
    assert set(writer.lines) == set(paths(tomllib.loads(writer.text)))
    assert key_lines(writer.text) == writer.lines
    assert key_lines(writer.text.replace("\n", "\r\n")) == writer.lines
