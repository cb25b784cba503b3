"""Interpolation and smoothing against numbers by hand and SciPy."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch

from adkit.plugin.types import Geometry
from adkit.toolkit.resample import (
    area_matrix,
    cell_centers,
    centers_of,
    enlarging_matrix,
    gaussian_matrix,
    gaussian_smooth,
    interpolation_matrix,
    pixel_centers,
    resample,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_pixels_are_centered_on_halves() -> None:
    assert pixel_centers(3).tolist() == [0.5, 1.5, 2.5]


def test_interpolation_is_linear_between_cells_and_constant_beyond() -> None:
    positions = torch.tensor([0.0, 2.0, 3.0, 6.0, 9.0, 11.0])
    matrix = interpolation_matrix(2, 4, 3, positions)  # cells at 2, 6, 10
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.25, 0.75], [0, 0, 1]]


def test_interpolation_between_cells_at_uneven_distances() -> None:
    geometry = Geometry.at((0.0, 1.0), (2.0, 4.0, 12.0))
    positions = torch.tensor([0.0, 2.0, 3.0, 4.0, 6.0, 12.0, 15.0])
    matrix = enlarging_matrix(geometry, 1, 3, positions)
    halves, quarters = [0.5, 0.5, 0], [0, 0.75, 0.25]
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 0], halves, [0, 1, 0], quarters, [0, 0, 1], [0, 0, 1]]
    assert centers_of(geometry, 1, 3).tolist() == [2, 4, 12]


def test_cells_at_even_distances_are_the_same_either_way() -> None:
    even, positions = Geometry((1.0, 2.0), (3.0, 4.0)), torch.linspace(-2, 20, 23)
    stated = Geometry.at((1.0, 4.0, 7.0), (2.0, 6.0, 10.0, 14.0))
    assert (stated.start, stated.step) == (even.start, even.step)
    for axis, cells in ((0, 3), (1, 4)):
        one, other = (enlarging_matrix(geometry, axis, cells, positions) for geometry in (even, stated))
        torch.testing.assert_close(one, other)
        assert torch.equal(centers_of(even, axis, cells), centers_of(stated, axis, cells))


@pytest.mark.parametrize("centers", [(1.0,), (1.0, 1.0), (2.0, 1.0)])
def test_centers_ascend(centers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected two or more, ascending"):
        Geometry.at((1.0, 2.0), centers)


def test_area_is_averaged_over_what_of_a_cell_lies_on_the_pixels() -> None:
    matrix = area_matrix(torch.tensor([0.5, 2.5, 4.5, 6.5]), 2, size=4)  # cells from -0.5, 1.5, 3.5 and 5.5
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 0.25, 0.5, 0.25], [0, 0, 0, 1], [0, 0, 0, 0]])
    torch.testing.assert_close(matrix, expected)


def test_one_cell_is_constant() -> None:
    assert interpolation_matrix(8, 16, 1, pixel_centers(4)).tolist() == [[1]] * 4


def test_an_even_tiling_resamples_as_torch_interpolates() -> None:
    maps, geometry = noise(2, 5, 7), Geometry.covering((5, 7), (40, 63))
    expected = torch.nn.functional.interpolate(maps[:, None], (40, 63), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resample(maps, geometry, pixel_centers(40), pixel_centers(63)), expected)


def test_a_linear_ramp_stays_where_the_geometry_puts_it() -> None:
    rows, columns = cell_centers(0.5, 8, 6), cell_centers(3.5, 4, 9)
    ramp = (2 * rows[:, None] - columns)[None]  # y and x of the cells' true centers
    y, x = torch.tensor([1.0, 20.0, 40.0]), torch.tensor([4.0, 30.0])
    found = resample(ramp, Geometry((0.5, 3.5), (8, 4)), y, x)
    torch.testing.assert_close(found[0], 2 * y[:, None] - x)


def test_channels_are_resampled_one_by_one() -> None:
    maps, geometry = noise(2, 5, 7, 3), Geometry((1, 2), (3, 4))
    y, x = pixel_centers(11), pixel_centers(13)
    together = resample(maps, geometry, y, x)
    assert together.shape == (2, 11, 13, 3)
    for channel in range(3):
        torch.testing.assert_close(together[..., channel], resample(maps[..., channel], geometry, y, x))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("size", [(64, 48), (5, 1)])
def test_smoothing_is_scipys(sigma: float, size: tuple[int, int]) -> None:
    maps = noise(2, *size)
    expected = scipy.ndimage.gaussian_filter(maps.double().numpy(), (0, sigma, sigma), mode="reflect", truncate=4)
    torch.testing.assert_close(gaussian_smooth(maps, sigma), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)


def test_no_smoothing_changes_nothing() -> None:
    maps = noise(1, 4, 4)
    assert gaussian_smooth(maps, 0) is maps
    assert torch.equal(gaussian_matrix(3, 0), torch.eye(3))


def test_gradients_flow_to_the_maps() -> None:
    maps = noise(1, 4, 4).requires_grad_()
    geometry = Geometry.covering((4, 4), (8, 8))
    gaussian_smooth(resample(maps, geometry, pixel_centers(8), pixel_centers(8)), 1.0).sum().backward()
    assert maps.grad is not None
    assert float(maps.grad.sum()) == pytest.approx(64, abs=1e-3)  # both keep the sum of weights a pixel at 1
