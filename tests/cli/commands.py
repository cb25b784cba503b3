"""The ``adkit`` command: called in this process, which has paid for its imports, or in a process of its own."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from adkit.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def adkit(*arguments: object, cwd: str | Path = ".", input: str = "") -> Done:
    """The command line given to ``main`` in this process; what a shell would see of it."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), patch("sys.stdin", io.StringIO(input)):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # of argparse
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(status, out.getvalue(), err.getvalue())


def adkit_process(*arguments: object, **options: Any) -> Done:
    """The same command in a process of its own, where seconds go into imports."""
    done = subprocess.run(
        [sys.executable, "-m", "adkit", *map(str, arguments)], capture_output=True, text=True, **options
    )
    return Done(done.returncode, done.stdout, done.stderr)


SLOW_START = (
    "import what is heavy inside the command's function, as CONTRIBUTING.md, 'Add an option of a command', says"
)
"""What to do when a command that must start at once does not."""
BOTH = pytest.mark.parametrize(
    "command", [adkit, pytest.param(adkit_process, marks=pytest.mark.slow)], ids=["here", "in a process"]
)
"""For the main thing that a command does: quickly in every run, and in CI as a user has it."""
