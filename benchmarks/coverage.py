"""Compares the false-alarm rate that thresholds promise for new parts with what is seen, over many splits by part.

    python benchmarks/coverage.py --root data/mtd --group '(t\\d+)_' [--splits 200] [--rate 0.05]
    python benchmarks/coverage.py --simulate [--draws 2000]

The features of all good images of a category, from training and test alike, are extracted once. Each split draws groups
to fit on, to calibrate by (--groups of them, or data.calibration's default share of those that are not tested) and to
test on (a fifth). Image scores are DN2's, maps those of a Gaussian with tied covariance on blocks.4, whose highest cell
stands for the highest pixel. What is seen is the mean over the new groups of each one's share of images above the
threshold; per part, the share of groups with one above it; then the mean over splits, with its standard error. Splits
of one data set overlap, so the error says how well the mean over splits of these images is known, and nothing of other
images. The verdict compares what is seen with the promise, split by split: "within 2" standard errors, or not.

"at random" calibrates by as many images drawn without a look at their groups, as if none had been named.

Steadiness from seed to seed: the images to test on stay, and 20 seeds hold out other groups and draw other images of
them. The standard deviations, of the rate and of the threshold in shares of its mean, are means over 10 choices of the
images to test on. "drawn image" keeps the detector and the held-out groups, and only the image of each group is drawn
anew, 20 times: no other method depends on that.

--simulate: scores are a group's effect (variance 1) and noise (0.25), groups have 1 to 8 images, in the second table
the more the larger the effect, and new groups are drawn for every draw.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adkit.data.dataset import open_dataset
from adkit.data.groups import by_group
from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.data.splits import draw, folded, hold_out
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.sources import ImageSource
from adkit.plugin.types import Features, Scores
from adkit.recipe.reader import read_recipe
from adkit.recipe.tables import Method, ThresholdTable
from adkit.runner.evaluate import Evaluation
from adkit.runner.thresholds import HeldOut
from adkit.testing import FeatureStream
from adkit.threshold import Threshold

EXTRACTOR = {"use": "timm", "backbone": "tf_efficientnet_lite0", "weights": "packaged", "levels": ["pool", "blocks.4"]}
SCORERS = {"pool": {"use": "knn"}, "blocks.4": {"use": "gaussian", "covariance": "tied"}}
METHODS: tuple[Method, ...] = ("split", "hierarchical", "pooled")
FOLDS = 5
TESTS, SEEDS = 10, 20
LEVELS = {"pool": "image", "blocks.4": "pixel"}
Floats = NDArray[np.float64]


class Tally:
    """The rates that were seen for each row of a table, over splits."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self.promised: dict[str, list[float]] = {}

    def add(self, row: str, seen: float, promised: float) -> None:
        self.rates.setdefault(row, []).append(seen)
        self.promised.setdefault(row, []).append(promised)

    def show(self, title: str) -> None:
        print(f"\n{title}\n\n| | promised | seen ± standard error | | deviation |\n|---|---|---|---|---|")
        for row, rates in self.rates.items():
            promised, mean = float(np.mean(self.promised[row])), float(np.mean(rates))
            deviation, excess = np.std(rates, ddof=1), np.subtract(rates, self.promised[row])
            error = deviation / math.sqrt(len(rates))
            errors = float(excess.mean() / (np.std(excess, ddof=1) / math.sqrt(len(rates))))
            verdict = "within 2" if abs(errors) <= 2 else "below" if errors < 0 else "ABOVE"
            print(f"| {row} | {promised:.4f} | {mean:.4f} ± {error:.4f} | {verdict} | {deviation:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a folder in MVTec layout; its first category is taken")
    parser.add_argument("--group", default=r"(t\d+)_")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first split")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--groups", type=int, nargs="*", default=[19, 40], help="numbers of groups to calibrate by")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    if options.simulate:
        for linked in (False, True):
            simulate(options.draws, options.rate, linked)
    if options.root:
        measure(options)


def of_groups(above: NDArray[np.bool_], keys: NDArray[np.int64]) -> tuple[float, float]:
    """The mean over groups of the share of images above a threshold, and the share of groups with one above it."""
    _, index, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    shares = np.bincount(index, above) / sizes
    return float(shares.mean()), float((shares > 0).mean())


def called(method: str, threshold: Threshold, scores: Floats, keys: NDArray[np.int64]) -> float:
    """What a method makes a promise about, as it is seen on new groups."""
    share, part = of_groups(scores > threshold.value, keys)
    return part if method == "per part" else share


