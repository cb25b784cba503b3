"""``adkit run``: carry out recipes."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.exits import EXIT_FAULT, EXIT_USER, complain
from adkit.cli.options import RECIPE, add_set, parse_first
from adkit.cli.streams import say_lines, show
from adkit.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adkit.cli.options import Commands
    from adkit.recipe.reader import Recipe
    from adkit.recipe.sweep import Sweep
    from adkit.report.report import Report
    from adkit.runner.sweep import Swept


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("run", help="carry out recipes and leave a folder with the report of each")
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help=RECIPE)
    add_set(parser)
    parser.add_argument("--output", metavar="DIR", help="folder of the runs (default: the recipe's, else runs)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CATEGORY",
        help="run this category or class alone; may be given several times",
    )
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--quiet", action="store_true", help="show no progress, and of the result where the report lies")
    told.add_argument("--json", action="store_true", help="print report.json instead of tables, a line for each run")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    again.add_argument("--fresh", action="store_true", help="start over, whatever an interrupted run had finished")
    parser.set_defaults(command=run_recipes)


def run_recipes(options: argparse.Namespace) -> int:
    for path in options.recipes:
        parse_first(path)

    from adkit.plugin.registry import discover
    from adkit.recipe.reader import read_recipe
    from adkit.recipe.sweep import sweep_of
    from adkit.runner.folder import Interrupted, RunFault, refuse_interrupted
    from adkit.runner.run import run, run_path
    from adkit.runner.sweep import points_of, run_sweep
    from adkit.utils.progress import Display

    registry = discover()
    problems: list[str] = []
    recipes = []
    sweeps: dict[str, tuple[Sweep, list[Recipe]]] = {}
    for path in options.recipes:
        try:
            recipe = read_recipe(Path(path), options.overrides, registry)
            recipes.append(recipe)
            if sweep := sweep_of(recipe.document):
                sweeps[recipe.run.name] = sweep, points_of(recipe, sweep, Path(path), options.overrides)
        except UserError as error:
            problems += error.problems
    names = [recipe.run.name for recipe in recipes]
    problems += [
        f"{recipe.path}: run.name: expected a name of its own, found {name!r}, which an earlier recipe has; "
        "set [run] name"
        for index, (recipe, name) in enumerate(zip(recipes, names, strict=True))
        if name in names[:index]
    ]
    if problems:
        raise UserError(problems)

    status = 0
    interrupted: Interrupted = "resume" if options.resume else "fresh" if options.fresh else "ask"
    if interrupted == "ask" and len(recipes) > 1:  # before the first of them begins
        for recipe in recipes:
            refuse_interrupted(run_path(recipe, options.output))
    for recipe in recipes:
        try:
            if recipe.run.name in sweeps:
                sweep, points = sweeps[recipe.run.name]
                displays = partial(Display, quiet=options.quiet)
                swept = run_sweep(recipe, sweep, points, options.output, displays, interrupted, options.only)
                status = status or _show_sweep(swept, options)
                continue
            display = Display(quiet=options.quiet)
            report = run(recipe, output=options.output, display=display, interrupted=interrupted, only=options.only)
        except UserError as error:
            complain(error)
            status = status or EXIT_USER
        except RunFault as fault:
            say_lines(f"{fault}; the traceback is in {fault.log}")
            status = EXIT_FAULT
        else:
            if options.json:
                show(report.as_json())
            else:
                _show(report, options.quiet)
    return status


def _show(report: Report, quiet: bool) -> None:
    if not quiet:
        _show_figures(report)
    show(f"report: {Path(report.folder) / 'report.html'}")


def _show_figures(report: Report) -> None:
    from adkit.cli.streams import print_tables
    from adkit.report.tables import kinds_table, metrics_table, suspects, thresholds_table

    tables = (metrics_table(report), kinds_table(report), thresholds_table(report))
    print_tables(table for table in tables if table is not None)
    if tables[0] is None:
        show(
            "no AUROC and the like: they take test images of both kinds; see the warnings above, which report.json has "
            "too"
        )
    if found := suspects(Path(report.folder) / "scores.csv"):
        show("normal images that look most anomalous, and the share of the anomalous ones that they score above:")
        for image, share in found:
            show(f"  {image}  {share:.0%}")


def _show_sweep(swept: Swept, options: argparse.Namespace) -> int:
    """Show a sweep's ranking, and give the exit status."""
    from adkit.cli.streams import print_tables
    from adkit.runner.sweep import FILE, PAGE, summary

    if options.json:
        show(swept.as_json())
    else:
        if not options.quiet:
            print_tables([_ranking(swept)])
            show(summary(swept))
        page = swept.folder / PAGE
        show(f"sweep: {page if page.exists() else swept.folder / FILE}")
    failed = [one for one in swept.points if one.problem is not None]
    return EXIT_FAULT if any(one.fault for one in failed) else EXIT_USER if failed else 0


def _ranking(swept: Swept) -> Table:
    from rich.table import Table
    from rich.text import Text

    from adkit.utils.escapes import harmless
    from adkit.utils.text import toml_value

    table = Table(title="points", title_justify="left")
    for head in (*swept.points[0].values, "drawn defects\nAUROC", "image\nAUROC", "pixel\nAUPRO", "seconds"):
        table.add_column(head, justify="right")

    def shown(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else "–"

    for one in swept.points:
        cells = [toml_value(value) for value in one.values.values()]
        if one.report is None:
            cells += ["failed", "", "", ""]
        else:
            mean, seconds = one.report.mean, sum(one.report.timings.values())
            cells += [shown(one.figure("synthetic")), shown(mean["image_auroc"]), shown(mean["pixel_aupro"])]
            cells.append(f"{seconds:.0f}")
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    return table
