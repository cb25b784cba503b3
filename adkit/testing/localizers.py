"""Checks that a localizer keeps its contract."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adkit.plugin.localizer import Localizer
from adkit.plugin.types import Geometry, Scores
from adkit.testing.asserts import (
    generators_untouched,
    require_batchwise,
    require_close,
    require_finite,
    require_methods,
    require_tensor,
    running,
    untouched,
)
from adkit.testing.samples import SIZE


def check_localizer(make: Callable[[], Localizer], tolerance: float = 1e-5, device: str = "cpu") -> None:
    """Run every check of a localizer; one that fails raises an AssertionError.

    Args:
        make: a function that gives a fresh localizer, always with the same parameters and seed.
        tolerance: share of the largest value by which batches may differ.
        device: the torch device to check on.
    """
    scores = _scores({"layer1": (6, 5), "layer2": (3, 3)}, device)
    count = len(scores.image)
    localizer = make()
    require_methods(localizer, "localizer")
    with generators_untouched(), untouched("inputs", "maps", scores.maps):
        found = _localized(localizer, scores, SIZE)
    require_tensor("shapes", "the map", found, (count, *SIZE))
    require_finite("the map", found)
    alone = _localized(localizer, _scores({"layer1": (6, 5)}, device), (17, 31))
    require_tensor("shapes", "the map of one level at another size", alone, (count, 17, 31))
    other = {"map": _localized(make(), scores, SIZE)}
    require_close("seed", "two localizers of one seed to give equal maps", {"map": found}, other, 0.0)

    def localize(first: int, last: int) -> dict[str, Tensor]:
        maps = {name: values[first:last] for name, values in scores.maps.items()}
        return {"map": _localized(localizer, Scores(scores.image[first:last], maps, scores.geometry), SIZE)}

    require_batchwise(localize, count, tolerance)


def _localized(localizer: Localizer, scores: Scores, size: tuple[int, int]) -> Tensor:
    with running("localize(scores, size)"):
        return localizer.localize(scores, size)


def _scores(grids: dict[str, tuple[int, int]], device: str) -> Scores:
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.rand((10, *grid), generator=generator).to(device) for name, grid in grids.items()}
    geometry = {name: Geometry.covering(grid, SIZE) for name, grid in grids.items()}
    image = torch.stack([values.amax((1, 2)) for values in maps.values()]).mean(0)
    return Scores(image, maps, geometry)
