"""K-means: a few centroids that stand in for many normal features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adkit.plugin.types import Features, Stream
from adkit.toolkit.neighbors import pairwise


def kmeans(rows: Tensor, count: int, seed: int, *, spherical: bool = False) -> Tensor:
    """Find centroids (count, c) of rows (m, c) that are in memory, by faiss on the CPU.

    Args:
        rows: float32, at least ``count`` of them.
        spherical: scale centroids to unit length, for rows of unit length.
    """
    import faiss

    clustering = faiss.Kmeans(
        rows.shape[1],
        count,
        seed=seed,
        spherical=spherical,
        min_points_per_centroid=1,  # fewer than 39 would print a warning
        max_points_per_centroid=len(rows),  # otherwise faiss would sample the rows
    )
    clustering.train(rows.cpu().numpy())
    return torch.from_numpy(clustering.centroids).to(rows.device)


def located(images: Tensor) -> Tensor:
    """Turn the features of m images (m, h, w, c) into the first centroids of each location (h, w, m, c)."""
    return images.permute(1, 2, 0, 3).contiguous()


def located_distances(values: Tensor, centroids: Tensor) -> Tensor:
    """Compute L2 distances (n, h, w, m) of features (n, h, w, c) to their own locations' centroids (h, w, m, c)."""
    return pairwise(values.permute(1, 2, 0, 3), centroids).permute(2, 0, 1, 3)  # (h, w, n, m) before


def recordable_located(values: Tensor, centroids: Tensor) -> Tensor:
    """Compute the distances of ``located_distances`` without ``torch.cdist``, which ONNX has no operation for."""
    lengths: Tensor = torch.linalg.vector_norm(values[:, :, :, None] - centroids, dim=4)
    return lengths


def moved(
    centroids: Mapping[str, Tensor], stream: Stream, describe: Callable[[Features], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Move centroids by one step of Lloyd's algorithm, at every location by itself, holding sums alone.

    Args:
        centroids: level name → (h, w, m, c).
        describe: computes the levels (n, h, w, c) from the stream's features.

    Returns:
        Level name → (h, w, m, c), each centroid the mean of the features that were nearest to it, or the old one
        where there were none.
    """
    sums = {name: torch.zeros_like(old) for name, old in centroids.items()}
    counts = {name: torch.zeros_like(old[..., 0]) for name, old in centroids.items()}
    for features in stream:
        described = describe(features)
        for name, old in centroids.items():
            choices = located_distances(described[name], old).argmin(3)  # (n, h, w)
            rows, columns = (torch.arange(size, device=old.device) for size in old.shape[:2])
            for image, choice in zip(described[name], choices, strict=True):
                place = (rows[:, None], columns[None, :], choice)  # no place twice: the sum is well ordered
                sums[name][place] += image
                counts[name][place] += 1
    for name, old in centroids.items():
        unchosen = counts[name] == 0
        sums[name][unchosen] = old[unchosen]
        sums[name] /= counts[name].clamp_min(1)[..., None]
    return sums
