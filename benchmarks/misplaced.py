"""Normal parts where they do not belong: what Glancing at the Patch is for, beside methods that look at patches alone.

    python benchmarks/misplaced.py make --root data/mvtec/transistor --output data/misplaced
    python benchmarks/misplaced.py clothes --root data/fashion-mnist --label 9 --output data/clothes/boot
    python benchmarks/misplaced.py run --data data/misplaced --output figures/misplaced [--recipes glance patch-knn …]
    python benchmarks/misplaced.py run --data data/misplaced --output figures/misplaced --table

``make`` takes the normal images of one category in MVTec layout, whose images should show an object in one pose, and
writes another category: its training images, and of its normal test images

- ``misplaced``: a crop of *another* normal image, pasted at another place, at least a crop's side away in y or x;
- ``control``: a crop of another normal image, pasted at its *own* place.

Both are cut from test images of which none is also shown as normal. They have the same sizes and the same soft rim, and
take on the mean and deviation of each color of what they cover, from which theirs were not far. The mask is where more
than a tenth of a pixel is new. So a method that finds ``misplaced`` and not ``control`` finds the place; one that finds
both finds seams.

``clothes`` writes a class of Fashion-MNIST as such a category, for where no other objects in one pose are at hand.

``run`` carries out recipes on it, each an ``adkit run`` whose result is kept. The table has for each kind the image
AUROC against the normal test images, pixel AUROC and AUPRO, and the difference in image AUROC, with 95% intervals by
resamples of the normal images and of the pairs (one misplaced and one control of the same image).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adkit.metrics import image_metrics
from adkit.report.report import Report

SIDE = 256
"""Height and width of the images that are written."""
CROP = (0.2, 0.35)
"""The smallest and the largest side of a crop, as a share of the image's."""
RIM = 0.12
"""The width of the soft rim, as a share of the crop's side."""
VISIBLE = 8.0
"""The least mean change of what a misplaced crop covers, of 255."""
SHOWS = 10.0
"""The least deviation of what a crop shows and covers, of 255."""
STRETCHED = 1.5
"""By how much the deviation of a crop may be changed at most; more would not leave it a normal part."""
SHIFTED = 12.0
"""By how much the mean of a crop may be changed at most, of 255."""
RESAMPLES = 2000
KINDS = ("misplaced", "control")
LOCAL = ["scorer.covariance=local"]
UNTRAINED = [
    *("adapter.fine_tuning=0", "adapter.head_rate=1e-12"),
    *("training.minibatches=1", "training.learning_rate=1e-12"),
]
"""The same detector with the weights that it begins with, all but for rounding."""
METHODS: dict[str, tuple[str, list[str]]] = {
    "glance": ("glance", []),
    "glance-untrained": ("glance", UNTRAINED),
    "patch-knn": ("quickstart", []),
    "padim": ("padim", []),
    "gaussian-local": ("gaussian", LOCAL),
    "spade": ("spade", []),
}
"""Name → recipe and overrides."""

Pixels = NDArray[np.uint8]


def main() -> None:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("make")
    made.add_argument("--root", type=Path, required=True, help="a category in MVTec layout")
    made.add_argument("--output", type=Path, required=True)
    made.add_argument("--seed", type=int, default=0)
    clothes = commands.add_parser("clothes")
    clothes.add_argument("--root", type=Path, required=True, help="the folder of the idx.gz files of Fashion-MNIST")
    clothes.add_argument("--output", type=Path, required=True)
    clothes.add_argument("--label", type=int, required=True)
    clothes.add_argument("--count", type=int, nargs=2, default=(400, 200), metavar=("TRAINING", "TEST"))
    ran = commands.add_parser("run")
    ran.add_argument("--data", type=Path, required=True)
    ran.add_argument("--output", type=Path, required=True)
    ran.add_argument("--recipes", nargs="+", default=list(METHODS), help="names of METHODS, or recipe files")
    ran.add_argument("--set", action="append", default=[], help="an override for every run")
    ran.add_argument("--table", action="store_true", help="only show what is there")
    options = parser.parse_args()
    if options.command == "make":
        make(options.root, options.output, np.random.default_rng(options.seed))
        return
    if options.command == "clothes":
        for half, count in zip(("train", "test"), options.count, strict=True):
            write_clothes(options.root, half, options.label, count, options.output)
        return
    if not options.table:
        for recipe in options.recipes:
            measure(recipe, options)
    show(options.output, [Path(recipe).stem for recipe in options.recipes])


