"""Mahalanobis distances by whitening: M(f) = sqrt((f−μ)ᵀ Σ⁻¹ (f−μ)) = ‖W(f−μ)‖ with WᵀW = Σ⁻¹."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adkit.moments import parts
from adkit.scoring import checked_state, foreign_state

Reduction = Literal["pca", "npca"]

SINGULAR = 1e-10
"""A channel of which the others leave no larger share of variance unexplained makes its covariance singular."""

RIDGE = 1e-6
"""Share of the mean variance that is added to the diagonal of a singular covariance."""

PICTURES = 8
"""Pictures for which a step of scoring is sized: 2 MB a copy, and for 32 of them 8 MB."""


@dataclass(frozen=True)
class Whitening:
    """The Gaussians of one level, at each location or the same at all of them.

    They are computed with in float64: in float32 the distance would lose as many digits as the square root of the
    covariance's condition has. A state holds each value as two float32, which is 48 bits of it.
    """

    mean: Tensor
    """(h, w, c), or (1, 1, c) where all locations share one."""
    rows: Tensor
    """W (h, w, k, c), or (1, 1, k, c)."""

    def distances(self, values: Tensor) -> Tensor:
        """(n, h, w, c) → (n, h, w) float32; the gradient at the mean itself is 0."""
        means, whitenings = self.mean.flatten(0, 1), self.rows.flatten(0, 1).mT  # (h·w or 1, c), (h·w or 1, c, k)
        cells = values.flatten(1, 2).transpose(0, 1)  # (h·w, n, c)
        distances = []
        # The parts do not depend on the number of pictures, so that torch.export can unroll them.
        for part in parts(len(cells), PICTURES * values.shape[3]):
            centred = cells[part].contiguous() - (means[part] if len(means) > 1 else means)[:, None]  # (part, n, c)
            whitened = centred @ (whitenings[part] if len(whitenings) > 1 else whitenings[0])  # (part, n, k)
            distances.append(torch.linalg.vector_norm(whitened, dim=2))
        return torch.cat(distances).T.reshape(values.shape[:3]).float()

    def to(self, device: str, dtype: torch.dtype) -> Whitening:
        return Whitening(self.mean.to(device, dtype), self.rows.to(device, dtype))


def state_of(levels: Mapping[str, Whitening]) -> dict[str, Tensor]:
    """For ``state_dict``: ``mean.<level>`` (2, h, w, c) and ``whitening.<level>`` (2, h, w, k, c), each two addends."""
    means = {f"mean.{name}": _halves(whitening.mean) for name, whitening in levels.items()}
    return means | {f"whitening.{name}": _halves(whitening.rows) for name, whitening in levels.items()}


def from_state(scorer: str, state: Mapping[str, Tensor]) -> dict[str, Whitening]:
    """For ``load_state_dict``: what ``state_of`` was given, in float64 on the CPU.

    Raises:
        UserError: a tensor that the scorer could not have saved.
    """
    halves = checked_state(scorer, state, {"mean.*": 4, "whitening.*": 5})
    levels = list(dict.fromkeys(name.partition(".")[2] for name in halves))
    for level in levels:
        for name in (f"mean.{level}", f"whitening.{level}"):
            if name not in halves:
                raise foreign_state(scorer, name, "there", f"only {', '.join(halves)}")
            if len(halves[name]) != 2:
                raise foreign_state(scorer, name, "two addends in dimension 0", tuple(halves[name].shape))
        mean, rows = halves[f"mean.{level}"].shape, halves[f"whitening.{level}"].shape
        if rows[4] != mean[3] or rows[1:3] not in (mean[1:3], (1, 1)):
            wanted = f"of the grid and the channels of mean.{level}, {tuple(mean[1:])}"
            raise foreign_state(scorer, f"whitening.{level}", wanted, tuple(rows[1:]))
    return {level: Whitening(_sum(halves[f"mean.{level}"]), _sum(halves[f"whitening.{level}"])) for level in levels}


def savable(values: Tensor) -> Tensor:
    """The float64 nearest to ``values`` that two float32 add up to, so that what is loaded scores what was fitted."""
    nearest = values.float()
    return nearest.double().add_((values - nearest).float())


def _halves(values: Tensor) -> Tensor:
    """(…) → (2, …) float32: the nearest ones, and what they leave."""
    halves = torch.empty((2, *values.shape), device=values.device)
    for row, (nearest, rest) in zip(values, halves.transpose(0, 1), strict=True):  # row by row, for they may be large
        nearest.copy_(row)
        rest.copy_(row - nearest)
    return halves


def _sum(halves: Tensor) -> Tensor:
    return halves[0].cpu().double().add_(halves[1].cpu())


def factored(covariances: Tensor, typical: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cholesky factors of covariances, also of those that have no inverse.

    ``RIDGE`` of its mean variance goes to the diagonal of one that is singular; one of rows that are all equal counts
    as ``typical`` times the identity.

    Args:
        covariances: (g, c, c) float64.
        typical: a variance.

    Returns:
        (g, c, c) lower triangular; which were singular (g,) bool; and which of those were 0 (g,) bool.
    """
    variances = covariances.diagonal(0, 1, 2)
    factors, failed = torch.linalg.cholesky_ex(covariances)
    unexplained = factors.diagonal(0, 1, 2).square()
    singular = (failed > 0) | (unexplained < SINGULAR * variances).any(1)
    means = variances.mean(1)
    nothing = means <= 0
    if singular.any():
        ridges = torch.where(nothing, typical, RIDGE * means)[singular]
        identity = torch.eye(variances.shape[1], dtype=ridges.dtype, device=ridges.device)
        factors[singular] = torch.linalg.cholesky(covariances[singular] + ridges[:, None, None] * identity)
    return factors, singular, nothing


