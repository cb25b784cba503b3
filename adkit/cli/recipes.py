"""``adkit recipes``: the recipes that ship with adkit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from adkit.cli.streams import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """The command and its arguments."""
    parser = commands.add_parser("recipes", help="list the recipes that ship with adkit, or print one")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe of the list, such as padim")
    parser.set_defaults(command=show_recipes)


def show_recipes(options: argparse.Namespace) -> int:
    from adkit.recipe.shipped import shipped_recipe

    if options.name is None:
        show("\n".join(_overview()))
    else:
        show(shipped_recipe(options.name).read_text().rstrip("\n"))
    return 0


def _overview() -> Iterator[str]:
    """Each recipe with what it does."""
    from adkit.recipe.shipped import PAPERS, shipped_recipes

    recipes = shipped_recipes()
    published = [recipe for recipe in recipes if recipe.name.startswith(f"{PAPERS}/")]
    methods = [recipe for recipe in recipes if recipe not in published]
    for title, group in (
        ("recipes: one for each method", methods),
        ("papers: one for each published row that is reproduced", published),
    ):
        width = max(len(recipe.name) for recipe in group)
        yield title
        yield from (f"  {recipe.name:<{width}}  {recipe.summary}" for recipe in group)
        yield ""
    yield "adkit run NAME carries one out; adkit recipes NAME prints it, to read or to copy."