def thresholds(
    held: Sequence[Sample], scores: Floats, groups: dict[str, str], rate: float, seed: int
) -> Iterator[tuple[str, Threshold]]:
    """The threshold of each method, and per part, from scores of held-out images."""
    found = Evaluation(list(held), scores, scores[:, None])
    for method in METHODS:
        table = ThresholdTable(method=method, false_positive_rate=rate)
        yield method, _some(HeldOut.of(found, groups, table, seed).threshold)
    table = ThresholdTable(per="part", false_positive_rate=rate)
    yield "per part", _some(HeldOut.of(found, groups, table, seed).threshold)


def _some(threshold: Threshold | None) -> Threshold:
    assert threshold is not None
    return threshold


def simulate(draws: int, rate: float, linked: bool) -> None:
    """Compare in a simulation; ``linked``: groups are the larger the higher their effect."""
    for count in (19, 40):
        tally = Tally()
        for number in range(draws):
            rng = np.random.default_rng((number, count, linked))

            def parts(count: int, rng: np.random.Generator = rng) -> tuple[Floats, NDArray[np.int64]]:
                effects = rng.normal(size=count)
                sizes = rng.integers(1, 9, count)
                if linked:
                    sizes = np.clip(np.rint(4.5 + 2 * effects), 1, 8).astype(np.int64)
                keys = np.repeat(np.arange(count), sizes)
                return effects[keys] + 0.5 * rng.normal(size=len(keys)), keys

            scores, keys = parts(count)
            held = [Sample(f"{number}-{place}", Path("x"), 0, "good") for place in range(len(scores))]
            groups = {sample.id: f"g{key}" for sample, key in zip(held, keys.tolist(), strict=True)}
            new, new_keys = parts(50)
            for name, threshold in thresholds(held, scores, groups, rate, number):
                tally.add(name, called(name, threshold, new, new_keys), threshold.supported)
        how = "sizes that grow with the effect" if linked else "sizes drawn apart from effects"
        tally.show(f"Simulation, {draws:,} draws, {count} groups to calibrate by, {how}")


class Images:
    """The features of all good images of a category, and detectors fitted on some of them."""

    def __init__(self, root: str, group: str) -> None:
        tables = {
            "data": {"format": "mvtec", "root": root, "group": group, "calibration": 0},
            "extractor": EXTRACTOR,
            "run": {"device": "cpu"},
            "scorer": SCORERS["pool"],
        }
        recipe = read_recipe(tables)
        parts = assemble(recipe)
        category = open_dataset(recipe.data, 0).categories[0]
        self.name = category.name
        self.samples = list(category.normal)
        self.groups = dict(category.groups)
        keys = [category.group_of(sample) for sample in self.samples]
        self.keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        self.place = {sample.id: number for number, sample in enumerate(self.samples)}
        source = ImageSource(parts, BadImages(0), len(self.samples))
        batches = list(source.stream(self.samples, parts.embeddings, lambda count: None, targets=False))
        self.levels = {name: torch.cat([one[name] for one in batches]) for name in EXTRACTOR["levels"]}
        self.geometry = batches[0].geometry
        self.parts: dict[str, Assembled] = {
            level: assemble(read_recipe({**tables, "scorer": scorer})) for level, scorer in SCORERS.items()
        }

    def features(self, level: str, rows: Sequence[int]) -> Features:
        return Features({level: self.levels[level][list(rows)]}, {level: self.geometry[level]})

    def detector(self, level: str, rows: Sequence[int]) -> Callable[[Sequence[int]], Floats]:
        """Fit on some images; the function that gives the scores, or the highest cells of maps, of others."""
        scorer = self.parts[level].new_scorer()
        scorer.fit(FeatureStream(self.features(level, rows)))

        def score(rows: Sequence[int]) -> Floats:
            found: Scores = scorer.score(self.features(level, rows))
            return found.image.numpy().astype(np.float64)

        return score

    def rows(self, samples: Sequence[Sample]) -> list[int]:
        return [self.place[sample.id] for sample in samples]


def measure(options: argparse.Namespace) -> None:
    """Compare on the good images of a data set."""
    images = Images(options.root, options.group)
    total = len(np.unique(images.keys))
    print(f"{images.name}: {len(images.samples)} good images of {total} groups, {options.splits} splits")
    for count in (*options.groups, None):
        tally = Tally()
        held_groups = []
        for seed in range(options.first, options.first + options.splits):
            rest, tested = hold_out(images.samples, 0.2, seed, "test", images.groups)
            fitted, held = held_out(rest, count, seed, images.groups)
            held_groups.append(len(by_group(held, images.groups)))
            for level in LEVELS:
                one_split(images, level, fitted, held, tested, seed, options.rate, tally)
        title = f"{np.mean(held_groups):.1f} groups to calibrate by"
        tally.show(title)
        show_steadiness(images, count, options.rate, title)


