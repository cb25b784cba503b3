"""Measures choosing a coreset: its time beside that of measuring every feature from every chosen one.

    python benchmarks/coreset.py [--features 156800] [--channels 152] [--share 0.01] [--rows rows.pt] [--device cuda]
        [--output figures/coreset.json]

Features are drawn (a mixture of clusters with a few directions each, as those of images are), or read from
``--rows``, a tensor (m, c) of floats that torch saved. The two ways must choose the same rows, or the exit status is 1.
Both end early where all that is left are copies of chosen rows. The plain one is given ``--plain`` passes, and the rest
is extrapolated, since every pass takes the same time.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from pathlib import Path

import torch
from measured import begun, origin, table, write
from torch import Tensor

from adkit.inference.device import available_devices
from adkit.toolkit.coreset import greedy_k_center
from adkit.toolkit.neighbors import pairwise


def drawn(count: int, channels: int) -> Tensor:
    """(count, channels) features of 50 clusters in 12 directions, and noise in all."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(12, channels, generator=generator)
    centers = 3 * torch.randn(50, 12, generator=generator)
    places = centers[torch.randint(50, (count,), generator=generator)] + torch.randn(count, 12, generator=generator)
    return places @ directions + 0.3 * torch.randn(count, channels, generator=generator)


def read(path: Path) -> Tensor | None:
    """The features that torch saved there, in float32; None: something else lies there."""
    try:
        rows = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError):  # what torch says of other files
        return None
    if not (isinstance(rows, Tensor) and rows.is_floating_point() and rows.ndim == 2 and len(rows) > 1):
        return None
    rows = rows.float()
    return rows if rows.numel() and rows.isfinite().all() else None


def plain(rows: Tensor, passes: int) -> list[int]:
    lengths = torch.full((len(rows),), torch.inf, device=rows.device)
    chosen = [0]
    while True:
        lengths = torch.minimum(lengths, pairwise(rows, rows[chosen[-1]][None])[:, 0])
        if len(chosen) == passes or float(lengths.max()) == 0:
            return chosen
        chosen.append(int(lengths.argmax()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=156_800)
    parser.add_argument("--channels", type=int, default=152)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--plain", type=int, default=200, help="passes of the plain way")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--device", default="cpu", choices=available_devices())
    parser.add_argument("--output", type=Path, help="a JSON file of the figures")
    options = parser.parse_args()
    start = begun()
    for name, least in {"plain": 1, "features": 2, "channels": 1}.items():
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name}: expected {least} or more, found {value}")
    if not 0 < options.share < 1:
        parser.error(f"--share: expected a number between 0 and 1, found {options.share}")
    if options.rows is not None and not options.rows.is_file():
        parser.error(f"--rows: expected a file, found none at {options.rows}")
    rows = drawn(options.features, options.channels) if options.rows is None else read(options.rows)
    if rows is None:
        parser.error(f"--rows: expected a tensor (m, c) of finite floats, m at least 2, found none in {options.rows}")
    rows = rows.to(options.device)
    count = max(1, round(options.share * len(rows)))
    started = time.perf_counter()
    found = greedy_k_center(rows, count).tolist()
    quick = time.perf_counter() - started
    passes = min(count, options.plain)
    started = time.perf_counter()
    known = plain(rows, passes)
    slow = (time.perf_counter() - started) * len(found) / len(known)
    same = known == found[:passes]
    figures = {
        "features": len(rows),
        "channels": rows.shape[1],
        "chosen": len(found),
        "seconds": round(quick, 2),
        "plain_seconds": round(slow, 2),
        "ratio": round(slow / quick, 1),
        "same_rows": same,
        "device": options.device,
        "threads": torch.get_num_threads(),
    }
    cells = [f"{value:,}" if type(value) is int else str(value) for value in figures.values()]
    print(table(list(figures), [cells]))
    write({**origin(start), **figures}, options.output)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
