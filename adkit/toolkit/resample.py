"""Interpolating and smoothing maps as products with small matrices: differentiable, exportable, batched."""

from __future__ import annotations

import torch
from torch import Tensor

from adkit.plugin.types import Geometry


def pixel_centers(size: int, device: torch.device | str = "cpu") -> Tensor:
    """The centers of ``size`` pixels in a row, the first at 0.5: (size,) float32."""
    return torch.arange(size, dtype=torch.float32, device=device) + 0.5


def cell_centers(start: float, step: float, cells: int, device: torch.device | str = "cpu") -> Tensor:
    """The centers of a row of evenly spaced cells: (cells,) float32."""
    return torch.arange(cells, dtype=torch.float32, device=device) * step + start


def centers_of(geometry: Geometry, axis: int, cells: int, device: torch.device | str = "cpu") -> Tensor:
    """The centers of a level's cells along an axis (0: y, 1: x), in pixels of the input: (cells,) float32."""
    if geometry.centers is not None:
        return torch.tensor(geometry.centers[axis], dtype=torch.float32, device=device)
    return cell_centers(geometry.start[axis], geometry.step[axis], cells, device)


def interpolation_matrix(start: float, step: float, cells: int, positions: Tensor) -> Tensor:
    """Compute the weights that read ``positions`` off a row of cells, linear between centers and constant beyond.

    Returns:
        (len(positions), cells) float32, whose rows sum to 1.
    """
    cell = torch.arange(cells, dtype=torch.float32, device=positions.device)
    at = ((positions.float() - start) / step).clamp(0, cells - 1)  # (p,) in cells
    return (1 - (at[:, None] - cell).abs()).clamp(min=0)  # (p, cells)


def enlarging_matrix(geometry: Geometry, axis: int, cells: int, positions: Tensor) -> Tensor:
    """Compute ``interpolation_matrix`` along an axis (0: y, 1: x) of cells that lie as ``geometry`` says."""
    if geometry.centers is None:
        return interpolation_matrix(geometry.start[axis], geometry.step[axis], cells, positions)
    center = centers_of(geometry, axis, cells, positions.device)
    at = positions.float().clamp(float(center[0]), float(center[-1]))[:, None]
    gap = center.diff()
    ones = center.new_ones(1)  # in front of the first and behind the last cell, where no position is
    rising = (at - center) / torch.cat([ones, gap]) + 1
    falling = (center - at) / torch.cat([gap, ones]) + 1
    return torch.minimum(rising, falling).clamp(min=0)  # (p, cells)


def area_matrix(centers: Tensor, width: float, size: int) -> Tensor:
    """Compute the weights that average a row of ``size`` pixels over each cell of a row of ``width`` wide cells.

    Args:
        centers: (cells,) float32, as ``centers_of`` gives them.

    Returns:
        (cells, size) float32, whose rows sum to 1; or to 0, where a cell lies beyond the pixels.
    """
    pixel, center = torch.arange(size, dtype=torch.float32, device=centers.device), centers[:, None]
    covered = torch.minimum(center + width / 2, pixel + 1) - torch.maximum(center - width / 2, pixel)
    covered = covered.clamp(min=0)  # (cells, size)
    return covered / covered.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def gaussian_matrix(size: int, sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """Compute the weights that smooth a row of ``size`` pixels by a Gaussian, mirrored at its ends, cut off at 4 sigma.

    Returns:
        (size, size) float32, whose rows sum to 1; the identity where ``sigma`` is 0.
    """
    if sigma == 0:
        return torch.eye(size, device=device)
    radius = int(4 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)
    tap = (torch.arange(size)[:, None] + offset) % (2 * size)  # (size, taps): d c b a | a b c d | d c b a
    source = torch.where(tap < size, tap, 2 * size - 1 - tap)
    matrix = torch.zeros(size, size).scatter_add_(1, source, weight.expand(size, -1).contiguous())
    return (matrix / weight.sum()).to(device)


def resample(maps: Tensor, geometry: Geometry, positions_y: Tensor, positions_x: Tensor) -> Tensor:
    """Read maps at the crossings of rows and columns of the input, bilinearly, with clamped edges.

    Args:
        maps: (n, h, w) or (n, h, w, c) float32, whose cells lie as ``geometry`` says.
        positions_y: (p,) positions of the rows, in pixels of the input.
        positions_x: (q,) positions of the columns, in pixels of the input.

    Returns:
        (n, p, q) or (n, p, q, c).
    """
    rows, columns = maps.shape[1:3]
    along_y = enlarging_matrix(geometry, 0, rows, positions_y.to(maps.device))
    along_x = enlarging_matrix(geometry, 1, columns, positions_x.to(maps.device))
    return apply_separably(maps, along_y, along_x)


def apply_separably(maps: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """Multiply maps (n, h, w[, c]) by (p, h) along their columns and by (q, w) along their rows: (n, p, q[, c])."""
    if maps.ndim == 3:
        return along_y @ maps @ along_x.mT
    n, rows, columns, channels = maps.shape
    tall = along_y @ maps.reshape(n, rows, columns * channels)  # (n, p, w·c)
    return along_x @ tall.reshape(n, len(along_y), columns, channels)  # (n, p, q, c)


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Smooth ``maps`` (n, H, W) float32 by a Gaussian of ``sigma`` pixels, mirrored at the edges."""
    if sigma == 0:
        return maps
    height, width = maps.shape[1:]
    along_y = gaussian_matrix(height, sigma, maps.device)
    return apply_separably(maps, along_y, gaussian_matrix(width, sigma, maps.device))
