"""Finished runs: what their folders hold, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adkit.errors import UserError
from adkit.metrics import METRICS
from adkit.report.report import Report

AGAIN: Final = "run its recipe again"
"""What to do about a run whose files are not what they should be."""


def read_report(run: Path) -> Report:
    """Read the report of a finished run.

    Raises:
        UserError: there is no such run, it was not finished, or another version of adkit made it.
    """
    run = run.absolute()
    try:
        report = Report.load(run / "report.json")
        _require_metrics(report)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (run.parent / f".{run.name}.partial").exists():
            advice = "finish it first: adkit run RECIPE --resume"
            raise UserError(f"{run}: expected a finished run, found one that was interrupted; {advice}") from error
        raise UserError(
            f"{run}: expected the folder of a run, with report.json in it, found none: name one that adkit run left, "
            "such as runs/quickstart"
        ) from error
    except ValueError as error:  # pydantic's, and of bytes that are no text
        raise UserError(
            f"{run / 'report.json'}: expected a report of this version of adkit, found another one or a damaged file: "
            f"{AGAIN}"
        ) from error
    return report


def damaged_records(folder: Path) -> UserError:
    """What to say of a run whose records, in ``folder``, are not what its page is made of."""
    return UserError(f"{folder}: expected records of this version of adkit, found others or damaged files: {AGAIN}")


def _require_metrics(report: Report) -> None:
    """Raise ValueError unless a report has every metric wherever it has some."""
    tables: list[Mapping[str, object] | object] = [report.mean]
    if len(report.categories) > 1:
        tables.append(report.mean.get("sem"))
    for category in report.categories.values():
        tables += [category.metrics, *(kind.metrics for kind in category.kinds.values())]
    for table in tables:
        if not isinstance(table, Mapping) or not METRICS.keys() <= table.keys():
            raise ValueError("a table lacks metrics")
