"""``adkit compare``: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.streams import open_page, show
from adkit.errors import UserError

if TYPE_CHECKING:
    from adkit.cli.options import Commands

EPILOG = """A difference is of image AUROC, over the images that all runs were tested on. Its 95% interval is DeLong's
for one category without groups, else by resamples of whole groups of images, in pairs. One that has 0 in it
is no difference."""


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("compare", help="show runs side by side, and where they disagree", epilog=EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that adkit run left; the first is the baseline")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--format", choices=("csv", "markdown", "latex"), help="print the table of the runs, and no more"
    )
    shown.add_argument("--page", type=Path, metavar="FILE", help="write a page as well, with the images in question")
    parser.add_argument("--open", action="store_true", help="open the page, by default comparison.html, in the browser")
    parser.set_defaults(command=compare_runs)


def compare_runs(options: argparse.Namespace) -> int:
    from adkit.cli.streams import print_tables
    from adkit.report.compare.comparison import compare
    from adkit.report.compare.tables import terminal_tables, written

    if options.format and options.open:
        raise UserError("--open: expected without --format, which prints a table and makes no page: leave one out")
    found = compare(options.runs)
    if options.format:
        show(written(found, options.format).rstrip("\n"))
        return 0
    print_tables(terminal_tables(found))
    for note in found.notes:
        show(f"note: {note}")
    if options.page is not None or options.open:
        from adkit.report.compare.page import write_comparison

        page = write_comparison(found, options.page or Path("comparison.html")).absolute()
        show(f"page: {page}")
        if options.open:
            open_page(page)
    return 0
