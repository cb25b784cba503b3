"""Checks that a localizer keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from adkit.plugin.localizer import Localizer
from adkit.plugin.types import Geometry, Scores
from adkit.testing.asserts import (
    generators_untouched,
    made,
    require,
    require_batchwise,
    require_close,
    require_contract,
    require_finite,
    run_checks,
    running,
    untouched,
)
from adkit.testing.samples import SIZE

GRIDS: Final = {"layer1": (6, 5), "layer2": (3, 3)}
"""The grids of the maps that a localizer is given."""
HOT: Final = 0.9
"""The least share of the value elsewhere that a hot cell has: smoothing beyond the size of the input evens out all."""


def check_localizer(
    make: Callable[[], Localizer],
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of a localizer, and raise one AssertionError that names all that failed.

    Args:
        make: a function that gives a fresh localizer, always with the same parameters and seed.
        size: (height, width) of the input, as in the context that the localizer was built with.
        tolerance: share of the largest value by which batches may differ.
        device: the torch device to check on.
    """
    checks = _Checks(make, size, tolerance, device)
    run_checks(
        checks.contract,
        checks.finite,
        checks.other_size,
        checks.inputs,
        checks.generators,
        checks.seed,
        checks.batches,
        checks.unit,
        checks.place,
        checks.shift,
    )


@dataclass(frozen=True)
class _Checks:
    make: Callable[[], Localizer]
    size: tuple[int, int]
    tolerance: float
    device: str

    @property
    def maps(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {name: torch.rand((10, *grid), generator=generator).to(self.device) for name, grid in GRIDS.items()}

    def given(self, maps: Mapping[str, Tensor]) -> Scores:
        """Scores with copies of ``maps``, which cover the input."""
        grids = {name: (cells.shape[1], cells.shape[2]) for name, cells in maps.items()}
        image = torch.stack([cells.amax((1, 2)) for cells in maps.values()]).mean(0)
        geometry = {name: Geometry.covering(grid, self.size) for name, grid in grids.items()}
        return Scores(image, {name: cells.clone() for name, cells in maps.items()}, geometry)

    def drawn(self, maps: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """What a fresh localizer makes of ``maps``; default: in the size of the input."""
        localizer: Localizer = made("localizer", self.make)
        with running("localize(scores, size)"):
            return localizer.localize(self.given(maps), size or self.size)

    def contract(self) -> None:
        require_contract("localizer", self.make)

    def finite(self) -> None:
        require_finite("the map", self.drawn(self.maps))

    def other_size(self) -> None:
        """One level at another size; the guard looks at the shape."""
        self.drawn({"layer1": self.maps["layer1"]}, (17, 31))

    def inputs(self) -> None:
        localizer: Localizer = made("localizer", self.make)
        scores = self.given(self.maps)
        with untouched("inputs", "maps", scores.maps), running("localize(scores, size)"):
            localizer.localize(scores, self.size)

    def generators(self) -> None:
        with generators_untouched():
            self.drawn(self.maps)

    def seed(self) -> None:
        one, other = ({"map": self.drawn(self.maps)} for _ in range(2))
        require_close("seed", "two localizers of one seed to give equal maps", one, other, 0.0)

    def batches(self) -> None:
        def localize(first: int, last: int) -> dict[str, Tensor]:
            return {"map": self.drawn({name: cells[first:last] for name, cells in self.maps.items()})}

        require_batchwise(localize, 10, self.tolerance)

    def unit(self) -> None:
        """Maps keep the scorer's unit: an image whose cells are so many times as large gets such a map."""
        factors = torch.arange(1.0, 11.0, device=self.device)[:, None, None]
        expected = self.drawn(self.maps) * factors
        found = self.drawn({name: cells * factors for name, cells in self.maps.items()})
        wanted = "maps in the scorer's raw unit, of images whose scores are 1 to 10 times as large"
        require_close("unit", wanted, {"map": expected}, {"map": found}, self.tolerance)

    def place(self) -> None:
        """The only hot cell of a map is hotter than its mirror images, however much a localizer smooths."""
        for row, column in ((1, 3), (4, 1)):
            mirrors = [(5 - row, column), (row, 4 - column), (5 - row, 4 - column)]
            self._check_hottest("layer1", (row, column), mirrors, "its mirror images")

    def shift(self) -> None:
        """The cell in the middle, which an edge is nowhere nearer than opposite, is hotter than those beside it."""
        self._check_hottest("layer2", (1, 1), [(0, 1), (2, 1), (1, 0), (1, 2)], "those beside it")

    def _check_hottest(
        self, name: str, hot: tuple[int, int], others: Sequence[tuple[int, int]], described: str
    ) -> None:
        cells = torch.zeros(1, *GRIDS[name], device=self.device)
        cells[0, hot[0], hot[1]] = 1
        drawn = self.drawn({name: cells})[0]
        require_finite("the map", drawn)
        step = [size / count for size, count in zip(self.size, GRIDS[name], strict=True)]

        def at(cell: tuple[int, int]) -> float:
            """The value in the center of a cell."""
            return float(drawn[int((cell[0] + 0.5) * step[0]), int((cell[1] + 0.5) * step[1])])

        hottest = max(others, key=at)
        wanted = f"the only hot cell of {name}, {hot}, to be hotter in the map than {described}"
        require(
            at(hot) > 0 and at(hot) >= HOT * at(hottest),
            "place",
            wanted,
            f"{at(hot):.3g} there and {at(hottest):.3g} in {hottest}",
        )
