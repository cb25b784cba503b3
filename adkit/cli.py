"""The ``adkit`` command. Nothing that imports torch is imported before a subcommand needs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from adkit import __version__
from adkit.errors import PluginError, UserError

if TYPE_CHECKING:
    from adkit.report import Report

EXIT_FAULT, EXIT_USER, EXIT_ANOMALY, EXIT_UNREADABLE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 4, 130, 143

EXAMPLES = """examples:
  adkit run recipes/quickstart.toml
  adkit run recipes/dn2.toml --set data.root=my/pictures --set scorer.k=5
  adkit check my-recipe.toml
  adkit predict runs/quickstart/detector/brick new-pictures/
  adkit export runs/quickstart/detector/brick --format onnx
  adkit plugins scorer knn
"""

PREDICT_ROWS = """a row has: path; score (raw, higher is more anomalous); p_value (share of normal pictures that score
as high); anomalous (1 above the threshold); regions (boxes in pixels of the picture, as JSON); error.
exit status: 0 whatever was found, 2 bad input; with --fail-on-anomaly 3 when a picture is anomalous, else 4 when one
cannot be read.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status: 0 done, 1 internal fault, 2 bad input, 130 interrupted."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and (options.command is not _run or any(other.startswith("-") for other in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:  # recipes that stand behind an option
        options.recipes += others
    try:
        status: int = options.command(options)
    except UserError as error:
        _complain(error)
        return EXIT_USER
    except Terminated:
        print("adkit: terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("adkit: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except PluginError as error:
        traceback.print_exception(error)  # there is no run whose log could keep it
        print(f"adkit: internal fault: {error}", file=sys.stderr)
        return EXIT_FAULT
    except BrokenPipeError:  # the reader of our output has gone, as `adkit plugins | head` does
        sys.stderr.close()
        return 0
    return status


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def command() -> None:
    """The console script: ``main``, then exit with its status."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    status = main()
    if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        # CPython remembers an interrupt that passed through exec of a string (dataclasses, pydantic) as unhandled
        # and would die of the signal at exit, whatever status was asked for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adkit",
        description="Image anomaly detection from one short recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"adkit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="carry out recipes and leave a folder with the report of each")
    run.add_argument("recipes", nargs="+", metavar="RECIPE", help="a TOML file")
    _add_set(run)
    run.add_argument("--output", metavar="DIR", help="folder of the runs (default: the recipe's, else runs)")
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    again.add_argument("--fresh", action="store_true", help="start over, whatever an interrupted run had finished")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="validate a recipe, find its data, and say what a run would need")
    check.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    _add_set(check)
    check.set_defaults(command=_check)

    predict = commands.add_parser(
        "predict",
        help="score pictures with the detector that a run left",
        description="Score pictures with the detector that a run left, and write a row for each.",
        epilog=PREDICT_ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("detector", metavar="DETECTOR", help="a run's folder, or a detector folder inside it")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="pictures, folders, globs, or - for a list on stdin")
    predict.add_argument("--output", metavar="DIR", help="write predictions.csv there (default: standard output)")
    predict.add_argument("--jsonl", action="store_true", help="one JSON object a line instead of CSV")
    predict.add_argument(
        "--heatmaps", action="store_true", help="draw what was found over each picture, into DIR/heatmaps"
    )
    predict.add_argument(
        "--watch",
        action="store_true",
        help="follow folders as they are being filled, until Ctrl-C; with --output, continue its file of rows",
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    predict.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help="exit with status 3 when a picture is above the threshold, else 4 when one cannot be read",
    )
    predict.set_defaults(command=_predict)

    export = commands.add_parser("export", help="write a detector as a file of another runtime")
    export.add_argument("detector", metavar="DETECTOR", help="a run's folder, or a detector folder inside it")
    export.add_argument("--format", required=True, choices=("onnx", "openvino", "torchscript"))
    export.add_argument(
        "--output", metavar="DIR", help="folder to write (default: export and the format's name in the detector's)"
    )
    export.add_argument(
        "--pictures",
        nargs="+",
        default=(),
        metavar="PATH",
        help="pictures, folders or globs that the file is compared with the detector on (default: some photographs)",
    )
    export.add_argument("--device", default="auto", help="where the detector computes: auto, cpu, cuda, cuda:1 or mps")
    export.set_defaults(command=_export)

    plugins = commands.add_parser("plugins", help="list the components that are installed, or explain one")
    plugins.add_argument("kind", nargs="?", metavar="KIND", help="extractor, adapter, scorer, localizer or stopper")
    plugins.add_argument("name", nargs="?", metavar="NAME", help="a component of that kind")
    plugins.set_defaults(command=_plugins)

    schema = commands.add_parser("schema", help="print the JSON Schema of recipes, for editors")
    schema.set_defaults(command=_schema)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe, such as scorer.k=5 or 'extractor.levels=[\"layer1\"]'; may be repeated",
    )


def _run(options: argparse.Namespace) -> int:
    from adkit.document import parse_toml

    for path in options.recipes:  # a file that is not TOML is told before torch is imported
        parse_toml(Path(path))

    from adkit.folder import Interrupted, RunFault, refuse_interrupted
    from adkit.plugins import discover
    from adkit.progress import Display
    from adkit.recipe import read_recipe
    from adkit.runner import run, run_path

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
            report = run(recipe, output=options.output, display=Display(), interrupted=interrupted)
        except UserError as error:
            _complain(error)
            status = status or EXIT_USER
        except RunFault as fault:
            print(f"adkit: internal fault: {fault}; the traceback is in {fault.log}", file=sys.stderr)
            status = EXIT_FAULT
        else:
            _show(report)
    return status


def _show(report: Report) -> None:
    from rich.console import Console

    from adkit.report import metrics_table, thresholds_table

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


def _check(options: argparse.Namespace) -> int:
    from adkit.document import parse_toml

    parse_toml(Path(options.recipe))

    from adkit.check import check

    print(check(Path(options.recipe), options.overrides))
    return 0


def _predict(options: argparse.Namespace) -> int:
    if options.watch and options.fail_on_anomaly:
        raise UserError(
            "--fail-on-anomaly: expected a prediction that ends by itself, found --watch; leave one of them out and "
            "read the rows, which are written as the pictures come"
        )

    from adkit.detector import Detector
    from adkit.predicting import find_pictures, heatmaps_of, predict, watch
    from adkit.rows import listed_rows, writing
    from adkit.watching import Watcher, stopping

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


def _export(options: argparse.Namespace) -> int:
    from adkit.exporting import export, summary, warning
    from adkit.predicting import find_pictures

    pictures = list(find_pictures(options.pictures, sys.stdin))
    done = export(options.detector, options.format, options.output, pictures, options.device)
    if text := warning(done):
        print(f"warning: {text}", file=sys.stderr)
    print(summary(done))
    return 0


def _plugins(options: argparse.Namespace) -> int:
    from adkit.catalogue import plugins_text
    from adkit.plugins import discover

    print(plugins_text(discover(), options.kind, options.name))
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from adkit.plugins import discover
    from adkit.schema import recipe_schema

    print(json.dumps(recipe_schema(discover()), indent=2))
    return 0


def _complain(error: UserError) -> None:
    for problem in error.problems:
        print(problem, file=sys.stderr)
