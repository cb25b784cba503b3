"""Compares the median latency of Detector.predict for one image with that of the bare backbone in the same run.

    python benchmarks/latency.py RUN IMAGE

RUN is a folder that `adkit run recipes/dn2.toml` left, IMAGE a file to score. The baseline is timm's model as it
comes (float32, channels last) on an image that is a tensor already. A ratio below 1 means that the detector is
faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from PIL import Image

from adkit import Detector
from adkit.toolkit.backbones import create_backbone
from adkit.utils.text import counted

ROUNDS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("image")
    options = parser.parse_args()

    detector = Detector.load(options.run)
    with Image.open(options.image) as opened:
        image = opened.convert("RGB")
    bare = create_backbone("tf_efficientnet_lite0", "packaged", 0).eval().to(memory_format=torch.channels_last)
    noise = torch.rand(1, 3, *detector.image_size).contiguous(memory_format=torch.channels_last)

    def run_bare() -> None:
        with torch.inference_mode():
            bare.forward_head(bare.forward_features(noise), pre_logits=True)

    jobs: dict[str, Callable[[], object]] = {
        "bare backbone, float32": run_bare,
        "predict, an image in memory": lambda: detector.predict(image),
        "predict, a file": lambda: detector.predict(options.image),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(ROUNDS + 5):
        for name, work in jobs.items():  # in turn, so that a slow moment of the machine meets all of them
            started = time.perf_counter()
            work()
            if turn >= 5:
                times[name].append(time.perf_counter() - started)
    baseline = statistics.median(times["bare backbone, float32"])
    print(f"median of {ROUNDS} rounds, {counted(torch.get_num_threads(), 'thread')}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name:<30} {1000 * median:6.1f} ms   {median / baseline:5.2f} of the bare backbone")


if __name__ == "__main__":
    main()
