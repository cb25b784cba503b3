"""The recipes that ship with adkit, and which recipe an argument means: a file, or one of them by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from adkit.errors import UserError
from adkit.utils.environment import DISTRIBUTION
from adkit.utils.text import near

PACKAGE: Final = "adkit_recipes"
"""The folder ``recipes/`` of the repository, as it is installed."""

PAPERS: Final = "papers"
"""Its folder of recipes that reproduce published rows."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that ships with adkit; it answers what a reader of recipes asks of a path."""

    name: str
    """``padim``, or ``papers/spade-mvtec``."""

    def __str__(self) -> str:
        return f"{self.name}.toml (shipped with adkit)"

    @property
    def stem(self) -> str:
        """The name without its folder, which a run of it is called by default."""
        return self.name.rpartition("/")[2]

    @property
    def summary(self) -> str:
        """What it does, in the sentence that is the first line of its comment."""
        comments = (line for line in self.read_text().splitlines() if line.startswith("# "))
        return next(comments).removeprefix("# ")

    def read_bytes(self) -> bytes:
        return _folder().joinpath(f"{self.name}.toml").read_bytes()

    def read_text(self) -> str:
        return self.read_bytes().decode()


def shipped_recipes() -> list[ShippedRecipe]:
    """Every recipe that ships with adkit, by name; those of papers last.

    Raises:
        UserError: adkit was not installed with its recipes.
    """
    return [
        *map(ShippedRecipe, _stems(_folder())),
        *(ShippedRecipe(f"{PAPERS}/{stem}") for stem in _stems(_folder().joinpath(PAPERS))),
    ]


def shipped_recipe(name: str) -> ShippedRecipe:
    """The recipe of a name.

    Raises:
        UserError: none that ships with adkit has it.
    """
    if (recipe := ShippedRecipe(name)) not in shipped_recipes():
        raise UserError(_not_there(Path(name), {}))
    return recipe


def find_recipe(path: Path) -> Path | ShippedRecipe:
    """The recipe that an argument means: a file, with or without its ``.toml``, or else one that ships with adkit.

    Where there is none, it is ``path`` itself, and reading it says why.
    """
    for file in (path, Path(f"{path}.toml")):
        if os.path.isfile(file):
            return file
    recipe = ShippedRecipe(path.as_posix())
    return recipe if recipe in shipped_recipes() else path


def no_such_recipe(path: Path) -> str:
    """The sentence on a path that leads to no recipe, with what it may have meant."""
    return _not_there(path, {file.stem: file.name for file in path.parent.glob("*.toml")})


def _not_there(path: Path, beside: Mapping[str, str]) -> str:
    """The sentence on what is neither a file of ``beside``, stem → name, nor the name of a shipped recipe."""
    options = {recipe.name: recipe.name for recipe in shipped_recipes()} | dict(beside)
    # Whoever knows a recipe from the repository calls it by its path there.
    wanted = path.as_posix().removesuffix(".toml").rpartition("recipes/")[2]
    matches = near(wanted, options) or near(wanted.rpartition("/")[2], options)
    hint = f" (did you mean {options[matches[0]]}?)" if matches else ""
    listed = "" if matches and matches[0] in beside else "; adkit recipes lists those that ship with adkit"
    return f"{path}: no such recipe{hint}{listed}"


def _folder() -> Traversable:
    try:
        return files(PACKAGE)
    except ModuleNotFoundError:
        raise UserError(
            f"{PACKAGE}: expected the recipes that ship with adkit, found no such package: install adkit with pip, "
            f"which brings them: pip install {DISTRIBUTION}"
        ) from None


def _stems(folder: Traversable) -> list[str]:
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
