"""The arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


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
