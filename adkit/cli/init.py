"""``adkit init``: a first recipe for a folder of images."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.streams import show
from adkit.errors import UserError

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("init", help="look at a folder of images and write a first recipe for it")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the images are, or a csv or npz file")
    parser.add_argument("--recipe", metavar="FILE", type=Path, help="the recipe to write (default: FOLDER's name.toml)")
    parser.add_argument("--quick", action="store_true", help="do not look for near copies, which takes features")
    parser.set_defaults(command=write_first_recipe)


def write_first_recipe(options: argparse.Namespace) -> int:
    whole = options.folder.absolute()
    recipe = options.recipe or Path(f"{(whole.stem if whole.is_file() else whole.name) or 'images'}.toml")
    if recipe.exists():
        raise UserError(f"{recipe}: expected no such file yet, found one: remove it, or name another by --recipe")

    import tomllib

    from adkit.cli.check import check
    from adkit.init.draft import draft
    from adkit.utils.atomic import whole_file

    found = draft(options.folder, copies=not options.quick)
    check(tomllib.loads(found.text))
    try:
        with whole_file(recipe) as written:
            written.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{recipe}: expected that a recipe can be written there, found: {error.strerror}") from error
    for line in found.found:
        show(f"found: {line}")
    for line in found.doubts:
        show(f"doubt: {line}")
    quoted = shlex.quote(str(recipe))
    show(f"wrote {recipe}, which adkit check finds in order\n  adkit check {quoted}\n  adkit run {quoted}")
    return 0
