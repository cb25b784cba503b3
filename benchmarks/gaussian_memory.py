"""Measures the peak memory of a process that fits `gaussian`, which must not depend on the number of images.

    python benchmarks/gaussian_memory.py [--images 2000 8000] [--covariance tied]

Each number of images gets a process of its own. Features of the shapes of EfficientNet-Lite 0 at 224 are drawn at
random as they are needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from adkit_plugins.scorers.gaussian import Gaussian, GaussianParams

from adkit.plugin import Context, Features, Geometry, Level
from adkit.utils.environment import peak_memory_bytes
from adkit.utils.text import counted

SHAPES = {"blocks.1": (24, 56), "blocks.2": (40, 28), "blocks.4": (112, 14), "blocks.6": (320, 7), "pool": (1280, 1)}
"""Level → its channels and the side of its grid."""


@dataclass(frozen=True)
class Drawn:
    """A stream of random features that holds no more than one batch."""

    count: int
    batch_size: int = 32

    @property
    def levels(self) -> Mapping[str, Level]:
        return {
            name: Level(channels, (side, side), Geometry.covering((side, side), (224, 224)))
            for name, (channels, side) in SHAPES.items()
        }

    def __iter__(self) -> Iterator[Features]:
        generator = torch.Generator().manual_seed(0)
        geometry = {name: level.geometry for name, level in self.levels.items()}
        for first in range(0, self.count, self.batch_size):
            count = min(self.batch_size, self.count - first)
            yield Features(
                {n: torch.rand(count, side, side, c, generator=generator) for n, (c, side) in SHAPES.items()}, geometry
            )


def fit(images: int, covariance: str) -> None:
    """Fit once in this process, and print the memory and time that it took."""
    imports = peak_memory_bytes()
    scorer = Gaussian(GaussianParams.model_validate({"covariance": covariance}), Context())
    started = time.perf_counter()
    scorer.fit(Drawn(images))
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes()
    fitted = counted(images, "image")
    print(f"{fitted:>14}: peak {peak / 1e6:.1f} MB, of which imports {imports / 1e6:.1f} MB; {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--covariance", choices=["global", "tied", "local"], default="tied")
    options = parser.parse_args()
    if len(options.images) == 1:
        fit(options.images[0], options.covariance)
        return
    for images in options.images:
        command = [sys.executable, __file__, "--images", str(images), "--covariance", options.covariance]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
