"""How a command ends: its exit statuses, and how it reports bad input."""

from __future__ import annotations

from adkit.cli.streams import say
from adkit.errors import UserError

EXIT_FAULT, EXIT_USER, EXIT_ANOMALY, EXIT_UNREADABLE = 1, 2, 3, 4
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
"""The exit statuses of a run that Ctrl-C or SIGTERM ended."""


def complain(error: UserError) -> None:
    """Write each problem on a line of its own to standard error."""
    for problem in error.problems:
        say(problem)
