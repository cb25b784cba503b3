"""``adkit report``: the page of a run, made again of what its folder has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.streams import open_page, show

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("report", help="write the page of a finished run again, and open it")
    parser.add_argument("run", metavar="RUN", help="folder that adkit run left, such as runs/quickstart")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(command=report_run)


def report_run(options: argparse.Namespace) -> int:
    from adkit.report.page.page import remake_page

    page = remake_page(Path(options.run)).absolute()
    show(f"report: {page}")
    if options.open:
        open_page(page)
    return 0
