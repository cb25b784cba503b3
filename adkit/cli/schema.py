"""``adkit schema``: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from adkit.cli.streams import show

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("schema", help="print the JSON Schema of recipes, for editors")
    parser.set_defaults(command=print_schema)


def print_schema(options: argparse.Namespace) -> int:
    import json

    from adkit.plugin.registry import discover
    from adkit.recipe.schema import recipe_schema

    show(json.dumps(recipe_schema(discover()), indent=2))
    return 0
