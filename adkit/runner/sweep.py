"""A sweep: one run per point of a grid of settings, ranked, and compared on a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from adkit.errors import UserError
from adkit.recipe.reader import Recipe, read_recipe
from adkit.recipe.sweep import SWEEP, Sweep, overrides_of
from adkit.report.compare.comparison import compare
from adkit.report.compare.page import write_comparison
from adkit.report.finished import read_report
from adkit.report.report import Report
from adkit.runner.folder import Interrupted, RunFault, keep_aside
from adkit.runner.run import run, run_path
from adkit.utils.atomic import whole_file
from adkit.utils.progress import Display
from adkit.utils.text import counted, toml_value

SCHEMA: Final = "adkit.sweep/1"
FILE: Final = "sweep.json"
PAGE: Final = "comparison.html"
COMPARED: Final = 6
"""The points at the top of the ranking that the page compares."""
THUMBNAILS: Final = 48
"""Test images that the page of a point shows, where the recipe does not say: it is the comparison that is looked at."""
_BEGUN: Final = ".begun"
"""The file that is in the folder of a sweep until it has ended."""


@dataclass(frozen=True)
class Point:
    """A point of a sweep with its run."""

    name: str
    """Of the folder of its run in that of the sweep."""
    values: dict[str, Any]
    """Dotted key → value."""
    report: Report | None
    """None where it failed."""
    problem: str | None
    """Why it failed."""
    fault: bool = False
    """Whether it failed by a fault of a plugin or of adkit, not by bad input."""

    def figure(self, by: str) -> float | None:
        """What it is ranked by."""
        if self.report is None:
            return None
        if by == "test":
            value = self.report.mean["image_auroc"]
            return value if isinstance(value, float) else None
        known = [c.synthetic_auroc for c in self.report.categories.values() if c.synthetic_auroc is not None]
        return fmean(known) if known else None


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    folder: Path
    rank_by: str
    points: list[Point]
    """The best first; those that failed last."""

    def as_json(self) -> str:
        """What ``sweep.json`` has."""
        points = [
            {
                "name": one.name,
                "values": one.values,
                self.rank_by: one.figure(self.rank_by),
                "image_auroc": None if one.report is None else one.report.mean["image_auroc"],
                "problem": one.problem,
            }
            for one in self.points
        ]
        return json.dumps({"schema": SCHEMA, "rank_by": self.rank_by, "points": points}, indent=2, allow_nan=False)


def points_of(recipe: Recipe, sweep: Sweep, source: Path | Mapping[str, Any], overrides: Sequence[str]) -> list[Recipe]:
    """Read the recipe of every point; raises UserError with what any of them refuses."""
    problems: dict[str, None] = {}
    points = []
    few = [] if "thumbnails" in recipe.document.values.get("run", {}) else [f"run.thumbnails={THUMBNAILS}"]
    for number, point in enumerate(sweep.points(recipe.run.seed)):
        name = f"run.name={toml_value(_name(number + 1, point))}"
        try:
            one = read_recipe(source, [*few, *overrides, *overrides_of(point), name])
            without = {key: table for key, table in one.document.values.items() if key != SWEEP}
            points.append(replace(one, document=replace(one.document, values=without)))
        except UserError as error:
            problems |= dict.fromkeys(error.problems)
    if sweep.rank_by == "synthetic" and any(one.run.synthetic == 0 for one in points):
        advice = 'set it, or sweep.rank_by = "test"'
        problems[f"run.synthetic: expected a number above 0, by which points are ranked, found 0: {advice}"] = None
    if problems:
        raise UserError(problems)
    return points


def run_sweep(
    recipe: Recipe,
    sweep: Sweep,
    points: Sequence[Recipe],
    output: str | Path | None = None,
    display: Callable[[], Display] = lambda: Display(quiet=True),
    interrupted: Interrupted = "ask",
    only: Sequence[str] = (),
) -> Swept:
    """Carry out every point and leave ``<output>/<name>/`` with a folder per point, ``sweep.json`` and a page.

    A point that fails does not end the sweep. One that was interrupted goes on where it was, and points whose runs are
    there are not run again.

    Args:
        recipe: the recipe with the sweep.
        points: as ``points_of`` gives them.
        display: makes the display of a run.
        interrupted: as ``run`` has it, of the sweep.

    Raises:
        UserError: an interrupted sweep is there and ``interrupted`` is ``ask``, or the folder cannot be written.
    """
    folder = run_path(recipe, output)
    begun = folder / _BEGUN
    if begun.exists() and interrupted == "ask":
        raise UserError(
            f"{folder}: a sweep of this name was interrupted: go on with --resume, or start over with --fresh (from "
            'Python: interrupted="resume" or "fresh")'
        )
    if not (begun.exists() and interrupted == "resume"):
        keep_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun.touch()
    values = sweep.points(recipe.run.seed)
    done = [_carried_out(one, point, folder, display(), only) for one, point in zip(points, values, strict=True)]
    ranked = sorted(done, key=lambda one: (one.problem is not None, -(one.figure(sweep.rank_by) or 0.0), one.name))
    swept = Swept(folder, sweep.rank_by, ranked)
    with whole_file(folder / FILE) as draft:
        draft.write_text(swept.as_json() + "\n", encoding="utf-8")
    best = [folder / one.name for one in ranked if one.problem is None][:COMPARED]
    if len(best) > 1:
        try:
            write_comparison(compare(best), folder / PAGE)
        except UserError as error:  # points that were tested on other images
            display().say(f"{folder}: there is no page: {error}")
    begun.unlink()
    return swept


def _carried_out(recipe: Recipe, point: dict[str, Any], folder: Path, display: Display, only: Sequence[str]) -> Point:
    name = recipe.run.name
    final = folder / name
    display.say(f"{name}: {', '.join(overrides_of(point))}")
    if (final / "report.json").exists():
        return Point(name, point, read_report(final), None)
    try:
        return Point(name, point, run(recipe, output=folder, display=display, interrupted="resume", only=only), None)
    except (UserError, RunFault) as error:
        display.say(f"{name}: failed: {error}")
        return Point(name, point, None, str(error), isinstance(error, RunFault))


def _name(number: int, point: dict[str, Any]) -> str:
    """A folder's name that says where the point is: ``003_k=5_levels=blocks.2-blocks.4``."""
    told = "_".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
    return f"{number:03}_{re.sub(r'[^A-Za-z0-9.=_+-]+', '-', told).strip('-')[:80]}"


def summary(swept: Swept) -> str:
    """What is to be said of a sweep under its table."""
    failed = sum(one.problem is not None for one in swept.points)
    told = f"{counted(len(swept.points), 'point')}, ranked by "
    told += (
        "the AUROC of drawn defects, in which no test image took part"
        if swept.rank_by == "synthetic"
        else "the test itself: the figures of the best are better than those of new images will be"
    )
    return told + (f"; {failed:,} failed" if failed else "")