def show_steadiness(images: Images, count: int | None, rate: float, title: str) -> None:
    """Compare how far rates and thresholds move from seed to seed, with the same images to test on."""
    spreads: dict[str, list[tuple[float, float]]] = {}
    for number in range(TESTS):
        rest, tested = hold_out(images.samples, 0.2, number, "test", images.groups)
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(1000, 1000 + SEEDS):
            fitted, held = held_out(rest, count, seed, images.groups)
            for level, name in LEVELS.items():
                score = images.detector(level, images.rows(fitted))
                new, keys = score(images.rows(tested)), images.keys[images.rows(tested)]
                scores = score(images.rows(held))
                for method, threshold in thresholds(held, scores, images.groups, rate, seed):
                    pair = called(method, threshold, new, keys), threshold.value
                    found.setdefault(f"{name}, {method}", []).append(pair)
                pairs = []
                for other in range(SEEDS):
                    method, threshold = next(thresholds(held, scores, images.groups, rate, other))
                    pairs.append((called(method, threshold, new, keys), threshold.value))
                spreads.setdefault(f"{name}, split, drawn image", []).append(spread(pairs))
        for row, pairs in found.items():
            spreads.setdefault(row, []).append(spread(pairs))
    print(f"\n{title}: from seed to seed\n\n| | deviation of the rate | of the threshold |\n|---|---|---|")
    for row in sorted(spreads):
        rates, values = np.mean(spreads[row], axis=0)
        print(f"| {row} | {rates:.4f} | {values:.4f} |")


def spread(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The standard deviation of rates, and that of thresholds in shares of their mean."""
    rates, values = np.array(pairs).T
    return float(rates.std(ddof=1)), float(values.std(ddof=1) / values.mean())


def held_out(
    rest: Sequence[Sample], count: int | None, seed: int, groups: dict[str, str]
) -> tuple[list[Sample], list[Sample]]:
    """Hold out a default share for calibration, or ``count`` groups."""
    if count is None:
        return hold_out(rest, 0.2, seed, "calibration", groups)
    keys = sorted(by_group(rest, groups), key=lambda key: draw(key, seed, "calibration"))[:count]
    chosen = set(keys)
    return (
        [sample for sample in rest if groups.get(sample.id, sample.id) not in chosen],
        [sample for sample in rest if groups.get(sample.id, sample.id) in chosen],
    )


def one_split(
    images: Images,
    level: str,
    fitted: Sequence[Sample],
    held: Sequence[Sample],
    tested: Sequence[Sample],
    seed: int,
    rate: float,
    tally: Tally,
) -> None:
    """Fit, calibrate by every method, and count false alarms on new groups."""
    name = LEVELS[level]
    score = images.detector(level, images.rows(fitted))
    new, keys = score(images.rows(tested)), images.keys[images.rows(tested)]
    scores = score(images.rows(held))
    for method, threshold in thresholds(held, scores, images.groups, rate, seed):
        tally.add(f"{name}, {method}", called(method, threshold, new, keys), threshold.supported)
    if level != "pool":
        return
    # The old way: images of one group on both sides.
    mixed = [*fitted, *held]
    order = np.random.default_rng(seed).permutation(len(mixed))
    random_held, random_fitted = [mixed[i] for i in order[: len(held)]], [mixed[i] for i in order[len(held) :]]
    careless = images.detector(level, images.rows(random_fitted))
    alone = [replace(sample, group=None) for sample in random_held]
    _, threshold = next(thresholds(alone, careless(images.rows(random_held)), {}, rate, seed))
    new_careless = careless(images.rows(tested))
    tally.add(f"{name}, at random", of_groups(new_careless > threshold.value, keys)[0], threshold.supported)
    # Cross: every image that is not tested fits and calibrates.
    members: list[Callable[[Sequence[int]], Floats]] = []
    crossed: list[Floats] = []
    ids: list[Sample] = []
    for fold in folded(mixed, FOLDS, seed, images.groups, "threshold.folds", images.name):
        inside = {sample.id for sample in fold}
        members.append(images.detector(level, images.rows([sample for sample in mixed if sample.id not in inside])))
        crossed.append(members[-1](images.rows(fold)))
        ids += fold
    found = Evaluation(ids, np.concatenate(crossed), np.concatenate(crossed)[:, None])
    fused = np.mean([member(images.rows(tested)) for member in members], axis=0)
    for per in ("image", "part"):
        table = ThresholdTable.model_validate({"method": "cross", "per": per, "false_positive_rate": rate})
        threshold = _some(HeldOut.of(found, images.groups, table, seed).threshold)
        share = of_groups(fused > threshold.value, keys)[per == "part"]
        tally.add(f"{name}, cross per {per} ({FOLDS} folds)", share, threshold.supported)


if __name__ == "__main__":
    main()
