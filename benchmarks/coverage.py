"""Compares the mean false-alarm rate of the threshold over random splits with its exact expectation.

    python benchmarks/coverage.py --root data/mtd [--splits 200] [--rate 0.05] [--calibration 99 76] [--cross 99 400]

The features of all good images of a category, from training and test alike, are extracted once. Each split draws
disjoint sets of them: `calibration` images, 200 to test on, and the rest to fit DN2 on. With m calibration images and
k = ⌈(m + 1)(1 − rate)⌉ a new exchangeable image is above the threshold with probability (m + 1 − k) / (m + 1).

For each number of --cross, so many normal images fit and calibrate in five folds, as threshold.method = "cross" does.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.inference.assemble import assemble
from adkit.inference.sources import ImageSource
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Features
from adkit.recipe.reader import read_recipe
from adkit.testing import FeatureStream
from adkit.threshold import conformal
from adkit.utils.text import counted

RECIPE = Path(__file__).parents[1] / "recipes" / "dn2.toml"
TEST = 200
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder in MVTec layout; its first category is taken")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--calibration", type=int, nargs="+", default=[99, 76])
    parser.add_argument("--cross", type=int, nargs="*", default=[99, 400])
    options = parser.parse_args()

    recipe = read_recipe(RECIPE, [f"data.root={options.root}", "data.calibration=0"])
    parts = assemble(recipe)
    category = open_dataset(recipe.data, 0).categories[0]
    good = [*category.train, *(sample for sample in category.test if not sample.label)]
    source = ImageSource(parts, BadImages(0), len(good))
    pooled = torch.cat([features["pool"] for features in source.stream(good, lambda count: None, targets=False)])
    images, splits = counted(len(pooled), "good image"), counted(options.splits, "split")
    print(f"{category.name}: {images}, {splits}, rate {options.rate:g}")

    generator = torch.Generator().manual_seed(0)
    geometry = parts.embeddings[0].levels["pool"].geometry

    def features(rows: torch.Tensor) -> Features:
        return Features({"pool": pooled[rows]}, {"pool": geometry})

    def fitted(rows: torch.Tensor) -> Scorer:
        scorer = parts.new_scorer()
        scorer.fit(FeatureStream(features(rows)))
        return scorer

    def scores(scorer: Scorer, rows: torch.Tensor) -> np.ndarray:
        return scorer.score(features(rows)).image.numpy()

    def split(m: int) -> float:
        held, tested, rest = torch.randperm(len(pooled), generator=generator).split([m, TEST, len(pooled) - m - TEST])
        scorer = fitted(rest)
        threshold = conformal(scores(scorer, held), options.rate)
        return float((scores(scorer, tested) > threshold.value).mean())

    def cross(n: int) -> float:
        normal, tested = torch.randperm(len(pooled), generator=generator)[: n + TEST].split([n, TEST])
        folds = [normal[first::FOLDS] for first in range(FOLDS)]
        members = [fitted(torch.cat([other for other in folds if other is not fold])) for fold in folds]
        held = np.concatenate([scores(member, fold) for member, fold in zip(members, folds, strict=True)])
        mean = np.mean([scores(member, tested) for member in members], axis=0)
        return float((mean > conformal(held, options.rate).value).mean())

    for name, draw, sizes in (("m", split, options.calibration), ("cross, n", cross, options.cross)):
        for size in sizes:
            rates = [draw(size) for _ in range(options.splits)]
            expected = (size + 1 - math.ceil((size + 1) * (1 - options.rate) - 1e-9)) / (size + 1)
            error = np.std(rates, ddof=1) / math.sqrt(len(rates))
            seen = f"mean false-alarm rate {np.mean(rates):.4f} ± {error:.4f}"
            print(f"  {name} = {size}: {seen}, expected {expected:.4f}")


if __name__ == "__main__":
    main()
