"""The arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adkit.cli.streams import say

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

RECIPE: Final = (
    "a TOML file, with or without its .toml, or else the name of a recipe that ships with adkit, such as padim or "
    "papers/spade-mvtec (adkit recipes lists them)"
)
"""What a recipe's argument may be."""


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, for commands that read a recipe."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe, such as scorer.k=5 or 'extractor.levels=[\"layer1\"]'; may be repeated",
    )


def parse_first(recipe: str) -> None:
    """Refuse a recipe that is not TOML before torch is imported, and say so where it is one that ships with adkit."""
    from adkit.recipe.document import parse_toml
    from adkit.recipe.shipped import ShippedRecipe, find_recipe

    parse_toml(recipe)
    found = find_recipe(Path(recipe))
    if isinstance(found, ShippedRecipe):
        say(f"{found.name}: the recipe that ships with adkit; adkit recipes {found.name} prints it, --set changes it")
