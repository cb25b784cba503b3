"""``adkit export``: write a detector as a file of another runtime."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from adkit.cli.streams import say, show

if TYPE_CHECKING:
    from adkit.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("export", help="write a detector as a file of another runtime")
    parser.add_argument("detector", metavar="DETECTOR", help="a run's folder, or a detector folder inside it")
    parser.add_argument("--format", required=True, choices=("onnx", "openvino", "torchscript"))
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write (default: export/FORMAT in the detector's folder)"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=(),
        metavar="PATH",
        help="images, folders or globs that the file is compared with the detector on (default: some photographs)",
    )
    parser.add_argument("--device", default="auto", help="where the detector computes: auto, cpu, cuda, cuda:1 or mps")
    parser.set_defaults(command=export_detector)


def export_detector(options: argparse.Namespace) -> int:
    from adkit.export.export import export, summary, warning
    from adkit.predict.predict import find_images

    images = list(find_images(options.images, sys.stdin))
    done = export(options.detector, options.format, options.output, images, options.device)
    if text := warning(done):
        say(f"warning: {text}")
    show(summary(done))
    return 0