def make(root: Path, output: Path, rng: np.random.Generator) -> None:
    """Write the category; half of the normal test images stay normal, the other half are pasted into."""
    category = output / root.name
    for kind in (*KINDS, "good"):
        (category / "test" / kind).mkdir(parents=True, exist_ok=False)
    (category / "train" / "good").mkdir(parents=True)
    for path in sorted(path for path in (root / "train" / "good").iterdir() if path.is_file()):
        # Enlarged the way the test images are, or that would tell them apart.
        Image.fromarray(read(path)).save(category / "train" / "good" / f"{path.stem}.png")
    paths = sorted(path for path in (root / "test" / "good").iterdir() if path.is_file())
    order = [paths[i] for i in rng.permutation(len(paths))]
    normal, changed = order[: len(order) // 2], order[len(order) // 2 :]
    for path in normal:
        Image.fromarray(read(path)).save(category / "test" / "good" / f"{path.stem}.png")
    for number, path in enumerate(changed):
        image, side = read(path), int(rng.uniform(*CROP) * SIDE)
        for other in [*changed[number + 1 :], *changed[:number]]:
            donor = read(other)
            if (found := places(image, donor, side, rng)) is not None:
                break
        else:
            print(f"{path.name} is left out: no other image has a crop of {side} pixels of colors like its own")
            continue
        source, target = found
        for kind, origin in (("misplaced", source), ("control", target)):
            pasted, mask = paste(image, donor, origin, target, side)
            masks = category / "ground_truth" / kind
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pasted).save(category / "test" / kind / f"{path.stem}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{path.stem}_mask.png")


