"""The ``adkit`` command: its arguments, and how it ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from adkit import __version__
from adkit.cli import cache, check, compare, export, init, plugins, predict, recipes, report, run, schema
from adkit.cli.exits import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER, complain
from adkit.cli.streams import Parser, finish, flush, prepare, say, say_lines
from adkit.errors import PluginError, UserError, exhausted, out_of_memory
from adkit.utils.signals import handling

EXAMPLES = """examples:
  adkit init my/images
  adkit run quickstart
  adkit run dn2 --set data.root=my/images --set scorer.k=5
  adkit report runs/quickstart --open
  adkit compare runs/padim runs/dn2 --open
  adkit recipes padim > my-recipe.toml
  adkit check my-recipe.toml
  adkit predict runs/quickstart/detector/brick new-images/
  adkit export runs/quickstart/detector/brick --format onnx
  adkit plugins scorer knn
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status: 0 done, 1 a fault of a plugin or of adkit, 2 bad input.

    ``adkit predict --fail-on-anomaly`` gives 3 or 4; an interrupt gives 130, SIGTERM 143.
    """
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and (options.command is not run.run_recipes or any(other.startswith("-") for other in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:  # recipes that stand behind an option
        options.recipes += others
    try:
        _check_folder()
        status: int = options.command(options)
        flush()
    except UserError as error:
        complain(error)
        return EXIT_USER
    except Terminated:
        say("adkit: terminated")
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        say("adkit: interrupted")
        return EXIT_INTERRUPTED
    except PluginError as error:
        if error.__cause__ is not None:  # there is no run whose log could keep it
            say_lines("".join(traceback.format_exception(error.__cause__)).rstrip())
        say_lines(f"plugin fault: {error}")
        return EXIT_FAULT
    except (MemoryError, RuntimeError) as error:
        if not exhausted(error):
            raise
        complain(out_of_memory("adkit", error))
        return EXIT_USER
    except BrokenPipeError:  # the reader of our output has gone, as `adkit plugins | head` does
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None:  # no word of the system's
            raise
        complain(_refused(error))
        return EXIT_USER
    return status


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the working folder: expected one that is there, found that it was removed; change to another one"
        ) from error


def _refused(error: OSError) -> UserError:
    """The sentence on what the system refused, whichever file it was."""
    where = "a file" if error.filename is None else os.fsdecode(error.filename)
    return UserError(
        f"{where}: expected that it can be read and written, found: {error.strerror}; fix that, or name another place"
    )


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which ends a run as Ctrl-C does."""


def command() -> None:
    """Run the console script: call ``main``, and exit with its status."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    with handling(terminate, signal.SIGTERM):
        prepare()
        status = main()
    finish()
    if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        # CPython remembers an interrupt that passed through exec of a string (dataclasses, pydantic) as unhandled
        # and would die of the signal at exit, whatever status was asked for.
        os._exit(status)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="adkit",
        description="Image anomaly detection from one short recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"adkit {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    for each in (init, run, report, compare, check, predict, export, recipes, plugins, schema, cache):
        each.add_parser(commands)

    def show_help(options: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(command=show_help)  # of `adkit` alone; a command has a function of its own
    return parser
