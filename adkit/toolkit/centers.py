"""Centers of normal features, and the distances of features from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Literal

import torch
from torch import Tensor

from adkit.plugin.types import Features, Level
from adkit.toolkit.covariance import Means

Centers = Literal["level", "location"]
"""Whether a level has one center or one per location."""
Distance = Literal["l1", "l2", "squared_l2"]
"""How the distance of a feature from its center is measured."""


def fit_centers(levels: Mapping[str, Level], images: Iterable[Features], centers: Centers) -> dict[str, Tensor]:
    """Compute the mean of every level over all images, in one pass and in float64.

    Returns:
        Level name → float32 center: (c,) where ``centers`` is "level", the mean over all locations, too; else
        (h, w, c). Empty where there are no images.
    """
    per_level = centers == "level"
    means: dict[str, Means] = {}
    devices = {}
    for features in images:
        for name, values in features.items():
            if name not in means:
                groups = 1 if per_level else prod(levels[name].grid)
                means[name] = Means(groups, levels[name].channels, str(values.device))
                devices[name] = values.device
            means[name].add(values.flatten(0, 2)[None] if per_level else values.flatten(1, 2).transpose(0, 1))
    shapes = {name: (-1,) if per_level else (*levels[name].grid, -1) for name in means}
    return {name: mean.means.float().view(shapes[name]).to(devices[name]) for name, mean in means.items()}


def distances(values: Tensor, center: Tensor, distance: Distance) -> Tensor:
    """Compute how far each location is from its center; differentiable, with a gradient of 0 at the center itself.

    Args:
        values: (n, h, w, c) features.
        center: (c,), or (h, w, c) with one center per location.

    Returns:
        (n, h, w) distances.
    """
    differences = values - center
    if distance == "squared_l2":
        return differences.square().sum(3)
    lengths: Tensor = torch.linalg.vector_norm(differences, ord=1 if distance == "l1" else 2, dim=3)
    return lengths
