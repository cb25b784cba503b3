"""Compares what an extractor is computed by: figures, verdicts and seconds of recipes by each runtime and precision.

    python benchmarks/runtimes.py --recipes dn2 gaussian --output figures/runtimes.json \
        --set data.format=mvtec --set data.root=data/mtd --set data.category=tile --set 'data.group=(t[0-9]+)_'

Each (recipe, runtime, precision) is one ``adkit run`` in a process of its own, without kept features. The table has,
for each:

- image AUROC and AUPRO, and their differences from those by torch in float32;
- verdicts: how many test images are called otherwise than by torch in float32, each by its own run's threshold;
- seconds of the stages that read features (extract, fit, calibrate, evaluate), and of choosing and converting
  (weights): nothing else should run.

Image AUROC may move by 0.002 at most.

``--set`` and ``--only`` are as ``adkit run`` has them.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measured import begun, concluded, origin, table, verdict

from adkit.report.report import Report

WAYS = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
)
READS = ("extract", "fit", "calibrate", "evaluate")


BOUND = 0.002


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["dn2", "gaussian", "padim"])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    start, rows = begun(), []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            found = [run(recipe, *way, options, Path(folder, f"{recipe}-{'-'.join(way)}")) for way in WAYS]
            rows += [compared(recipe, report, found[0]) for report in found]
    columns = [
        "recipe",
        "runtime",
        "image AUROC",
        "difference",
        "AUPRO",
        "difference",
        "other verdicts",
        "reading",
        "weights",
    ]
    print(table(columns, [shown(row) for row in rows]))
    bounds = [
        verdict(f"{row['recipe']}, {row['runtime']}, {row['precision']}: image AUROC moved", row["moved"], "≤", BOUND)
        for row in rows
    ]
    return concluded(origin(start) | {"rows": rows, "bounds": bounds}, options.output)


def compared(recipe: str, report: Report, first: Report) -> dict[str, Any]:
    """The figures of a run beside those of the first."""
    aurocs = [auroc(report), auroc(first)]
    aupros = [report.mean.get("pixel_aupro"), first.mean.get("pixel_aupro")]
    verdicts, others = verdicts_of(report), verdicts_of(first)
    moved = [
        abs(one.metrics["image_auroc"] - first.categories[name].metrics["image_auroc"])
        for name, one in report.categories.items()
        if one.metrics["image_auroc"] is not None
    ]
    return {
        "recipe": recipe,
        "runtime": ", ".join(report.runtimes),
        "precision": report.precision,
        "image_auroc": aurocs[0],
        "moved": max(moved),
        "difference": aurocs[0] - aurocs[1],
        "aupro": aupros[0],
        "aupro_difference": None if aupros[0] is None else aupros[0] - aupros[1],
        "tested": len(verdicts),
        "other_verdicts": sum(verdicts[image] != others[image] for image in others),
        "reading_seconds": sum(report.timings.get(stage, 0) for stage in READS),
        "weights_seconds": report.timings["weights"],
    }


def auroc(report: Report) -> float:
    found = report.mean["image_auroc"]
    assert isinstance(found, float)
    return found


def shown(row: dict[str, Any]) -> list[str]:
    aupro = ["", ""] if row["aupro"] is None else [f"{row['aupro']:.4f}", f"{row['aupro_difference']:+.4f}"]
    return [
        row["recipe"],
        f"{row['runtime']}, {row['precision']}",
        f"{row['image_auroc']:.4f}",
        f"{row['difference']:+.4f}",
        *aupro,
        f"{row['other_verdicts']} of {row['tested']:,}",
        f"{row['reading_seconds']:.1f} s",
        f"{row['weights_seconds']:.1f} s",
    ]


def verdicts_of(report: Report) -> dict[tuple[str, str], str]:
    """(category, image) → whether it is called anomalous, for the test images."""
    with (Path(report.folder) / "scores.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["category"], row["id"]): row["anomalous"] for row in csv.DictReader(file) if row["split"] == "test"
        }


def run(recipe: str, runtime: str, precision: str, options: argparse.Namespace, output: Path) -> Report:
    """The report of one run in a process of its own."""
    settings = [*options.overrides, f"run.runtime={runtime}", f"run.precision={precision}", "run.device=cpu"]
    command = [sys.executable, "-m", "adkit", "run", recipe, "--quiet", "--output", output, "--set", "run.synthetic=0"]
    command += [part for setting in settings for part in ("--set", setting)]
    command += [part for name in options.only for part in ("--only", name)]
    subprocess.run(command, check=True, env=os.environ | {"ADKIT_CACHE_GB": "0"})
    (report,) = output.glob("*/report.json")
    return Report.load(report)


if __name__ == "__main__":
    sys.exit(main())
