"""``adkit cache``: what is kept between runs, and how much room it takes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.streams import show
from adkit.errors import UserError
from adkit.utils.text import counted

if TYPE_CHECKING:
    from adkit.cli.options import Commands

EPILOG = """Features of images (features), whether they depend on the batch that an image comes in (probes), networks as
other runtimes are given them (runtimes), what stages of trainings gave (stages) and Fisher information (fisher) are
kept, so that runs after the first need not compute them again. ADKIT_CACHE names another folder, ADKIT_CACHE_GB how
much features and runtimes may take (10; 0: none are kept). What was used longest ago goes first."""
_OURS = re.compile(r"[0-9a-f]{64}\.(safetensors|zip)")
"""The names of what is kept; but for what is being written, nothing else in the folder is touched."""


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("cache", help="show what is kept between runs, or remove it", epilog=EPILOG)
    parser.add_argument("--clear", action="store_true", help="remove it all; runs that read it compute it again")
    parser.set_defaults(command=show_cache)


def show_cache(options: argparse.Namespace) -> int:
    from adkit.toolkit.cache import cache_folder

    folder = cache_folder()
    for kind, files in _kept(folder).items():
        sizes = [path.stat().st_size for path in files if path.exists()]
        show(f"{kind:<10} {counted(len(sizes), 'file'):>12}  {sum(sizes) / 1e6:>10,.1f} MB")
        if options.clear:
            for path in files:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise UserError(f"{path}: expected that it can be removed, found: {error.strerror}") from error
    show(f"{'removed from ' if options.clear else ''}{folder}")
    return 0


def _kept(folder: Path) -> dict[str, list[Path]]:
    """Kind → the files that adkit writes, those of processes that are writing among them."""
    from adkit.utils.atomic import is_draft

    def is_ours(path: Path) -> bool:
        return _OURS.fullmatch(path.name) is not None or is_draft(path)

    kinds = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {kind.name: sorted(path for path in kind.iterdir() if is_ours(path)) for kind in kinds}
    return {kind: files for kind, files in found.items() if files}
