"""Measures the peak memory of a process that searches nearest neighbors among 100,000 features of 320 channels.

    python benchmarks/knn_memory.py [--rows 100000] [--channels 320]

The baseline is the process after its imports; the bank itself takes rows × channels × 4 bytes.
"""

from __future__ import annotations

import argparse
import time

import faiss  # noqa: F401 - so that the baseline has every import
import torch
from adkit_plugins.scorers.knn import Knn, KnnParams

from adkit.plugin import Context
from adkit.testing import feature_stream
from adkit.utils.environment import peak_memory_bytes
from adkit.utils.text import counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--channels", type=int, default=320)
    options = parser.parse_args()

    from adkit.plugin import Geometry, Level

    imports = peak_memory_bytes()
    level = Level(options.channels, (1, 1), Geometry((112.0, 112.0), (224.0, 224.0)))
    stream = feature_stream({"pool": level}, options.rows, 0)
    scorer = Knn(KnnParams(), Context())
    started = time.perf_counter()
    scorer.fit(stream)
    fitted = time.perf_counter()
    queries = 0
    for features in stream:
        scorer.score(features)
        queries += features.count
        if queries >= 1000:
            break
    scored = time.perf_counter()
    print(f"imports {imports / 1e6:.0f} MB, bank {options.rows * options.channels * 4 / 1e6:.0f} MB")
    print(f"peak {peak_memory_bytes() / 1e6:.0f} MB")
    threads = counted(torch.get_num_threads(), "thread")
    print(f"fit {fitted - started:.1f} s, {queries / (scored - fitted):.0f} queries/s, {threads}")


if __name__ == "__main__":
    main()
