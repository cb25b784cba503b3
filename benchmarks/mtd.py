"""Compares recipes on the magnetic tiles by tile, over five folds, in pairs.

    python benchmarks/mtd.py --root data/mtd --output figures/mtd [--recipes padim dn2 …] [--folds 0 1] [--jobs 4]
    python benchmarks/mtd.py --root data/mtd --output figures/mtd --table

``--root`` holds ``tile/`` in MVTec layout and ``groups.csv`` with path, group, kind, fold and half of each image. Good
images of a fold are tested by a detector that was fitted and calibrated without them; defective ones by every fold's.
``--half`` tests on images of that half alone: what was chosen by one half is reported on the other.

Each (recipe, fold) is one ``adkit run`` in a process of its own, whose result is kept: the command goes on where it was
ended. The table has, for each recipe, means over folds with 95% intervals by 2,000 resamples of whole tiles, the paired
difference from the first recipe, false alarms on new tiles at 5% asked, and the rank correlation of
``synthetic_auroc``, which no test image or label takes part in, with the image AUROC over the recipes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

from adkit.metrics import image_metrics
from adkit.report.report import Report

FOLDS = (0, 1, 2, 3, 4)
LARGER, ABOVE_MEDIAN = "data.image_size=320", "scorer.aggregation=max_less_median"
WITH_POOL = ["extractor.levels=['blocks.2', 'blocks.4', 'pool']", "features={combine='concat'}"]
METHODS: dict[str, tuple[str, list[str]]] = {
    "padim": ("padim", []),
    "padim-320": ("padim", [LARGER, ABOVE_MEDIAN]),
    "padim-pool": ("padim", WITH_POOL),
    "padim-pool-mlm": ("padim", [*WITH_POOL, ABOVE_MEDIAN]),
    "padim-pool-320": ("padim", [*WITH_POOL, LARGER, ABOVE_MEDIAN]),
    "dn2": ("dn2", []),
    "whitening": ("dn2", ["scorer={use='whitening'}"]),
    "center": ("center", []),
    "gaussian-tied": ("gaussian", []),
    "gaussian-global": ("gaussian", ["scorer.covariance=global"]),
    "gaussian-local": ("gaussian", ["scorer.covariance=local"]),
    "patch-knn": ("quickstart", []),
    "patchcore": ("patchcore", []),
    "spade": ("spade", []),
}
"""Name → recipe and overrides."""
RESAMPLES = 2000
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(METHODS), help="names of METHODS, or recipe files")
    parser.add_argument("--folds", nargs="+", type=int, default=list(FOLDS))
    parser.add_argument("--half", choices=("choose", "report"), help="test on the images of this half alone")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="an override for every run")
    parser.add_argument("--table", action="store_true", help="only show what is there")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for fold in options.folds:
            write_list(options.root, fold, options.half, options.output / f"fold-{fold}.csv")
        jobs = [(recipe, fold) for recipe in options.recipes for fold in options.folds]
        with ThreadPoolExecutor(options.jobs) as pool:
            for (recipe, fold), problem in zip(jobs, pool.map(lambda job: measure(*job, options), jobs), strict=True):
                print(f"{recipe}, fold {fold}: {problem or 'done'}", flush=True)
    show(options.output, [Path(recipe).stem for recipe in options.recipes], options.folds)


def write_list(root: Path, fold: int, half: str | None, path: Path) -> None:
    """List the images of a fold for ``format = "csv"``: its good tiles and all defective images are tested."""
    rows = []
    with (root / "groups.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["path"]:
                tested = row["kind"] != "good" or int(row["fold"]) == fold
                if tested and half is not None and row["half"] != half:
                    continue
                image = (root / "tile" / row["path"]).resolve()
                mask = root / "tile" / "ground_truth" / row["kind"] / f"{image.stem}_mask.png"
                rows.append(
                    {
                        "path": image,
                        "label": row["kind"],
                        "split": "test" if tested else "train",
                        "mask": mask.resolve() if row["kind"] != "good" else "",
                        "category": "tile",
                        "group": row["group"],
                    }
                )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def measure(recipe: str, fold: int, options: argparse.Namespace) -> str | None:
    """Run a recipe on a fold, unless that was done; what went wrong, if anything."""
    file, overrides = METHODS.get(recipe, (recipe, []))
    name = f"{Path(recipe).stem}-{fold}"
    if (options.output / name / "report.json").exists():
        return None
    path = Path(file) if Path(file).exists() else Path(__file__).parents[1] / "recipes" / f"{file}.toml"
    size = tomllib.loads(path.read_text(encoding="utf-8"))["data"]["image_size"]
    data = f"data={{format='csv', root='{options.output / f'fold-{fold}.csv'}', group='group', image_size={size}}}"
    sets = [data, f"run.name={name}", f"run.output={options.output}", *overrides, *options.set]
    command = [sys.executable, "-m", "adkit", "run", str(path), "--fresh"]
    for one in sets:
        command += ["--set", one]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    return None if done.returncode == 0 else done.stderr.strip()[-2000:]


class Fold:
    """The scores of one fold's test images, with the tile of each."""

    def __init__(self, folder: Path) -> None:
        self.report = Report.load(folder / "report.json")
        with (folder / "scores.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        self.scores = np.array([float(row["score"]) for row in rows], np.float32)
        self.labels = np.array([int(row["label"]) for row in rows])
        self.tiles = np.array([row["group"] for row in rows])

    def auroc(self, drawn: dict[str, int] | None = None) -> float:
        """The image AUROC, of images repeated as often as their tile was drawn."""
        times = [1 if drawn is None else drawn.get(tile, 0) for tile in self.tiles]
        value = image_metrics(np.repeat(self.scores, times), np.repeat(self.labels, times))["image_auroc"]
        return float("nan") if value is None else value


def show(output: Path, names: list[str], folds: list[int]) -> None:
    found = {
        name: [Fold(output / f"{name}-{fold}") for fold in folds]
        for name in names
        if all((output / f"{name}-{fold}" / "report.json").exists() for fold in folds)
    }
    if not found:
        print("nothing is measured yet")
        return
    print(f"| | {' | '.join(METRICS)} | synthetic | false alarms | image AUROC less that of {next(iter(found))} |")
    print("|---" * (len(METRICS) + 4) + "|")
    draws = resamples(next(iter(found.values())))
    resampled = {
        name: np.array([np.nanmean([f.auroc(d) for f in of_one]) for d in draws]) for name, of_one in found.items()
    }
    points: dict[str, tuple[float, float | None]] = {}
    first = next(iter(found))
    for name, of_one in found.items():
        cells = []
        reports = [fold.report.categories["tile"] for fold in of_one]
        for metric in METRICS:
            values = [report.metrics[metric] for report in reports]
            cells.append("" if None in values else f"{np.mean(values):.3f}")  # type: ignore[arg-type]
        low, high = np.quantile(resampled[name], (0.025, 0.975))
        cells[0] += f" [{low:.3f}, {high:.3f}]"
        synthetic = [report.synthetic_auroc for report in reports]
        cells.append("" if None in synthetic else f"{np.mean(synthetic):.3f}")  # type: ignore[arg-type]
        alarms = [
            (r.threshold.test_false_positive_rate or 0.0) * r.threshold.test_normal_groups
            for r in reports
            if r.threshold
        ]
        groups = sum(r.threshold.test_normal_groups for r in reports if r.threshold)
        cells.append(f"{sum(alarms) / groups:.3f}" if groups else "")
        less = resampled[name] - resampled[first]
        mean = float(np.mean([fold.auroc() for fold in of_one]))
        difference = mean - float(np.mean([fold.auroc() for fold in found[first]]))
        low, high = np.quantile(less, (0.025, 0.975))
        cells.append("" if name == first else f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        points[name] = (mean, None if None in synthetic else float(np.mean(synthetic)))  # type: ignore[arg-type]
        print(f"| {name} | {' | '.join(cells)} |")
    pairs = [pair for pair in points.values() if pair[1] is not None]
    if len(pairs) > 2:
        true, drawn = np.array(pairs, float).T
        print(
            f"rank correlation of synthetic_auroc and image AUROC over {len(pairs)} recipes: "
            f"Spearman {spearmanr(true, drawn).statistic:.2f}, Kendall {kendalltau(true, drawn).statistic:.2f}"
        )
    (output / "points.json").write_text(json.dumps(points, indent=2), encoding="utf-8")


def resamples(folds: list[Fold]) -> list[dict[str, int]]:
    """Draw tiles again and again: good ones within their fold, defective ones for all folds alike."""
    rng = np.random.default_rng(0)
    strata = [sorted(set(fold.tiles[fold.labels == 0].tolist())) for fold in folds]
    strata.append(sorted(set(folds[0].tiles[folds[0].labels == 1].tolist())))
    drawn = []
    for _ in range(RESAMPLES):
        one: dict[str, int] = {}
        for tiles in strata:
            names, counts = np.unique(rng.choice(tiles, len(tiles)), return_counts=True)
            one.update(zip(names.tolist(), counts.tolist(), strict=True))
        drawn.append(one)
    return drawn


if __name__ == "__main__":
    main()
