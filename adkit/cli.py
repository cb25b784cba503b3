"""The ``adkit`` command: its arguments, and how it ends."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from adkit import __version__
from adkit.commands import (
    EXIT_FAULT,
    EXIT_USER,
    check_recipe,
    complain,
    export_detector,
    predict_pictures,
    print_schema,
    run_recipes,
    show_plugins,
)
from adkit.errors import PluginError, UserError

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

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
    if others and (options.command is not run_recipes or any(other.startswith("-") for other in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:  # recipes that stand behind an option
        options.recipes += others
    try:
        status: int = options.command(options)
    except UserError as error:
        complain(error)
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
    run.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="CATEGORY",
        help="run this category or class alone; may be given several times",
    )
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    again.add_argument("--fresh", action="store_true", help="start over, whatever an interrupted run had finished")
    run.set_defaults(command=run_recipes)

    check = commands.add_parser("check", help="validate a recipe, find its data, and say what a run would need")
    check.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    _add_set(check)
    check.set_defaults(command=check_recipe)

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
    predict.set_defaults(command=predict_pictures)

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
    export.set_defaults(command=export_detector)

    plugins = commands.add_parser("plugins", help="list the components that are installed, or explain one")
    plugins.add_argument("kind", nargs="?", metavar="KIND", help="extractor, adapter, scorer, localizer or stopper")
    plugins.add_argument("name", nargs="?", metavar="NAME", help="a component of that kind")
    plugins.set_defaults(command=show_plugins)

    schema = commands.add_parser("schema", help="print the JSON Schema of recipes, for editors")
    schema.set_defaults(command=print_schema)
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
