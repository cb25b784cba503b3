r"""Text that others chose (names of files, what a file says) made fit to be shown and written.

A name may be any bytes on Linux, among them those that clear a terminal, ring its bell, turn its letters around or
begin a line. Here each of them becomes ``\x1b`` and the like: its bytes in UTF-8.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import PurePath

_ACTING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters besides tab and line feed, marks that turn the direction of writing, further ends of lines, and
stand-ins for bytes that are no text: what a terminal or a reader of lines would act upon instead of showing it."""
_IN_LINES = re.compile(f"[{_ACTING}]")
_UNSHOWN = re.compile(rf"[{_ACTING}\t\n]")
_UNPRINTABLE = re.compile(rf"[{_ACTING}\t\n\\]")  # the backslash, too, with which an escape begins
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def harmless(text: str) -> str:
    r"""Text as one line that is safe on any terminal and can be written to any file; what is safe stays as it is.

    It is for sentences: ``\x1b`` in it may have been an escape character or these four letters.
    """
    return _UNSHOWN.sub(_escaped, text)


def harmless_lines(text: str) -> str:
    """As ``harmless``, for text of several lines, in which tabs and ends of lines stay what they are."""
    return _IN_LINES.sub(_escaped, text)


def printable(path: PurePath | str) -> str:
    r"""A path or name as text that can be printed and written to any file, with forward slashes.

    Besides what ``harmless`` replaces, the backslash becomes ``\x5c``, so that two names never become one, and
    ``unescaped`` gives the name back.
    """
    name = os.fsencode(path if isinstance(path, str) else path.as_posix())
    return _UNPRINTABLE.sub(_escaped, name.decode("utf-8", "surrogateescape"))


def unescaped(text: str) -> str:
    """The path or name that ``printable`` made ``text`` of."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), text.encode("utf-8", "surrogateescape")))


class HarmlessFormatter(logging.Formatter):
    """A formatter of log records whose text, tracebacks included, is safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless_lines(super().format(record))


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    byte = ord(letter) - 0xDC00
    # The stand-ins for single bytes are U+DC80 to U+DCFF.
    data = bytes((byte,)) if 0x80 <= byte <= 0xFF else letter.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{value:02x}" for value in data)
