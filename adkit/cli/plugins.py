"""``adkit plugins``: the components that are installed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.exits import EXIT_FAULT
from adkit.cli.streams import say, show
from adkit.errors import UserError

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser(
        "plugins",
        usage="adkit plugins [-h] [--third-party] [--json] [KIND [NAME]]\n"
        "       adkit plugins new KIND NAME [--dir DIR]",
        help="list the components that are installed, explain one, or begin a new one",
        description="List the components that are installed, explain one, or begin a new one.",
        epilog="exit status: 0, or 1 where the list has a broken plugin",
    )
    parser.add_argument("--third-party", action="store_true", help="leave out the components that adkit brings")
    parser.add_argument("--json", action="store_true", help="print JSON, with each component's parameters")
    parser.add_argument("kind", nargs="?", metavar="KIND", help="extractor, adapter, scorer, localizer or stopper")
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a component of that kind, such as knn or extra:knn; or a new one's name",
    )
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
    from adkit.recipe.reference import failures_of, plugins_json, plugins_text

    if options.third_party and options.name is not None:
        raise UserError(f"--third-party: expected a list, found the component {options.name!r}; leave one of them out")
    registry = discover()
    asked = (registry, options.kind, options.name)
    if options.json:
        show(json.dumps(plugins_json(*asked, third_party=options.third_party), indent=2, ensure_ascii=True))
    else:
        show(plugins_text(*asked, third_party=options.third_party))
    broken = [] if options.name is not None else failures_of(registry, third_party=options.third_party)
    if not broken:
        return 0
    say(f"adkit: broken: {', '.join(dict.fromkeys(str(failure.origin) for failure in broken))}")
    return EXIT_FAULT


def _new(options: argparse.Namespace) -> int:
    if options.new_name is None:
        raise UserError(
            "plugins new: expected a kind and a name, found less: name them, as in adkit plugins new scorer brightness"
        )
    from adkit.cli.new_plugin import new_plugin

    show(new_plugin(options.name, options.new_name, options.dir or Path()))
    return 0
