"""Names and sentences that are safe to show, and names that come back."""

import logging
import os
from pathlib import Path

import pytest

from adkit.utils.escapes import HarmlessFormatter, harmless, harmless_lines, printable, unescaped

NAMES = {
    b"caf\xe9.png": r"caf\xe9.png",
    rb"caf\xe9.png": r"caf\x5cxe9.png",
    rb"caf\x5cxe9.png": r"caf\x5cx5cxe9.png",
    b"a\nb\x1b.png": r"a\x0ab\x1b.png",
    b"a\rb\t.png": r"a\x0db\x09.png",
    b"\x1b]0;title\x07.png": r"\x1b]0;title\x07.png",
    "\x9b2J.png".encode(): r"\xc2\x9b2J.png",
    "\x85.png".encode(): r"\xc2\x85.png",
    "gnp\u202egpj.png".encode(): r"gnp\xe2\x80\xaegpj.png",
    "a\u2028b.png".encode(): r"a\xe2\x80\xa8b.png",
    b"\xc2.png": r"\xc2.png",
    b"\x7f.png": r"\x7f.png",
    "tile/Größe 5µm – 写真\u3000👩‍🔧.png".encode(): "tile/Größe 5µm – 写真\u3000👩‍🔧.png",
}
posix = pytest.mark.skipif(os.name == "nt", reason="names of bytes are POSIX's")


@posix
@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_names_that_cannot_be_printed_are_escaped(name, shown):
    assert printable(Path(os.fsdecode(name))) == shown


@posix
@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back(name):
    assert os.fsencode(unescaped(printable(os.fsdecode(name)))) == name


@posix
def test_every_byte_comes_back():
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    assert os.fsencode(unescaped(printable(Path(os.fsdecode(name))))) == name


@posix
def test_what_is_printable_is_harmless_already():
    """Else a cell of a CSV file would not give the name back."""
    name = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x3000)]))
    assert harmless(printable(name)) == printable(name)


def test_a_sentence_keeps_all_but_what_acts():
    assert harmless("café …") == "café …"
    assert harmless("caf\udce9") == r"caf\xe9"
    assert harmless(r"C:\x\new") == r"C:\x\new"
    assert harmless("a\x1b[31mb\r\nc\td") == r"a\x1b[31mb\x0d\x0ac\x09d"
    assert harmless("\ud800") == r"\xed\xa0\x80"


def test_no_character_of_harmless_text_controls_anything():
    shown = harmless("".join(map(chr, range(0x11_0000))))
    shown.encode("utf-8")
    assert len(shown.splitlines()) == 1
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)


def test_lines_stay_lines():
    assert harmless_lines("a\n\tb\x1b\r\n") == "a\n\tb\\x1b\\x0d\n"


def test_a_record_is_harmless_with_its_traceback():
    try:
        raise ValueError("caf\udce9 \x1b[2J")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "%s", ("x\x07",), (type(error), error, None))
    assert HarmlessFormatter("%(message)s").format(record) == "x\\x07\nValueError: caf\\xe9 \\x1b[2J"
