"""What a run wrote into its ``scores.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from adkit import Report


def rows(run: Report | Path | str, **wanted: str) -> list[dict[str, str]]:
    """The rows whose columns have the values that are wanted, in their order; all rows where nothing is.

    Args:
        run: its report, or its folder.
    """
    folder = Path(run.folder if isinstance(run, Report) else run)
    with (folder / "scores.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


def scores(run: Report | Path | str, split: str = "test", **wanted: str) -> dict[str, np.float32]:
    """Image → its raw score, of the rows of a split."""
    return {row["id"]: np.float32(row["score"]) for row in rows(run, split=split, **wanted)}
