"""Localizer ``bilinear``: where a cell's score is drawn, and how levels become one map."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch
from adkit_plugins.localizers.bilinear import Bilinear, BilinearParams
from pydantic import ValidationError
from torch import Tensor

from adkit import UserError
from adkit.plugin import Context, Geometry, Scores

SIZE = (32, 48)


def draw(
    maps: dict[str, Tensor],
    geometry: dict[str, Geometry] | None = None,
    size: tuple[int, int] = SIZE,
    **params: object,
) -> Tensor:
    geometry = geometry or {
        name: Geometry.covering((cells.shape[1], cells.shape[2]), SIZE) for name, cells in maps.items()
    }
    localizer = Bilinear(BilinearParams.model_validate({"smoothing": 0.0} | params), Context(image_size=SIZE))
    return localizer.localize(Scores(torch.zeros(len(next(iter(maps.values())))), maps, geometry), size)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_constant_map_stays_constant() -> None:
    drawn = draw({"a": torch.full((3, 4, 6), 2.5)}, smoothing=4.0)
    torch.testing.assert_close(drawn, torch.full((3, *SIZE), 2.5))


@pytest.mark.parametrize(("start", "step"), [(0.5, 8.0), (4.0, 8.0), (7.5, 8.0)])
def test_a_cell_is_drawn_where_its_geometry_puts_it(start: float, step: float) -> None:
    cells = torch.zeros(1, 4, 6)
    cells[0, 2, 3] = 1
    drawn = draw({"a": cells}, {"a": Geometry((start, start), (step, step))})[0]
    pixels = torch.arange(48) + 0.5
    center_x = float((drawn.sum(0) * pixels).sum() / drawn.sum())
    center_y = float((drawn.sum(1) * pixels[:32]).sum() / drawn.sum())
    assert (center_y, center_x) == pytest.approx((start + 2 * step, start + 3 * step), abs=0.1)


def test_levels_are_averaged_or_added() -> None:
    maps = {"a": noise(2, 4, 6), "b": noise(2, 8, 12, seed=1)}
    alone = [draw({name: cells}) for name, cells in maps.items()]
    torch.testing.assert_close(draw(maps), (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(draw(maps, reduce="sum"), alone[0] + alone[1])


def test_smoothing_is_scipys_on_the_drawn_map() -> None:
    maps = {"a": noise(2, 4, 6), "b": noise(2, 8, 12, seed=1)}
    expected = scipy.ndimage.gaussian_filter(draw(maps).double().numpy(), (0, 4, 4), mode="reflect", truncate=4)
    torch.testing.assert_close(draw(maps, smoothing=4.0), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)


def test_another_size_shows_the_same_image() -> None:
    cells = noise(1, 4, 6)
    whole, half = draw({"a": cells}), draw({"a": cells}, size=(16, 24))
    torch.testing.assert_close(half, torch.nn.functional.avg_pool2d(whole, 2), atol=0.2, rtol=0)
    assert half.shape == (1, 16, 24)


def test_maps_are_left_as_they_were() -> None:
    maps = {"a": noise(1, *SIZE), "b": noise(1, *SIZE, seed=1)}
    before = {name: cells.clone() for name, cells in maps.items()}
    draw(maps)
    assert all(torch.equal(maps[name], before[name]) for name in maps)


def test_scores_without_maps_are_told() -> None:
    localizer = Bilinear(BilinearParams(), Context())
    with pytest.raises(UserError, match="bilinear needs at least one score map and the scorer gave none"):
        localizer.localize(Scores(torch.zeros(1)), SIZE)


@pytest.mark.parametrize("params", [{"smoothing": -1.0}, {"smoothing": 65.0}, {"reduce": "max"}])
def test_out_of_range(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BilinearParams.model_validate(params)
