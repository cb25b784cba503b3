"""Measures on a GPU what takes one: whole paths beside bare networks, searches, the coreset, and two trainings.

    python benchmarks/gpu.py [throughput search coreset epoch panda] [--output figures/gpu.json] [--device cuda]

Images are drawn, and backbones have random weights, which serve for speed. Every line of the table is one figure.

- throughput: images a second from JPEG files of 512 × 512 pixels to features in bfloat16, batches of 64, beside
  timm's model alone on images that lie on the GPU in the same precision.
- search: the 9 nearest of 200,000 rows, for 50,000 queries of 512 channels, in float32.
- coreset: 1% of 100,000 features of 152 channels.
- epoch: seconds from one look of the vicinal stopper to the next, in gaussian-finetune.toml on brick, with its draws
  kept and with ``stopper.redraw``, which makes them at every look as all looks once did.
- panda: 2,300 minibatches of PANDA with a ResNet-152 whose last two blocks are trained, as in the paper.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adkit_plugins.stoppers.vicinal import Vicinal
from coreset import drawn
from measured import begun, origin, write
from PIL import Image

import adkit
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.inference.assemble import assemble
from adkit.inference.device import autocast
from adkit.inference.sources import ImageSource
from adkit.plugin import Look, Verdict
from adkit.recipe.reader import read_recipe
from adkit.toolkit.backbones import create_backbone
from adkit.toolkit.coreset import greedy_k_center
from adkit.toolkit.neighbors import Bank

RECIPES = Path(__file__).parents[1] / "recipes"
IMAGES = 1024
BATCH = 64
ROUNDS = 3


def main() -> None:
    os.environ.setdefault("ADKIT_CACHE_GB", "0")  # every run computes its own features
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(JOBS), help="of " + ", ".join(JOBS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    options = parser.parse_args()
    if unknown := [what for what in options.what if what not in JOBS]:  # argparse refuses a default of several choices
        parser.error(f"what: expected some of {', '.join(JOBS)}, found {', '.join(unknown)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device: expected a GPU that torch can use, found none: --device cpu shows that it runs")
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    found: dict[str, Any] = {**origin(begun()), "device": name}
    print(f"{name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what:
            started = time.perf_counter()
            figures = JOBS[what](Path(folder), options.device)
            found[what] = figures
            for label, value in figures.items():
                print(f"  {what:<10} {label:<58} {value:10.3f}")
            print(f"  {what:<10} {'seconds in all':<58} {time.perf_counter() - started:10.1f}", flush=True)
            write(found, options.output)  # what was measured stays, whatever happens to the next


def seconds(work: Callable[[], object], device: str, rounds: int = ROUNDS) -> float:
    """The median time of ``work`` after one to warm up, until the device is done."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def pictures(folder: Path) -> Path:
    """A category of drawn images in MVTec layout, made once."""
    root = folder / "pictures"
    train = root / "drawn" / "train" / "good"
    if root.exists():
        return root
    for part in (train, root / "drawn" / "test" / "good", root / "drawn" / "test" / "bad"):
        part.mkdir(parents=True)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        to = train if number < IMAGES else train.parents[1] / "test" / ("good", "bad")[number % 2]
        small.resize((512, 512), Image.Resampling.BICUBIC).save(to / f"{number:05}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(IMAGES + 64)))
    return root


def throughput(folder: Path, device: str) -> dict[str, float]:
    figures = {}
    for backbone in ("wide_resnet50_2", "tf_efficientnet_b4"):
        keys = {
            "data.root": pictures(folder),
            "data.format": "mvtec",
            "data.batch_size": BATCH,
            "data.calibration": 0,
            "extractor.backbone": backbone,
            "extractor.weights": "none",
            "run.device": device,
            "run.precision": "bfloat16",
        }
        parts = assemble(read_recipe(RECIPES / "dn2.toml", [f"{key}={value}" for key, value in keys.items()]))
        (category,) = open_dataset(parts.recipe.data, 0).categories
        samples = category.train
        model = create_backbone(backbone, "none", 0).eval().to(device, memory_format=torch.channels_last)
        batches = islice(parts.loader(samples, BadImages(0), BATCH, False), 4)
        held = [one.images.to(device).contiguous(memory_format=torch.channels_last) for one in batches]

        def bare(model: Any = model, held: Any = held, parts: Any = parts) -> None:
            with torch.inference_mode(), autocast(parts.context):
                for images in held:
                    model.forward_head(model.forward_features(images), pre_logits=True)

        def decoded(parts: Any = parts, samples: Any = samples) -> None:
            for _ in parts.loader(samples, BadImages(0), BATCH, False):
                pass

        def whole(parts: Any = parts, samples: Any = samples) -> None:
            source = ImageSource(parts, BadImages(0), len(samples))
            for _ in source.stream(samples, parts.embeddings, lambda images: None, targets=False):
                pass

        alone = BATCH * len(held) / seconds(bare, device)
        paths = {"decoding alone": decoded, "files to features": whole}
        rates = {name: len(samples) / seconds(work, device) for name, work in paths.items()}
        figures[f"{backbone} alone, images/s"] = alone
        figures |= {f"{backbone}, {name}, images/s": rate for name, rate in rates.items()}
        figures[f"{backbone}, files to features, of the network alone"] = rates["files to features"] / alone
    return figures


def search(folder: Path, device: str) -> dict[str, float]:
    rows = drawn(250_000, 512).to(device)
    bank = Bank(rows[:200_000])
    return {"50,000 queries of 200,000 rows, s": seconds(lambda: bank.distances(rows[200_000:], 9), device)}


def coreset(folder: Path, device: str) -> dict[str, float]:
    rows = drawn(100_000, 152).to(device)
    return {"1,000 of 100,000 features, s": seconds(lambda: greedy_k_center(rows, 1000), device)}


def epoch(folder: Path, device: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    values: dict[str, list[Any]] = {}
    judge = Vicinal.check
    for name, redraw in {"kept": "false", "made at every look": "true"}.items():
        times: list[float] = []
        values[name] = []

        def check(self: Vicinal, look: Look, times: Any = times, seen: Any = values[name]) -> Verdict:
            found = judge(self, look)
            times.append(time.perf_counter())
            seen.append(found.value)
            return found

        Vicinal.check = check  # type: ignore[method-assign]
        keys = [f"data.root={folder / 'textures'}", "data.category=brick", "training.epochs=5", f"run.device={device}"]
        keys += [f"stopper.redraw={redraw}", "run.synthetic=0", "data.calibration=0", f'run.name="{name}"']
        started = time.perf_counter()
        adkit.run(RECIPES / "gaussian-finetune.toml", overrides=keys, output=folder / "runs")
        figures[f"first look, draws {name}, s"] = times[0] - started
        figures[f"an epoch, draws {name}, s"] = statistics.median(np.diff(times).tolist())
    Vicinal.check = judge  # type: ignore[method-assign]
    kept, made = (figures[f"an epoch, draws {name}, s"] for name in values)
    return figures | {"an epoch, made at every look / kept": made / kept}


def panda(folder: Path, device: str) -> dict[str, float]:
    keys = [f"data.root={pictures(folder)}", "data.format=mvtec", "extractor.backbone=resnet152"]
    keys += ["extractor.weights=none", 'adapter.blocks=["layer3", "layer4"]', "training.relative_steps=false"]
    keys += ["training.learning_rate=1e-2", "training.clip_norm=1e-3", "training.weight_decay=5e-5"]
    keys += [
        "training.minibatches=2300",
        "training.snapshot_epochs=100",
        f"run.device={device}",
        "run.synthetic=0",
        "run.name=panda",
    ]
    report = adkit.run(RECIPES / "panda.toml", overrides=keys, output=folder / "runs")
    (category,) = report.categories.values()
    return {"2,300 minibatches of 32, s": sum(one.seconds for one in category.trainings), **report.timings}


JOBS: dict[str, Callable[[Path, str], dict[str, float]]] = {
    "throughput": throughput,
    "search": search,
    "coreset": coreset,
    "epoch": epoch,
    "panda": panda,
}

if __name__ == "__main__":
    main()
