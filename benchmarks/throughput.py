"""Compares images a second of adkit's stages with the bare forward pass of the fastest runtime, in one run.

    python benchmarks/throughput.py --root data/mtd --category tile [--output figures/throughput.json]

Lite 0 at 224 pixels and a tied Gaussian, on the pooled features and, as in ``gaussian.toml``, on every block,
whose maps are judged pixel by pixel. What is measured, in turn, so that a slow moment meets all of them:

- the bare forward pass of the pooled features on images that are tensors in memory, by each runtime and precision
  that is installed, as adkit calls it; the fastest one is what others are compared with;
- decoding and resizing alone;
- from files to features;
- evaluation from end to end: from files to scores, maps where there are any, and metrics of the test images.

Rates are of medians. Wanted: evaluation of the pooled features at 0.75 times the bare forward pass at least.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from measured import begun, concluded, origin, table, verdict

from adkit.cli.exits import EXIT_USER, complain
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.errors import UserError
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.conversion import RuntimeName
from adkit.inference.pipeline import Member, Pipeline
from adkit.inference.runtimes import usable
from adkit.inference.sources import ImageSource
from adkit.metrics import image_metrics
from adkit.plugin.context import Context, Precision
from adkit.recipe.reader import read_recipe
from adkit.runner.evaluate import evaluate

RECIPE = Path(__file__).parents[1] / "recipes" / "gaussian.toml"
SETTINGS: dict[str, list[str]] = {"pooled": ["extractor.levels=['pool']", "localizer={}"], "every block": []}
WAYS: list[tuple[RuntimeName, Precision]] = [
    (name, precision) for name in ("torch", "openvino", "onnx") for precision in ("float32", "bfloat16")
]
ROUNDS = 7
BATCH = 32
BOUND = 0.75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder in MVTec layout")
    parser.add_argument("--category", required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        return measure(options)
    except UserError as error:
        complain(error)
        return EXIT_USER


def measure(options: argparse.Namespace) -> int:
    start = begun()
    jobs: dict[str, tuple[Callable[[], object], int]] = {}
    for way in WAYS:
        jobs |= bare(*way, options)
    for name in SETTINGS:
        jobs |= stages(name, options)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for work, _ in jobs.values():  # warm up
        work()
    for _ in range(ROUNDS):
        for name, (work, _) in jobs.items():
            times[name].append(seconds(work))
    rates = {name: count / statistics.median(times[name]) for name, (_, count) in jobs.items()}
    fastest = max(rates[name] for name in rates if name.startswith("bare"))
    print(table(["", "images/s", "of the fastest"], [[n, f"{r:.0f}", f"{r / fastest:.2f}"] for n, r in rates.items()]))
    bounds = [verdict("pooled: evaluation by the bare forward pass", rates["pooled: evaluation"] / fastest, "≥", BOUND)]
    return concluded(origin(start) | {"images_per_second": rates, "bounds": bounds}, options.output)


def parts_of(name: str, options: argparse.Namespace, *settings: str) -> Assembled:
    data = [f"data.root={options.root}", f"data.category={options.category}", "data.calibration=0", "run.device=cpu"]
    return assemble(read_recipe(RECIPE, [*data, f"data.batch_size={BATCH}", *SETTINGS[name], *settings]))


def bare(
    runtime: RuntimeName, precision: Precision, options: argparse.Namespace
) -> dict[str, tuple[Callable[[], object], int]]:
    if runtime != "torch" and not usable(runtime, Context(precision=precision)).names:
        return {}  # it does not compute in that precision, or is not installed
    parts = parts_of("pooled", options, f"run.runtime={runtime}", f"run.precision={precision}")
    images = torch.rand(8, BATCH, 3, *parts.view.size)

    def run() -> None:
        for batch in images:
            parts.embeddings[0].extract(batch)

    return {f"bare: {runtime}, {precision}": (run, 8 * BATCH)}


def stages(name: str, options: argparse.Namespace) -> dict[str, tuple[Callable[[], object], int]]:
    parts = parts_of(name, options)
    (category,) = open_dataset(parts.recipe.data, 0).categories
    source = ImageSource(parts, BadImages(0), len(category.samples))
    test = category.test
    scorer = parts.new_scorer()
    scorer.fit(source.stream(category.train, parts.embeddings, ignore, targets=False))
    pipeline = Pipeline([Member(parts.embeddings[0], scorer)], parts.localizer)

    def decode() -> None:
        for _ in parts.loader(test, BadImages(0), BATCH, targets=True):
            pass

    def extract() -> None:
        for _ in source.stream(test, parts.embeddings, ignore, targets=True):
            pass

    def judge() -> dict[str, Any]:
        found = evaluate(pipeline, test, source, parts, ignore, targets=True, peaks=False)
        return cast(dict[str, Any], image_metrics(found.scores, found.labels))

    jobs: dict[str, Callable[[], object]] = {"features": extract, "evaluation": judge}
    if name == "pooled":
        jobs = {"decoding alone": decode, **jobs}
    return {f"{name}: {stage}": (work, len(test)) for stage, work in jobs.items()}


def ignore(images: int) -> None:
    """Take no note of progress."""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
