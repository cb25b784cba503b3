"""Compares the images per second of adkit's embedding with those of the bare backbone in the same run.

    python benchmarks/speed.py [--root FOLDER] [--images 512]

The baseline is timm's model as it comes (float32, channels last) on images that are already tensors; adkit decodes,
resizes, normalizes, and returns channels-last features. A ratio above 1 means that adkit is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages, Loader
from adkit.inference.assemble import assemble
from adkit.inference.sources import ImageSource
from adkit.recipe.reader import read_recipe
from adkit.toolkit.backbones import create_backbone
from adkit.utils.text import counted

RECIPE = Path(__file__).parents[1] / "recipes" / "dn2.toml"
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/textures", help="a folder in MVTec layout")
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()

    def parts(precision: str):
        return assemble(
            read_recipe(RECIPE, [f"data.root={options.root}", "data.calibration=0", f"run.precision={precision}"])
        )

    bare = create_backbone("tf_efficientnet_lite0", "packaged", 0).eval().to(memory_format=torch.channels_last)
    settings = {precision: parts(precision) for precision in ("float32", "bfloat16")}
    dataset = open_dataset(settings["float32"].recipe.data, 0)
    samples = [sample for category in dataset.categories for sample in category.train][: options.images]
    loader = Loader(samples, settings["float32"].view, 32, BadImages(0))
    held = [batch.images.contiguous(memory_format=torch.channels_last) for batch in islice(loader, 4)]

    def run_bare() -> None:
        with torch.inference_mode():
            for images in held:
                bare.forward_head(bare.forward_features(images), pre_logits=True)

    def run_decoding() -> None:
        for _ in loader:
            pass

    def run_whole(precision: str) -> None:
        parts = settings[precision]
        source = ImageSource(parts, BadImages(0), len(samples))
        for _ in source.stream(samples, parts.embeddings, lambda images: None, targets=False):
            pass

    jobs: dict[str, tuple[Callable[[], None], int]] = {
        "bare backbone, float32": (run_bare, sum(map(len, held))),
        "decoding alone": (run_decoding, len(samples)),
        "adkit, float32": (lambda: run_whole("float32"), len(samples)),
        "adkit, bfloat16": (lambda: run_whole("bfloat16"), len(samples)),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for work, _ in jobs.values():  # warm up
        work()
    for _ in range(ROUNDS):  # in turn, so that a slow moment of the machine meets all of them
        for name, (work, _) in jobs.items():
            times[name].append(seconds(work))
    baseline = jobs["bare backbone, float32"][1] / statistics.median(times["bare backbone, float32"])
    images, threads = counted(len(samples), "image"), counted(torch.get_num_threads(), "thread")
    print(f"{images}, {threads}, median of {ROUNDS} rounds")
    for name, (_, count) in jobs.items():
        rate = count / statistics.median(times[name])
        print(f"  {name:<24} {rate:7.1f} images/s   {rate / baseline:5.2f} of the bare backbone")


if __name__ == "__main__":
    main()
