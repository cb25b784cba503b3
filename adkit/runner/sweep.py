"""A sweep: one run per point of a grid of settings, ranked, and compared on a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import tomli_w

from adkit.data.dataset import open_dataset
from adkit.errors import UserError
from adkit.inference.assemble import assemble
from adkit.plugin.registry import discover
from adkit.recipe.reader import Recipe, read_recipe, resolved
from adkit.recipe.sweep import SWEEP, Sweep, overrides_of
from adkit.report.finished import read_report
from adkit.report.report import Report
from adkit.runner.fingerprint import Fingerprint
from adkit.runner.folder import Interrupted, RunFault, keep_aside, only_run
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
    points, registry = [], discover()
    few = [] if "thumbnails" in recipe.document.values.get("run", {}) else [f"run.thumbnails={THUMBNAILS}"]
    for number, point in enumerate(sweep.points(recipe.run.seed)):
        name = f"run.name={toml_value(_name(number + 1, point))}"
        try:
            one = read_recipe(source, [*few, *overrides, *overrides_of(point), name], registry)
            points.append(replace(one, document=replace(one.document, values=_without_sweep(one))))
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_run(folder):
        _take_up(folder, _about(recipe, only), interrupted)
        return _carry_out(folder, sweep, list(zip(points, sweep.points(recipe.run.seed), strict=True)), display, only)


def _about(recipe: Recipe, only: Sequence[str]) -> dict[str, Any]:
    """What every point depends on: the fingerprint of the recipe itself."""
    plain = replace(recipe, document=replace(recipe.document, values=_without_sweep(recipe)))
    with plain.document.locating("data", type(plain.data).model_fields):
        dataset = open_dataset(plain.data, plain.run.seed, plain.threshold.parts)
    fingerprint = Fingerprint.of(assemble(plain), dataset)
    return {"only": list(only), "fingerprint": fingerprint.model_dump(mode="json")}


def _without_sweep(recipe: Recipe) -> dict[str, Any]:
    return {key: table for key, table in recipe.document.values.items() if key != SWEEP}


def _take_up(folder: Path, about: dict[str, Any], interrupted: Interrupted) -> None:
    """Make the folder, or take up that of an interrupted sweep; raises UserError."""
    begun = folder / _BEGUN
    start_over = 'start over with --fresh (from Python: interrupted="resume" or "fresh")'
    if begun.exists() and interrupted == "ask":
        raise UserError(f"{folder}: a sweep of this name was interrupted: go on with --resume, or {start_over}")
    if begun.exists() and interrupted == "resume":
        try:
            before = json.loads(begun.read_text(encoding="utf-8"))
            changes = Fingerprint.model_validate(before["fingerprint"]).differences(
                Fingerprint.model_validate(about["fingerprint"])
            )
            changes += ["--only changed"] * (before["only"] != about["only"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{begun}: expected what a sweep left, found a damaged file: {start_over}") from error
        if changes:
            raise UserError(f"{folder}: the interrupted sweep cannot go on, since {'; '.join(changes)}: {start_over}")
        return
    keep_aside(folder)
    folder.mkdir(parents=True)
    with whole_file(begun) as draft:
        draft.write_text(json.dumps(about), encoding="utf-8")


def _carry_out(
    folder: Path,
    sweep: Sweep,
    points: Sequence[tuple[Recipe, dict[str, Any]]],
    display: Callable[[], Display],
    only: Sequence[str],
) -> Swept:
    done = [_carried_out(one, point, folder, display(), only) for one, point in points]

    def place(one: Point) -> tuple[bool, bool, float, str]:
        figure = one.figure(sweep.rank_by)
        return one.problem is not None, figure is None, -(figure or 0.0), one.name

    ranked = sorted(done, key=place)
    swept = Swept(folder, sweep.rank_by, ranked)
    with whole_file(folder / FILE) as draft:
        draft.write_text(swept.as_json() + "\n", encoding="utf-8")
    best = [folder / one.name for one in ranked if one.problem is None][:COMPARED]
    if len(best) > 1:
        try:
            # Imported here, not by every run, since scipy.stats takes half a second.
            from adkit.report.compare.comparison import compare
            from adkit.report.compare.page import write_comparison

            write_comparison(compare(best), folder / PAGE)
        except UserError as error:  # points that were tested on other images
            display().say(f"{folder}: there is no page: {error}")
    (folder / _BEGUN).unlink()
    return swept


def _carried_out(recipe: Recipe, point: dict[str, Any], folder: Path, display: Display, only: Sequence[str]) -> Point:
    name = recipe.run.name
    final = folder / name
    display.say(f"{name}: {', '.join(overrides_of(point))}")
    if _is_done(final, recipe):
        return Point(name, point, read_report(final), None)
    try:
        return Point(name, point, run(recipe, output=folder, display=display, interrupted="resume", only=only), None)
    except (UserError, RunFault) as error:
        display.say(f"{name}: failed: {error}")
        return Point(name, point, None, str(error), isinstance(error, RunFault))


def _is_done(final: Path, recipe: Recipe) -> bool:
    """Whether the run of a point is there, of the same recipe."""
    try:
        written = (final / "recipe.toml").read_text(encoding="utf-8")
    except OSError:
        return False
    return (final / "report.json").exists() and written == tomli_w.dumps(resolved(recipe))


def _name(number: int, point: dict[str, Any]) -> str:
    """A folder's name that says where the point is: ``003_k=5_levels=blocks.2-blocks.4``."""
    told = "_".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
    return f"{number:03}_{re.sub(r'[^A-Za-z0-9.=_+-]+', '-', told).strip('-')[:80]}"


def summary(swept: Swept) -> str:
    """What is to be said of a sweep under its table."""
    failed = sum(one.problem is not None for one in swept.points)
    told = counted(len(swept.points), "point")
    if all(one.figure(swept.rank_by) is None for one in swept.points):
        why = "held-out normal images to draw on" if swept.rank_by == "synthetic" else "test images of both kinds"
        told += f", not ranked, since none has {why}"
    elif swept.rank_by == "synthetic":
        told += ", ranked by the AUROC of drawn defects, in which no test image took part"
    else:
        told += ", ranked by the test itself: the figures of the best are better than those of new images will be"
    return told + (f"; {failed:,} failed" if failed else "")
