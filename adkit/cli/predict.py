"""``adkit predict``: score images with the detector that a run left."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from adkit.cli.exits import EXIT_ANOMALY, EXIT_UNREADABLE
from adkit.cli.streams import say
from adkit.errors import UserError
from adkit.utils.escapes import unescaped
from adkit.utils.text import counted

if TYPE_CHECKING:
    from adkit.cli.options import Commands

ROWS = """a row has: path; score (raw, higher is more anomalous); p_value (share of normal images that score
as high); anomalous (1 above the threshold); regions (boxes in pixels of the image, as JSON); error.
exit status: 0 whatever was found, 2 bad input; with --fail-on-anomaly 3 when an image is anomalous, else 4 when one
cannot be read.
with --group a detector whose threshold is per part gives a row for each part: group; images; unreadable; path (of the
image with the highest score); score; p_value (share of normal parts that score as high); anomalous.
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
    parser.add_argument(
        "--group",
        metavar="EXPR",
        help="judge parts: an expression whose parentheses find the part in an image's path, folder, or folder:N for a "
        "level of it; with --output, rows of parts are written to a file of their own",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="call images above this score anomalous, instead of by the detector's threshold; nothing is promised then",
    )
    other.add_argument(
        "--false-positive-rate",
        type=float,
        metavar="RATE",
        help="call images anomalous above the threshold that promises this rate of false alarms, by the detector's "
        "calibration images; what it keeps is told",
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

    if options.watch and options.group is not None:
        raise UserError(
            "--group: expected all images of a part before the verdict on it, found --watch, which never knows whether "
            "more will come; leave one of them out"
        )

    from adkit.detector.detector import Detector
    from adkit.predict.predict import PageWatch, find_images, grouped, heatmaps_of, predict, watch
    from adkit.predict.rows import Row, listed_rows, occupying, of_parts, writing
    from adkit.predict.watch import Watcher
    from adkit.utils.atomic import sweep_files
    from adkit.utils.signals import stopping

    detector = Detector.load(options.detector, options.device)
    if options.threshold is not None:
        detector = detector.with_threshold(options.threshold)
    if options.false_positive_rate is not None:
        detector = detector.with_false_positive_rate(options.false_positive_rate)
    if (options.threshold, options.false_positive_rate) != (None, None):
        say(f"threshold {detector.threshold:.6g}: {detector.promise}")
    if options.fail_on_anomaly and detector.threshold is None:
        raise UserError(
            f"{options.detector}: --fail-on-anomaly expects a detector with a threshold, found one without: run its "
            "recipe with data.calibration above 0, or give one with --threshold"
        )
    if options.group is not None:
        detector.require_parts("--group")
    heatmaps = heatmaps_of(detector, options.detector, options.output, options.paths) if options.heatmaps else None
    without = None if heatmaps is None else heatmaps.folder
    total = anomalous = unreadable = 0
    groups: dict[Path, str] = {}
    parts: dict[str, list[Row]] = {}
    with ExitStack() as stack:
        if options.output is not None:
            stack.enter_context(occupying(options.output))
        if heatmaps is not None:
            sweep_files(heatmaps.folder)
        if options.watch:
            stop = stack.enter_context(stopping())
            # What is listed is not kept here, too, for as long as the watch runs.
            watcher = Watcher(
                options.paths,
                say,
                listed=listed_rows(options.output, jsonl=options.jsonl) if options.output else None,
                without=without,
            )
            rows = watch(detector, watcher, stop, heatmaps, PageWatch(say))
        else:
            paths = find_images(options.paths, sys.stdin, without, say)
            first = next(paths, None)  # what is refused is refused before earlier rows make way for new ones
            paths = paths if first is None else chain([first], paths)
            if options.group is not None:
                groups = grouped(paths, options.group)
                paths = iter(groups)
            rows = predict(detector, paths, heatmaps, PageWatch(say))
        # Without a folder to write to, parts take the place of images on standard output.
        only_parts = options.group is not None and options.output is None
        write = None
        if not only_parts:
            write = stack.enter_context(writing(options.output, jsonl=options.jsonl, append=options.watch))
        for row in rows:
            if write is not None:
                write(row)
            if options.group is not None:
                parts.setdefault(groups[Path(unescaped(row.path))], []).append(row)
            total += 1
            anomalous += bool(row.anomalous)
            unreadable += row.score is None
            if row.error is not None:
                say(row.error if row.score is None else f"{row.path}: {row.error}")
        if options.group is not None:
            write_part = stack.enter_context(writing(options.output, jsonl=options.jsonl, parts=True))
            for part in of_parts(parts):
                write_part(part)
    say(f"{counted(total, 'image')}, {anomalous:,} anomalous, {unreadable:,} unreadable")
    if options.group is not None:
        called = sum(any(row.anomalous for row in rows) for rows in parts.values())
        say(f"{counted(len(parts), 'part')}, {called:,} anomalous")
    if not options.fail_on_anomaly:
        return 0
    return EXIT_ANOMALY if anomalous else EXIT_UNREADABLE if unreadable else 0
