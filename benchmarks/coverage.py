"""Does the threshold keep its promise? Mean false-alarm rate over random splits beside its exact expectation.

    python benchmarks/coverage.py --root data/mtd [--splits 200] [--rate 0.05] [--calibration 99 76]

All good pictures of a category, for training and for testing alike, are extracted once. Each split draws disjoint
sets from them: `calibration` pictures, 200 to test on, the rest to fit DN2 on. With m calibration pictures and
k = ⌈(m + 1)(1 − rate)⌉ a new exchangeable picture lies above the threshold with a chance of (m + 1 − k) / (m + 1).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from adkit.assemble import assemble
from adkit.contracts import Features
from adkit.data.datasets import open_dataset
from adkit.data.loader import BadPictures
from adkit.recipe import read_recipe
from adkit.sources import PictureSource
from adkit.testing import FeatureStream
from adkit.threshold import split_conformal

RECIPE = Path(__file__).parents[1] / "recipes" / "dn2.toml"
TEST = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder in MVTec layout; its first category is taken")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--calibration", type=int, nargs="+", default=[99, 76])
    options = parser.parse_args()

    recipe = read_recipe(RECIPE, [f"data.root={options.root}", "data.calibration=0"])
    parts = assemble(recipe)
    category = open_dataset(recipe.data, 0).categories[0]
    good = [*category.train, *(sample for sample in category.test if not sample.label)]
    source = PictureSource(parts, BadPictures(0), len(good))
    pooled = torch.cat([features["pool"] for features in source.stream(good, lambda count: None, targets=False)])
    print(f"{category.name}: {len(pooled)} good pictures, {options.splits} splits, rate {options.rate:g}")

    generator = torch.Generator().manual_seed(0)
    geometry = parts.embedding.levels["pool"].geometry

    def features(rows: torch.Tensor) -> Features:
        return Features({"pool": pooled[rows]}, {"pool": geometry})

    for m in options.calibration:
        rates = []
        for _ in range(options.splits):
            held, tested, fitted = torch.randperm(len(pooled), generator=generator).split(
                [m, TEST, len(pooled) - m - TEST]
            )
            scorer = parts.new_scorer()
            scorer.fit(FeatureStream(features(fitted)))
            threshold = split_conformal(scorer.score(features(held)).image.numpy(), options.rate)
            rates.append(float((scorer.score(features(tested)).image.numpy() > threshold.value).mean()))
        expected = (m + 1 - math.ceil((m + 1) * (1 - options.rate) - 1e-9)) / (m + 1)
        error = np.std(rates, ddof=1) / math.sqrt(len(rates))
        print(f"  m = {m}: mean false-alarm rate {np.mean(rates):.4f} ± {error:.4f}, expected {expected:.4f}")


if __name__ == "__main__":
    main()