def write_clothes(root: Path, half: str, label: int, count: int, output: Path) -> None:
    """Write the first ``count`` images of a class of Fashion-MNIST, 28 pixels wide, as good ones in MVTec layout."""
    name = {"train": "train", "test": "t10k"}[half]
    with gzip.open(root / f"{name}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(root / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    folder = output / half / "good"
    folder.mkdir(parents=True, exist_ok=False)
    for number in np.flatnonzero(labels == label)[:count]:
        Image.fromarray(images[number]).save(folder / f"{number:05}.png")


def places(image: Pixels, donor: Pixels, side: int, rng: np.random.Generator) -> NDArray[Any] | None:
    """Where to take a misplaced crop from and where to paste it, as two corners (y, x); None if nowhere was found."""
    drawn = rng.integers(0, SIDE - side + 1, (1000, 2, 2))
    apart = drawn[np.abs(drawn[:, 0] - drawn[:, 1]).max(1) >= side]
    for source, target in apart:
        if not (like(image, donor, source, target, side) and like(image, donor, target, target, side)):
            continue
        pasted, mask = paste(image, donor, source, target, side)
        if np.abs(pasted.astype(float) - image)[mask].mean() >= VISIBLE:
            return np.stack([source, target])
    return None


def like(image: Pixels, donor: Pixels, source: NDArray[Any], target: NDArray[Any], side: int) -> bool:
    """Whether a crop of ``donor`` at ``source`` has about the colors of what it would cover at ``target``."""
    cut, covered = (of[y : y + side, x : x + side] for of, (y, x) in ((donor, source), (image, target)))
    low, high = sorted((float(cut.std()), float(covered.std())))
    return bool(low >= SHOWS and high <= STRETCHED * low and abs(cut.mean() - covered.mean()) <= SHIFTED)


def read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def paste(
    image: Pixels, donor: Pixels, source: NDArray[Any], target: NDArray[Any], side: int
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Paste the crop of ``donor`` at ``source`` into ``image`` at ``target``, by its colors, with a soft rim."""
    here = tuple(slice(start, start + side) for start in target)
    there = tuple(slice(start, start + side) for start in source)
    covered, piece = image[here].astype(float), donor[there].astype(float)
    piece = (piece - piece.mean((0, 1))) / (piece.std((0, 1)) + 1e-6) * covered.std((0, 1)) + covered.mean((0, 1))
    inside = np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side)) / (RIM * side)
    ramp = np.clip(inside, 0, 1)
    opacity = (ramp[:, None] * ramp)[..., None]
    found, mask = image.copy(), np.zeros((SIDE, SIDE), bool)
    found[here] = np.rint(np.clip(covered + opacity * (piece - covered), 0, 255)).astype(np.uint8)
    mask[here] = opacity[..., 0] > 0.1
    return found, mask


def measure(recipe: str, options: argparse.Namespace) -> None:
    """Run a recipe, unless that was done."""
    file, overrides = METHODS.get(recipe, (recipe, []))
    name = Path(recipe).stem
    if (options.output / name / "report.json").exists():
        return
    path = Path(file) if Path(file).suffix else Path(__file__).parents[1] / "recipes" / f"{file}.toml"
    data = ["data.format=mvtec", f"data.root={options.data}", 'data.category="*"', f"run.name={name}"]
    keys = [f"--set={one}" for one in (*data, *overrides, *options.set)]
    command = [sys.executable, "-m", "adkit", "run", path, "--output", options.output, "--resume", *keys]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    print(f"{name}: {'done' if done.returncode == 0 else done.stderr.strip()[-2000:]}", flush=True)


def show(output: Path, names: Sequence[str]) -> None:
    print("| method | misplaced | control | difference | pixel AUROC | AUPRO | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        if not (output / name / "report.json").exists():
            continue
        report = Report.load(output / name / "report.json")
        auroc = aurocs(output / name / "scores.csv")
        (category,) = report.categories.values()
        pixels = category.kinds["misplaced"].metrics
        cells = [f"{value:.3f} [{low:+.3f}, {high:+.3f}]" for value, low, high in auroc]
        shown = [f"{pixels[key]:.3f}" if pixels.get(key) is not None else "" for key in ("pixel_auroc", "pixel_aupro")]
        print(f"| {' | '.join([name, *cells, *shown, f'{sum(report.timings.values()):.0f}'])} |")


def aurocs(path: Path) -> list[tuple[float, float, float]]:
    """Image AUROC of ``misplaced`` and ``control``, and their difference, each with its 95% interval."""
    scores: dict[str, dict[str, float]] = {"good": {}, **{kind: {} for kind in KINDS}}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                scores[row["kind"]][Path(row["id"]).stem] = float(row["score"])
    normal = np.array(list(scores["good"].values()))
    pairs = np.array([[scores[kind][stem] for kind in KINDS] for stem in sorted(scores["control"])])
    rng = np.random.default_rng(0)

    def values(good: NDArray[Any], bad: NDArray[Any]) -> list[float]:
        labels = np.r_[np.zeros(len(good), int), np.ones(len(bad), int)]
        both = [image_metrics(np.r_[good, one], labels)["image_auroc"] for one in bad.T]
        return [*both, both[0] - both[1]]

    drawn = [
        values(rng.choice(normal, len(normal)), pairs[rng.integers(0, len(pairs), len(pairs))])
        for _ in range(RESAMPLES)
    ]
    bounds = np.quantile(drawn, (0.025, 0.975), axis=0).T
    return [(one, low, high) for one, (low, high) in zip(values(normal, pairs), bounds, strict=True)]


if __name__ == "__main__":
    main()
