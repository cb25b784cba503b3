"""Means and covariances of more features than memory holds, streamed in float64, and their shrinkage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

Shrinkage = Literal["ledoit_wolf", "oas", "none"] | Annotated[float, Field(ge=0, le=1)]

BLOCK = 1 << 18
"""Values that one step takes to float64, so that what lies beside the moments stays at some 2 MB a copy."""


def float64_device(device: str) -> str:
    """Where float64 is computed for ``device``: on the CPU for MPS, which has none."""
    return "cpu" if torch.device(device).type == "mps" else device


class Means:
    """Means of rows that come in batches, for several groups of rows at once."""

    def __init__(self, groups: int, channels: int, device: str = "cpu") -> None:
        self.count = 0
        self._sums = torch.zeros(groups, channels, dtype=torch.float64, device=float64_device(device))

    def add(self, rows: Tensor) -> None:
        """``rows`` (groups, n, channels): as many of every group."""
        self.count += rows.shape[1]
        for part in parts(len(rows), rows[0].numel()):
            self._sums[part] += rows[part].to(self._sums.device).sum(1, dtype=torch.float64)

    @property
    def means(self) -> Tensor:
        """(groups, channels) float64."""
        return self._sums / self.count


class Moments:
    """Means, covariances and quartic moments of rows that come in batches, for several groups of rows at once.

    One pass is exact: rows are measured from their group's first row, which is no further from the mean than
    sqrt(count) deviations, so that moving the moments to the mean afterwards cancels few of float64's digits. A channel
    that never changes has a variance of exactly 0.
    """

    def __init__(self, groups: int, channels: int, device: str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=float64_device(device))

        self.count = 0
        self._origins = zeros(groups, channels)
        self._sums = zeros(groups, channels)  # Σd, d a row less its group's origin
        self._products = zeros(groups, channels, channels)  # Σddᵀ
        self._cubes = zeros(groups, channels)  # Σd‖d‖²
        self._quartics = zeros(groups)  # Σ‖d‖⁴

    @staticmethod
    def memory(groups: int, channels: int) -> int:
        """Bytes that the moments are."""
        return 8 * groups * (channels**2 + 3 * channels + 1)

    @staticmethod
    def working_memory(channels: int) -> int:
        """Bytes beside them that ``add``, or ``spend`` with a whitening, takes: six copies of a part."""
        return 8 * 6 * max(BLOCK, channels**2)

    def add(self, rows: Tensor) -> None:
        """``rows`` (groups, n, channels): as many of every group."""
        groups, count, channels = rows.shape
        if not count:
            return
        if not self.count:
            self._origins.copy_(rows[:, 0])
        self.count += count
        for part in parts(groups, count * channels):
            for block in torch.split(rows[part], max(1, BLOCK // channels), dim=1):
                self._add(part, block.to(self._sums.device))

    def _add(self, part: slice, rows: Tensor) -> None:
        d = rows.contiguous() - self._origins[part, None]  # float64, whatever the rows are
        squares = torch.einsum("gnc,gnc->gn", d, d)
        self._sums[part] += d.sum(1)
        self._products[part].baddbmm_(d.mT, d)
        self._cubes[part] += (squares[:, None] @ d)[:, 0]
        self._quartics[part] += squares.square().sum(1)

    @property
    def means(self) -> Tensor:
        """(groups, channels) float64."""
        return self._origins + self._sums / self.count

    @property
    def variances(self) -> Tensor:
        """(groups, channels) float64: of each channel, over ``count`` and not one less."""
        return self._products.diagonal(0, 1, 2) / self.count - (self._sums / self.count).square()

    def covariances(self, part: slice = slice(None)) -> Tensor:
        """(groups in ``part``, channels, channels) float64: Σ(x−μ)(x−μ)ᵀ / count."""
        shifts = self._sums[part] / self.count
        return (self._products[part] / self.count).sub_(shifts[:, :, None] * shifts[:, None])

    def quartics(self, part: slice = slice(None)) -> Tensor:
        """(groups in ``part``,) float64: Σ‖x−μ‖⁴ / count, which is ‖d−δ‖⁴ written out, δ the mean of d."""
        products, shifts = self._products[part] / self.count, self._sums[part] / self.count
        squares = shifts.square().sum(1)
        return (
            self._quartics[part] / self.count
            + 4 * torch.einsum("gi,gij,gj->g", shifts, products, shifts)
            - 4 * (shifts * self._cubes[part]).sum(1) / self.count
            + 2 * squares * products.diagonal(0, 1, 2).sum(1)
            - 3 * squares.square()
        )

    def spend(self, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What ``make`` gives for covariances and quartics, written over the moments, which are gone afterwards.

        Args:
            make: (m, channels, channels) and (m,) → (m, channels, channels); called for a few groups at a time.

        Returns:
            (groups, channels, channels) float64.
        """
        made = self._products
        for part in parts(len(made), made[0].numel()):
            made[part] = make(self.covariances(part), self.quartics(part))
        del self._products
        return made


def parts(count: int, size: int) -> Iterator[slice]:
    """Cut ``count`` things of ``size`` values each into parts of at most ``BLOCK`` values, or of one thing."""
    step = max(1, BLOCK // max(1, size))
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def shrinkage(rule: Shrinkage, covariances: Tensor, quartics: Tensor, count: int) -> Tensor:
    """How far to move each covariance towards its mean variance times the identity, as a share from 0 to 1.

    Args:
        rule: a share itself, or how to find it.
        covariances: (g, c, c) float64.
        quartics: (g,) float64: mean ‖x−μ‖⁴, which Ledoit and Wolf need.
        count: rows that each covariance is of.

    Source: Ledoit and Wolf, A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices (2004); Chen et al.,
        Shrinkage Algorithms for MMSE Covariance Estimation (2010), equation 23 as scikit-learn has it.
    """
    if rule == "none":
        rule = 0.0
    if not isinstance(rule, str):
        return torch.full_like(quartics, rule)
    channels = covariances.shape[1]
    means = covariances.diagonal(0, 1, 2).mean(1)
    norms = covariances.square().sum((1, 2))
    spread = norms - channels * means.square()  # ‖S − mI‖², what lies between S and its target
    if rule == "ledoit_wolf":
        noise = ((quartics - norms) / count).clamp_min(0)
        return torch.where(spread > 0, (noise / spread).clamp_max(1), 0.0)
    noise = norms / channels**2 + means.square()
    share = noise / ((count + 1) * spread / channels**2)
    return torch.where(spread > 0, share.clamp_max(1), float(channels > 1))  # one channel is its own target


def shrunk(covariances: Tensor, shares: Tensor) -> Tensor:
    """(1−s)·S + s·m·I of each covariance S (g, c, c), with s its share (g,) and m its mean variance."""
    means = covariances.diagonal(0, 1, 2).mean(1)
    moved = covariances * (1 - shares)[:, None, None]
    moved.diagonal(0, 1, 2).add_((shares * means)[:, None])
    return moved
