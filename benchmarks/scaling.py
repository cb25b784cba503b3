"""Measures how the time and memory of a run grow with the number of images, by Gaussians and by a fixed bank.

    python benchmarks/scaling.py [--root FOLDER] [--sizes 1000 2000 4000 8000] [--methods gaussian knn] [--output FILE]

For each size N there are N images to train on (of which the default share calibrates) and N / 2 to test on, half of
them called anomalous. They are JPEG files of 256 × 256 pixels, no two alike: crops, mirrored and turned, with other
brightness and contrast, of the images below ``--root``, or of scikit-image's photographs. They are made first, in a
temporary folder.

- gaussian: ``gaussian.toml`` as it is.
- knn: ``quickstart.toml`` with ``scorer.centroids = 256``: K-means of at most 256 × 256 features, however many there
  are, leaves 256 a level.

Every size has a process of its own, which keeps no features; no defects are drawn (``run.synthetic = 0``), which would
take the same time for every size. Seconds grow as N^b, with b by least squares of logarithms, of which there are three:

- fit and score: the stages fit, calibrate and evaluate, from files to scores and maps.
- after the imports: all of ``adkit.run``, with listing, building the network, metrics and the page.
- whole process: with imports, too.

Nothing is subtracted. Wanted: b of at most 1.05 for the first two, and for gaussian a peak memory at the largest N of
at most 1.05 times that at the smallest. The exit status is 1 if it is otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured import begun, concluded, origin, table, verdict, watched, write

# adkit and numpy are imported where they are used: a process begins with the peak memory of the one that starts it.

METHODS: dict[str, tuple[str, list[str]]] = {
    "gaussian": ("gaussian", []),
    "knn": ("quickstart", ["data.format=mvtec", "scorer.centroids=256"]),
}
"""Name → recipe and overrides."""
TIMES = {"fit_and_score": "fit and score", "run": "after the imports", "seconds": "whole process"}
SIDE = 256
GROWTH, FLAT = 1.05, 1.05
"""The most wanted of b, and of the memory at the largest size by that at the smallest."""
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def make(options: argparse.Namespace) -> None:
    """Write the images of the largest size; those of a smaller one are the first of them."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from PIL import Image

    if options.root is None:
        import skimage.data

        names = ("brick", "grass", "gravel", "astronaut", "coffee", "rocket")
        sources = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in names]
    else:
        files = sorted(path for path in options.root.rglob("*") if path.suffix.lower() in ENDINGS)[:64]
        if not files:
            raise SystemExit(f"--root: expected images below {options.root}, found none")
        sources = [Image.open(path).convert("RGB") for path in files]
    most = max(options.sizes)
    kinds = {"train/good": most, "test/good": most // 4, "test/odd": most // 4}
    for kind in kinds:
        (options.work / kind).mkdir(parents=True)

    def write(job: tuple[int, str, int]) -> None:
        place, kind, number = job
        rng = np.random.default_rng((place, number))
        source = sources[int(rng.integers(len(sources)))]
        side = int(min(source.size) * rng.uniform(0.5, 0.9))
        left, top = (int(rng.integers(length - side + 1)) for length in source.size)
        image = source.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        values = np.asarray(image, dtype=np.float32)[:, :: int(rng.choice([-1, 1]))]
        values = np.rot90(values, int(rng.integers(4))) - 128
        values = values * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20) + (40 if kind.endswith("odd") else 0)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        image.save(options.work / kind / f"{number:06}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        jobs = [(place, kind, n) for place, (kind, count) in enumerate(kinds.items()) for n in range(count)]
        list(pool.map(write, jobs))


def fit_and_score(options: argparse.Namespace) -> None:
    """Carry out one run in this process, and write what it took after the imports."""
    from adkit.recipe.reader import read_recipe
    from adkit.runner.run import run

    recipe, settings = METHODS[options.part]
    file = Path(__file__).parents[1] / "recipes" / f"{recipe}.toml"
    data = [f"data.root={options.work}", "data.category=all", "run.name=run", "run.synthetic=0"]
    wanted = read_recipe(file, [*settings, *data])  # which imports the components
    started = time.perf_counter()
    report = run(wanted, output=options.work)
    seconds = time.perf_counter() - started
    scored = sum(report.timings.get(stage, 0.0) for stage in ("fit", "calibrate", "evaluate"))
    found = {
        "fit_and_score": scored,
        "run": seconds,
        "stages": report.timings,
        "image_auroc": report.mean["image_auroc"],
    }
    (options.work / "found.json").write_text(json.dumps(found), encoding="utf-8")


def at_size(method: str, size: int, made: Path) -> dict[str, Any]:
    """What a run takes on the first images of those made."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for kind, count in {"train/good": size, "test/good": size // 4, "test/odd": size // 4}.items():
            to = work / "all" / kind
            to.mkdir(parents=True)
            for number in range(count):
                (to / f"{number:06}.jpg").symlink_to(made / kind / f"{number:06}.jpg")
                (to / f"{number:06}.jpg").read_bytes()  # so that the first does not wait for the disk
        command = [sys.executable, __file__, "--part", method, "--work", work]
        spent = watched(command, env={"ADKIT_CACHE_GB": "0"})
        found = json.loads((work / "found.json").read_text(encoding="utf-8"))
    return {"method": method, "images": size, **found, **asdict(spent)}


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """b of seconds ~ N^b, by least squares of logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['method']}\n")
    columns = ["images to train on", *(f"{words}, s" for words in TIMES.values()), "CPU s", "peak memory, GB"]
    cells = [
        [
            f"{row['images']:,}",
            *(f"{row[key]:.1f}" for key in TIMES),
            f"{row['cpu_seconds']:.0f}",
            f"{row['memory'] / 1e9:.2f}",
        ]
        for row in rows
    ]
    print(table(columns, cells), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder with images; default: photographs of scikit-image")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    parser.add_argument("--part", choices=[*METHODS, "make"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if len(set(options.sizes)) < 2 or min(options.sizes) < 100:
        parser.error("--sizes: expected at least two, of 100 or more")
    options.sizes = sorted(set(options.sizes))
    if options.part:
        (make if options.part == "make" else fit_and_score)(options)
        return 0
    start = begun()
    rows: list[dict[str, Any]] = []
    bounds = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        command = [sys.executable, __file__, "--part", "make", "--work", made]
        command += ["--sizes", *options.sizes, *(["--root", options.root.resolve()] if options.root else [])]
        print(f"  {watched(command).seconds:.0f} s to make the images", file=sys.stderr, flush=True)
        at_size(options.methods[0], options.sizes[0], made)  # which reads from the disk what every run imports
        for method in options.methods:
            for size in options.sizes:
                print(f"  {method}: {size:,} images", file=sys.stderr, flush=True)
                rows.append(at_size(method, size, made))
                write({**origin(start), "runs": rows}, options.output)  # it stays, whatever happens to the next
    growth: dict[str, dict[str, float]] = {}
    for method in options.methods:
        own = [row for row in rows if row["method"] == method]
        show(own)
        growth[method] = {
            words: exponent([row["images"] for row in own], [row[key] for row in own])
            for key, words in {**TIMES, "cpu_seconds": "CPU"}.items()
        }
        print("\nb: " + ", ".join(f"{value:.3f} ({words})" for words, value in growth[method].items()))
        counted = list(TIMES.values())[:2]
        bounds += [verdict(f"{method}: b, {words}", growth[method][words], "≤", GROWTH) for words in counted]
        if method == "gaussian":
            share = own[-1]["memory"] / own[0]["memory"]
            bounds.append(verdict(f"{method}: peak memory at the largest by the smallest", share, "≤", FLAT))
    print()
    return concluded({**origin(start), "growth": growth, "runs": rows, "bounds": bounds}, options.output)


if __name__ == "__main__":
    sys.exit(main())
