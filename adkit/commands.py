"""What each subcommand does with its arguments. What imports torch is imported by the command that needs it."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.errors import UserError

if TYPE_CHECKING:
    from adkit.report.report import Report

EXIT_FAULT, EXIT_USER, EXIT_ANOMALY, EXIT_UNREADABLE = 1, 2, 3, 4


def run_recipes(options: argparse.Namespace) -> int:
    from adkit.recipe.document import parse_toml

    for path in options.recipes:  # a file that is not TOML is told before torch is imported
        parse_toml(Path(path))

    from adkit.plugin.registry import discover
    from adkit.recipe.reader import read_recipe
    from adkit.runner.folder import Interrupted, RunFault, refuse_interrupted
    from adkit.runner.run import run, run_path
    from adkit.utils.progress import Display

    registry = discover()
    problems: list[str] = []
    recipes = []
    for path in options.recipes:
        try:
            recipes.append(read_recipe(Path(path), options.overrides, registry))
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
            report = run(recipe, output=options.output, display=Display(), interrupted=interrupted, only=options.only)
        except UserError as error:
            complain(error)
            status = status or EXIT_USER
        except RunFault as fault:
            print(f"adkit: internal fault: {fault}; the traceback is in {fault.log}", file=sys.stderr)
            status = EXIT_FAULT
        else:
            _show(report)
    return status


def _show(report: Report) -> None:
    from rich.console import Console

    from adkit.report.tables import metrics_table, thresholds_table

    console = Console()
    for table in (metrics_table(report), thresholds_table(report)):
        if table is not None:  # wider than a narrow terminal rather than with its figures cut off
            console.width = max(
                Console().width, console.measure(table, options=console.options.update(width=500)).maximum
            )
            console.print(table)
    if metrics_table(report) is None:
        print("nothing was measured: see the warnings above, which report.json has too")
    print(f"report: {Path(report.folder) / 'report.json'}")


def check_recipe(options: argparse.Namespace) -> int:
    from adkit.recipe.document import parse_toml

    parse_toml(Path(options.recipe))

    from adkit.check import check

    print(check(Path(options.recipe), options.overrides))
    return 0


def predict_pictures(options: argparse.Namespace) -> int:
    if options.watch and options.fail_on_anomaly:
        raise UserError(
            "--fail-on-anomaly: expected a prediction that ends by itself, found --watch; leave one of them out and "
            "read the rows, which are written as the pictures come"
        )

    from adkit.detector.detector import Detector
    from adkit.predict.predict import find_pictures, heatmaps_of, predict, watch
    from adkit.predict.rows import listed_rows, writing
    from adkit.predict.watch import Watcher, stopping

    detector = Detector.load(options.detector, options.device)
    if options.fail_on_anomaly and detector.threshold is None:
        raise UserError(
            f"{options.detector}: --fail-on-anomaly expects a detector with a threshold, found one without: run its "
            "recipe with data.calibration above 0"
        )
    heatmaps = heatmaps_of(detector, options.detector, options.output, options.paths) if options.heatmaps else None
    without = None if heatmaps is None else heatmaps.folder
    total = anomalous = unreadable = 0
    with ExitStack() as stack:
        if options.watch:
            stop = stack.enter_context(stopping())
            listed = listed_rows(options.output, jsonl=options.jsonl) if options.output else None
            rows = watch(detector, Watcher(options.paths, _say, listed=listed, without=without), stop, heatmaps)
        else:
            rows = predict(detector, find_pictures(options.paths, sys.stdin, without), heatmaps)
        write = stack.enter_context(writing(options.output, jsonl=options.jsonl, append=options.watch))
        for row in rows:
            write(row)
            total += 1
            anomalous += bool(row.anomalous)
            unreadable += row.score is None
            if row.error is not None:
                _say(row.error if row.score is None else f"{row.path}: {row.error}")
    _say(f"{total} pictures, {anomalous} anomalous, {unreadable} unreadable")
    if not options.fail_on_anomaly:
        return 0
    return EXIT_ANOMALY if anomalous else EXIT_UNREADABLE if unreadable else 0


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def export_detector(options: argparse.Namespace) -> int:
    from adkit.export.export import export, summary, warning
    from adkit.predict.predict import find_pictures

    pictures = list(find_pictures(options.pictures, sys.stdin))
    done = export(options.detector, options.format, options.output, pictures, options.device)
    if text := warning(done):
        print(f"warning: {text}", file=sys.stderr)
    print(summary(done))
    return 0


def show_plugins(options: argparse.Namespace) -> int:
    from adkit.plugin.registry import discover
    from adkit.recipe.reference import plugins_text

    print(plugins_text(discover(), options.kind, options.name))
    return 0


def print_schema(options: argparse.Namespace) -> int:
    import json

    from adkit.plugin.registry import discover
    from adkit.recipe.schema import recipe_schema

    print(json.dumps(recipe_schema(discover()), indent=2))
    return 0


def complain(error: UserError) -> None:
    for problem in error.problems:
        print(problem, file=sys.stderr)