def whitenings(factors: Tensor) -> Tensor:
    """W (g, c, c) with ‖W(x−μ)‖² = (x−μ)ᵀΣ⁻¹(x−μ): the inverse of each Σ's Cholesky factor, lower triangular."""
    identity = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    rows: Tensor = torch.linalg.solve_triangular(factors, identity, upper=False)
    return rows


def reduced_whitenings(covariances: Tensor, factors: Tensor, reduction: Reduction, components: int | float) -> Tensor:
    """W as ``whitenings`` gives it, but within some principal components of ``covariances`` alone.

    Args:
        covariances: (g, c, c) float64, whose components these are.
        factors: (g, c, c) float64, Cholesky factors of the same after shrinkage, which changes the components'
            variances and not their directions.
        reduction: ``pca`` keeps leading components, ``npca`` trailing ones.
        components: how many; or a share of the variance: pca keeps the fewest that hold at least as much, npca the
            most that hold no more, and both keep one.

    Returns:
        (g, c, c): a row a component, those kept first, zeros after them.

    Source: Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features (2020).
    """
    variances, vectors = torch.linalg.eigh(covariances)  # ascending; components in columns
    if reduction == "pca":
        variances, vectors = variances.flip(1), vectors.flip(2)
    variances = variances.clamp_min(0)
    places = torch.arange(variances.shape[1], device=variances.device)
    if isinstance(components, int):
        kept = (places < components).expand_as(variances)
    elif components < 1:
        through, most = variances.cumsum(1), components * variances.sum(1, keepdim=True)
        kept = (through - variances < most if reduction == "pca" else through <= most) | (places == 0)
    else:
        kept = torch.ones_like(variances, dtype=torch.bool)
    scales = torch.linalg.vector_norm(factors.mT @ vectors, dim=1)  # ‖Lᵀv‖ = sqrt(vᵀΣv)
    rows: Tensor = (vectors * (kept / scales)[:, None]).mT
    return rows
