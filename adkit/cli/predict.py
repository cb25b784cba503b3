"""``adkit predict``: score images with the detector that a run left."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from adkit.cli.exits import EXIT_ANOMALY, EXIT_UNREADABLE
from adkit.errors import UserError
from adkit.utils.text import counted

if TYPE_CHECKING:
    from adkit.cli.options import Commands

ROWS = """a row has: path; score (raw, higher is more anomalous); p_value (share of normal images that score
as high); anomalous (1 above the threshold); regions (boxes in pixels of the image, as JSON); error.
exit status: 0 whatever was found, 2 bad input; with --fail-on-anomaly 3 when an image is anomalous, else 4 when one
cannot be read.
"""


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser(
        "predict",
        help="score images with the detector that a run left",
        description="Score images with the detector that a run left, and write a row for each.",
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("detector", metavar="DETECTOR", help="a run's folder, or a detector folder inside it")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, folders, globs, or - for a list on stdin")
    parser.add_argument("--output", metavar="DIR", help="write predictions.csv there (default: standard output)")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object per line instead of CSV")
    parser.add_argument(
        "--heatmaps", action="store_true", help="draw what was found over each image, into DIR/heatmaps"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="follow folders as they are being filled, until Ctrl-C; with --output, continue its file of rows",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument(
        "--fail-on-anomaly",
        action="store_true",
        help="exit with status 3 when an image is above the threshold, else 4 when one cannot be read",
    )
    parser.set_defaults(command=predict_images)


def predict_images(options: argparse.Namespace) -> int:
    if options.watch and options.fail_on_anomaly:
        raise UserError(
            "--fail-on-anomaly: expected a prediction that ends by itself, found --watch; leave one of them out and "
            "read the rows, which are written as the images come"
        )

    from adkit.detector.detector import Detector
    from adkit.predict.predict import find_images, heatmaps_of, predict, watch
    from adkit.predict.rows import listed_rows, writing
    from adkit.predict.watch import Watcher
    from adkit.utils.signals import stopping

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
            rows = predict(detector, find_images(options.paths, sys.stdin, without), heatmaps)
        write = stack.enter_context(writing(options.output, jsonl=options.jsonl, append=options.watch))
        for row in rows:
            write(row)
            total += 1
            anomalous += bool(row.anomalous)
            unreadable += row.score is None
            if row.error is not None:
                _say(row.error if row.score is None else f"{row.path}: {row.error}")
    _say(f"{counted(total, 'image')}, {anomalous:,} anomalous, {unreadable:,} unreadable")
    if not options.fail_on_anomaly:
        return 0
    return EXIT_ANOMALY if anomalous else EXIT_UNREADABLE if unreadable else 0


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
