"""``adkit plugins``: the components that are installed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("plugins", help="list the components that are installed, or explain one")
    parser.add_argument("kind", nargs="?", metavar="KIND", help="extractor, adapter, scorer, localizer or stopper")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a component of that kind")
    parser.set_defaults(command=show_plugins)


def show_plugins(options: argparse.Namespace) -> int:
    from adkit.plugin.registry import discover
    from adkit.recipe.reference import plugins_text

    print(plugins_text(discover(), options.kind, options.name))
    return 0
