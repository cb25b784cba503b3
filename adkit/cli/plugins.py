"""``adkit plugins``: the components that are installed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.errors import UserError

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser(
        "plugins",
        usage="adkit plugins [-h] [KIND [NAME]]\n       adkit plugins new KIND NAME [--dir DIR]",
        help="list the components that are installed, explain one, or begin a new one",
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help="extractor, adapter, scorer, localizer or stopper")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a component of that kind; of a new one, its name")
    parser.add_argument("new_name", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="with new: where to make the folder of the package (default: here)"
    )
    parser.set_defaults(command=show_plugins)


def show_plugins(options: argparse.Namespace) -> int:
    if options.kind == "new":
        return _new(options)
    if options.new_name is not None or options.dir is not None:
        raise UserError("plugins: expected KIND NAME, or new KIND NAME --dir DIR, found more: see adkit plugins -h")
    from adkit.plugin.registry import discover
    from adkit.recipe.reference import plugins_text

    print(plugins_text(discover(), options.kind, options.name))
    return 0


def _new(options: argparse.Namespace) -> int:
    if options.new_name is None:
        raise UserError(
            "plugins new: expected a kind and a name, found less: name them, as in adkit plugins new scorer brightness"
        )
    from adkit.cli.new_plugin import new_plugin

    print(new_plugin(options.name, options.new_name, options.dir or Path()))
    return 0
