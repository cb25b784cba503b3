"""Compares SPADE's bank of K-means centroids with its full bank: seconds of the search, and what is lost by it.

    python benchmarks/bank.py --root data/mtd [--category tile] [--centroids 10 50] [--skip-all] [--output bank.json]

Each way is ``spade.toml`` in a process of its own, on the same kept features, so only fit and search differ:

- full bank, all images searched: ``scorer.retrieve = 0``, as PANDA 2.3 describes it. ``--skip-all`` leaves it out.
- full bank, 50 images retrieved: the recipe as it is. Every location of every normal image is kept; those of the 50
  that are most similar are searched.
- K-means: ``scorer.centroids``, so many for each location, which the same location is compared with.

search: seconds in the scorer's ``score``, over all images that are calibrated by, drawn and tested; fit: seconds in its
``fit``, with reading the features, as often as K-means passes over them. The image's score is of the pooled features,
which K-means leaves as they are: what it can lose is seen in the metrics of pixels. Wanted of the first number of
centroids, beside the recipe as it is: a search at least 15 times as fast, at most 0.005 of image and pixel AUROC lost.
The exit status is 1 if it is otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured import begun, concluded, origin, table, verdict, watched

RECIPE = Path(__file__).parents[1] / "recipes" / "spade.toml"
AS_IT_IS = "full bank, 50 images retrieved"
FASTER, LOST = 15, 0.005
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_aupro": "AUPRO"}


def carry_out(options: argparse.Namespace) -> None:
    """Carry out one run in this process, and write what its scorer took."""
    from adkit_plugins.scorers.spade import Spade

    from adkit.runner.run import run

    spent = {"fit": 0.0, "search": 0.0}
    searched = [0]
    fit, score = Spade.fit, Spade.score

    def timed_fit(self: Spade, stream: Any) -> None:
        started = time.perf_counter()
        fit(self, stream)
        spent["fit"] += time.perf_counter() - started

    def timed_score(self: Spade, features: Any) -> Any:
        started = time.perf_counter()
        found = score(self, features)
        spent["search"] += time.perf_counter() - started
        searched[0] += features.count
        return found

    Spade.fit, Spade.score = timed_fit, timed_score  # type: ignore[method-assign]
    settings = ["data.format=mvtec", f"data.root={options.root}", f"data.category={options.category}"]
    report = run(RECIPE, [*settings, "run.name=run", *options.set], output=options.work)
    kept = (options.work / "run" / "detector").rglob("*.safetensors")
    found = {
        **spent,
        "searched": searched[0],
        "precision": report.precision,
        "stages": report.timings,
        "metrics": {name: report.mean[name] for name in METRICS},
        "detector_bytes": sum(file.stat().st_size for file in kept),
    }
    (options.work / "found.json").write_text(json.dumps(found), encoding="utf-8")


def measure(name: str, settings: Sequence[str], cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    print(f"  {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = [sys.executable, __file__, "--root", options.root, "--category", options.category, "--work", work]
        for one in settings:
            command += ["--set", one]
        spent = watched(command, env={"ADKIT_CACHE": str(cache), "ADKIT_CACHE_GB": "50"})
        found = json.loads((work / "found.json").read_text(encoding="utf-8"))
    return {"name": name, "settings": list(settings), **found, **asdict(spent)}


def show(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> None:
    columns = ["", "fit, s", "search, s", "ms an image", "times as fast", "detector, MB", "peak memory, GB"]
    cells = [
        [
            row["name"],
            f"{row['fit']:.1f}",
            f"{row['search']:.1f}",
            f"{1000 * row['search'] / row['searched']:.1f}",
            f"{base['search'] / row['search']:.1f}",
            f"{row['detector_bytes'] / 1e6:.0f}",
            f"{row['memory'] / 1e9:.2f}",
            *(f"{row['metrics'][name]:.4f}" for name in METRICS),
        ]
        for row in rows
    ]
    print(table([*columns, *METRICS.values()], cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder in MVTec layout")
    parser.add_argument("--category", default="tile")
    parser.add_argument("--centroids", type=int, nargs="+", default=[10, 50], help="the first is what bounds are of")
    parser.add_argument("--skip-all", action="store_true", help="leave out searching all images, the longest")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.root = options.root.resolve()
    if options.work:
        carry_out(options)
        return 0
    start = begun()
    ways: dict[str, list[str]] = {AS_IT_IS: []}
    ways |= {f"K-means, {count} a location": [f"scorer.centroids={count}"] for count in options.centroids}
    if not options.skip_all:
        ways["full bank, all images searched"] = ["scorer.retrieve=0"]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        measure("features, to be kept", [f"scorer.centroids={min(options.centroids)}"], cache, options)
        rows = [measure(name, settings, cache, options) for name, settings in ways.items()]
    show(rows, rows[0])
    full, means = rows[0], rows[1]
    bounds = [verdict(f"{means['name']}: search, times as fast", full["search"] / means["search"], "≥", FASTER)]
    for name in ("image_auroc", "pixel_auroc"):
        lost = full["metrics"][name] - means["metrics"][name]
        bounds.append(verdict(f"{means['name']}: {METRICS[name]} lost", lost, "≤", LOST))
    print()
    return concluded({**origin(start), "ways": rows, "bounds": bounds}, options.output)


if __name__ == "__main__":
    sys.exit(main())
