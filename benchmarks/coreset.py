"""Measures choosing a coreset: its time beside that of measuring every feature from every chosen one.

    python benchmarks/coreset.py [--features 156800] [--channels 152] [--share 0.01] [--rows rows.pt] [--device cuda]

Features are drawn (a mixture of clusters with a few directions each, as those of images are), or read from
``--rows``, a tensor (m, c) that torch saved. The two ways must
choose the same rows, or the exit status is 1. The plain one is given ``--plain`` passes, and the rest is extrapolated,
since every pass takes the same time.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from adkit.toolkit.coreset import greedy_k_center
from adkit.toolkit.neighbors import pairwise


def drawn(count: int, channels: int) -> Tensor:
    """(count, channels) features of 50 clusters in 12 directions, and noise in all."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(12, channels, generator=generator)
    centers = 3 * torch.randn(50, 12, generator=generator)
    places = centers[torch.randint(50, (count,), generator=generator)] + torch.randn(count, 12, generator=generator)
    return places @ directions + 0.3 * torch.randn(count, channels, generator=generator)


def plain(rows: Tensor, passes: int) -> list[int]:
    lengths = torch.full((len(rows),), torch.inf, device=rows.device)
    chosen = [0]
    while len(chosen) < passes:
        lengths = torch.minimum(lengths, pairwise(rows, rows[chosen[-1]][None])[:, 0])
        chosen.append(int(lengths.argmax()))
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=156_800)
    parser.add_argument("--channels", type=int, default=152)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--plain", type=int, default=200, help="passes of the plain way")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    options = parser.parse_args()
    rows = drawn(options.features, options.channels) if options.rows is None else torch.load(options.rows)
    rows = rows.to(options.device)
    count = max(1, round(options.share * len(rows)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = greedy_k_center(rows, count).tolist()
    quick = time.perf_counter() - started
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    passes = min(count, options.plain)
    started = time.perf_counter()
    same = plain(rows, passes) == found[:passes]
    slow = (time.perf_counter() - started) * count / passes
    figures = {
        "features": len(rows),
        "channels": rows.shape[1],
        "chosen": count,
        "seconds": round(quick, 2),
        "plain_seconds": round(slow, 2),
        "ratio": round(slow / quick, 1),
        "megabytes_beside_the_features": round(more / 1e3),
        "same_rows": same,
        "device": options.device,
        "threads": torch.get_num_threads(),
    }
    print("| " + " | ".join(figures) + " |\n|" + "---|" * len(figures))
    print(
        "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in figures.values()) + " |"
    )
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
