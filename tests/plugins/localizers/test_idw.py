"""Localizer ``idw``: inverse distance weighting against its definition, pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from adkit_plugins.localizers import idw
from adkit_plugins.localizers.idw import Idw, IdwParams, adkit_localizers
from torch import Tensor

from adkit import UserError
from adkit.plugin import Context, Geometry, Scores
from adkit.testing import check_component

SIZE = (24, 20)
UNEVEN = Geometry.at((2.5, 10.5, 22.5), (3.5, 15.5))


def draw(cells: Tensor, geometry: Geometry, size: tuple[int, int] = SIZE, **params: object) -> Tensor:
    localizer = Idw(IdwParams.model_validate(params), Context(image_size=SIZE))
    return localizer.localize(Scores(torch.zeros(len(cells)), {"a": cells}, {"a": geometry}), size)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def brute(cells: Tensor, geometry: Geometry, power: float, neighbors: int) -> Tensor:
    """Every pixel by itself, in float64."""
    centers = geometry.centers or tuple(
        tuple(geometry.start[axis] + i * geometry.step[axis] for i in range(cells.shape[axis])) for axis in (0, 1)
    )
    drawn = torch.zeros(SIZE, dtype=torch.float64)
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            near = sorted(
                (((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) ** 0.5, float(cells[row, column]))
                for row, y in enumerate(centers[0])
                for column, x in enumerate(centers[1])
            )[: neighbors or None]
            if near[0][0] == 0:
                drawn[i, j] = near[0][1]
            else:
                weights = [1 / distance**power for distance, _ in near]
                values = [weight * value for weight, (_, value) in zip(weights, near, strict=True)]
                drawn[i, j] = sum(values) / sum(weights)
    return drawn


@pytest.mark.parametrize("params", [{}, {"neighbors": 4, "reduce": "sum"}])
def test_contract(params: dict[str, object]) -> None:
    check_component(adkit_localizers()[0], params)


@pytest.mark.parametrize("geometry", [UNEVEN, Geometry((3.25, 4.75), (7.0, 9.5))], ids=["uneven", "even"])
@pytest.mark.parametrize(("power", "neighbors"), [(5.0, 0), (2.0, 0), (5.0, 1), (3.0, 4)])
def test_every_pixel_is_what_the_definition_says(geometry: Geometry, power: float, neighbors: int) -> None:
    cells = noise(2, 3, 2)
    drawn = draw(cells, geometry, power=power, neighbors=neighbors)
    for one, values in zip(drawn, cells, strict=True):
        expected = brute(values, geometry, power, neighbors)
        equal_distances = neighbors in (1, 4)  # which of two equally near cells counts is not defined
        close = torch.isclose(one.double(), expected, rtol=1e-4, atol=1e-5)
        assert close.float().mean() >= (0.9 if equal_distances else 1.0)


def test_a_pixel_in_the_center_of_a_cell_has_its_value() -> None:
    cells = noise(1, 3, 2)
    drawn = draw(cells, UNEVEN)[0]
    torch.testing.assert_close(drawn[[2, 10, 22]][:, [3, 15]], cells[0], rtol=1e-6, atol=1e-6)


def test_a_pixel_between_two_cells_by_hand() -> None:
    """At distances 1 and 3 of two cells, with power 2: (9 · 2 + 1 · 4) / 10."""
    cells = torch.tensor([[[2.0, 4.0], [2.0, 4.0]]])
    drawn = draw(cells, Geometry.at((0.5, 1e4), (0.5, 4.5)), power=2.0)
    assert float(drawn[0, 0, 1]) == pytest.approx((9 * 2 + 4) / 10, rel=1e-5)


def test_high_powers_take_the_nearest_cell() -> None:
    drawn = draw(noise(1, 3, 2), UNEVEN, power=64.0)
    assert drawn.isfinite().all()
    torch.testing.assert_close(drawn[0, :5, :6], noise(1, 3, 2)[0, 0, 0].expand(5, 6))


def test_maps_are_drawn_in_parts_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(noise(2, 3, 2), UNEVEN)
    monkeypatch.setattr(idw, "WEIGHTS", 1)
    torch.testing.assert_close(draw(noise(2, 3, 2), UNEVEN), whole, rtol=1e-6, atol=1e-6)


def test_levels_are_averaged_or_added() -> None:
    maps = {"a": noise(2, 3, 2), "b": noise(2, 6, 5)}
    geometry = {"a": UNEVEN, "b": Geometry.covering((6, 5), SIZE)}
    alone = [draw(maps[name], geometry[name]) for name in maps]
    scores = Scores(torch.zeros(2), maps, geometry)
    for reduce, expected in (("mean", (alone[0] + alone[1]) / 2), ("sum", alone[0] + alone[1])):
        found = Idw(IdwParams.model_validate({"reduce": reduce}), Context(image_size=SIZE)).localize(scores, SIZE)
        torch.testing.assert_close(found, expected)


def test_scores_without_a_map_are_refused() -> None:
    with pytest.raises(UserError, match=r"localizer\.use: idw needs at least one score map"):
        Idw(IdwParams(), Context(image_size=SIZE)).localize(Scores(torch.zeros(1)), SIZE)
