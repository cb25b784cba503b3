"""What commands print: no name acts on a terminal, and no locale and no full disk ends a command with a traceback."""

from __future__ import annotations

import argparse
import gc
import io
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from adkit.errors import UserError
from adkit.utils.container import cores
from adkit.utils.escapes import HarmlessFormatter, harmless, harmless_lines

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import SupportsWrite
    from rich.table import Table


def prepare() -> None:
    """Let this process's streams take every text there is and give every name there is, and it heed its container.

    What is set here is of the process, whose owner a command is.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without the letter has its number
    if hasattr(os, "sched_getaffinity") and cores() < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))  # torch counts those of the machine
    # Looking for cycles among the objects of imported modules every 700 new ones takes a quarter of the imports' time.
    gc.set_threshold(10_000)
    # Pillow's usual blocks of 16 MiB stay with the threads that gave them back; larger ones the system has again.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files, which are bytes
    if logging.lastResort is not None:  # what prints warnings where nothing else takes them
        logging.lastResort.setFormatter(HarmlessFormatter())


def say(sentence: str) -> None:
    """Write a sentence on a line of standard error."""
    _tell(harmless(sentence))


def say_lines(text: str) -> None:
    """Write text of several lines, such as a traceback, to standard error."""
    _tell(harmless_lines(text))


def show(text: str) -> None:
    """Write lines to standard output.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        print(harmless_lines(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables, wider than a narrow terminal rather than with their values cut off."""
    from rich.console import Console

    console = Console()
    width = console.width
    for table in tables:
        console.width = max(width, console.measure(table, options=console.options.update(width=500)).maximum)
        console.print(table)


def open_page(page: Path) -> None:
    """Open a page in the browser, or say that none could be started."""
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        show("no browser could be started: open the file in one")


def flush() -> None:
    """Write what waits to be written to standard output; raises UserError."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from error


def finish() -> None:
    """Drop what can be written to nobody, at which Python would complain when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a full disk, or a stream that was closed
            with suppress(OSError, ValueError):  # it has no file: then there is nothing that Python could try again
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Parser(argparse.ArgumentParser):
    """A parser whose complaints quote arguments, which a shell may have made of names of files, without harm."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(harmless_lines(message), file)


def _tell(text: str) -> None:
    with suppress(OSError):  # there is no other place to say it, and the work goes on without
        print(text, file=sys.stderr, flush=True)


def _unwritable(error: OSError) -> UserError:
    return UserError(
        f"standard output: expected that it can be written to, found: {error.strerror}; free some space, or send it "
        "elsewhere"
    )
