"""Means and covariances of more features than memory holds, streamed in float64, and their shrinkage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from adkit.toolkit.scoring import checked_state, foreign_state

Shrinkage = Literal["ledoit_wolf", "oas", "none"] | Annotated[float, Field(ge=0, le=1)]
"""How covariances are shrunk: by a rule that finds the share, or by a share from 0 to 1."""

BLOCK = 1 << 18
"""Number of values that one step converts to float64, so that each copy besides the moments takes some 2 MB."""

Reduction = Literal["pca", "npca"]
"""Which principal components are kept: the leading ones, or the trailing ones."""

SINGULAR = 1e-10
"""Share of a channel's variance: a covariance is singular where the other channels leave less of it unexplained."""

RIDGE = 1e-6
"""Share of the mean variance that is added to the diagonal of a singular covariance."""

IMAGES = 8
"""Number of images that a step of scoring is sized for where it may not depend on how many there are: a copy takes 2
MB, and 8 MB for 32 images."""


def float64_device(device: str) -> str:
    """The device on which float64 is computed for ``device``: the CPU for MPS, which has no float64."""
    return "cpu" if torch.device(device).type == "mps" else device


def widest_float(device: str) -> torch.dtype:
    """The widest float that ``device`` itself has: float64, or float32 on MPS."""
    return torch.float64 if float64_device(device) == device else torch.float32


class Means:
    """Means of rows that come in batches, for several groups of rows at once."""

    def __init__(self, groups: int, channels: int, device: str = "cpu") -> None:
        self.count = 0
        self._sums = torch.zeros(groups, channels, dtype=torch.float64, device=float64_device(device))

    def add(self, rows: Tensor) -> None:
        """Add ``rows`` (groups, n, channels), as many for every group."""
        self.count += rows.shape[1]
        for part in parts(len(rows), rows[0].numel()):
            self._sums[part] += rows[part].to(self._sums.device).sum(1, dtype=torch.float64)

    @property
    def means(self) -> Tensor:
        """(groups, channels) float64 mean of the rows of each group."""
        return self._sums / self.count


class Moments:
    """Means, covariances and quartic moments of rows that come in batches, for several groups of rows at once.

    One pass is exact: rows are measured from their group's first row, which is no further from the mean than
    sqrt(count) deviations, so that moving the moments to the mean afterward cancels few of float64's digits. A channel
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
        """The number of bytes that the moments take."""
        return 8 * groups * (channels**2 + 3 * channels + 1)

    @staticmethod
    def working_memory(channels: int) -> int:
        """The number of bytes that ``add``, or ``spend`` with a whitening, takes besides them: six copies of a part."""
        return 8 * 6 * max(BLOCK, channels**2)

    def add(self, rows: Tensor) -> None:
        """Add ``rows`` (groups, n, channels), as many for every group."""
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
        """(groups, channels) float64 mean of the rows of each group."""
        return self._origins + self._sums / self.count

    @property
    def variances(self) -> Tensor:
        """(groups, channels) float64 variance of each channel, divided by ``count`` and not by one less."""
        return self._products.diagonal(0, 1, 2) / self.count - (self._sums / self.count).square()

    def covariances(self, part: slice = slice(None)) -> Tensor:
        """Compute the covariances Σ(x−μ)(x−μ)ᵀ / count: (groups in ``part``, channels, channels) float64."""
        shifts = self._sums[part] / self.count
        return (self._products[part] / self.count).sub_(shifts[:, :, None] * shifts[:, None])

    def quartics(self, part: slice = slice(None)) -> Tensor:
        """Compute the quartic moments Σ‖x−μ‖⁴ / count: (groups in ``part``,) float64.

        With δ the mean of d, x−μ is d−δ, whose fourth power is written out here.
        """
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
        """Write what ``make`` gives for covariances and quartics over the moments, which are gone afterward.

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
    """Compute how far to move each covariance toward its mean variance times the identity.

    Args:
        rule: the share itself, or how to find it.
        covariances: (g, c, c) float64.
        quartics: (g,) float64 mean of ‖x−μ‖⁴, which Ledoit and Wolf need.
        count: number of rows that each covariance was computed from.

    Returns:
        (g,) float64 shares from 0 to 1.

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
    """Shrink each covariance S (g, c, c) to (1−s)·S + s·m·I, with s its share (g,) and m its mean variance."""
    means = covariances.diagonal(0, 1, 2).mean(1)
    moved = covariances * (1 - shares)[:, None, None]
    moved.diagonal(0, 1, 2).add_((shares * means)[:, None])
    return moved


@dataclass(frozen=True)
class Whitening:
    """The Gaussians of one level, at each location or the same at all of them.

    They are kept in float64: in float32 the distance would lose as many digits as the square root of the
    covariance's condition has.
    """

    mean: Tensor
    """(h, w, c) mean of each location, or (1, 1, c) where all locations share one."""
    rows: Tensor
    """(h, w, k, c) whitening W of each location, or (1, 1, k, c) where all locations share one."""

    def distances(self, values: Tensor) -> Tensor:
        """Compute Mahalanobis distances (n, h, w) float32 of features (n, h, w, c); the gradient at the mean is 0."""
        means, whitenings = self.mean.flatten(0, 1), self.rows.flatten(0, 1).mT  # (h·w or 1, c), (h·w or 1, c, k)
        cells = values.flatten(1, 2).transpose(0, 1)  # (h·w, n, c)
        shared = None
        if torch.is_grad_enabled() or values.device.type != "cpu" or _recorded():
            # The parts do not depend on the number of images, so that torch.export can unroll them.
            steps = list(parts(len(cells), IMAGES * values.shape[3]))
        else:
            # Steps share their memory: to be given new pages by the system would take as long as to compute.
            steps = list(parts(len(cells), values.shape[0] * values.shape[3]))
            most = (steps[0].stop, values.shape[0])
            shared = [self.rows.new_empty(*most, length) for length in whitenings.shape[1:]]
        distances = []
        for part in steps:
            some, mean = cells[part], (means[part] if len(means) > 1 else means)[:, None]
            whitening = whitenings[part] if len(whitenings) > 1 else whitenings[0]
            if shared is None:
                whitened = (some.contiguous() - mean) @ whitening  # (part, n, k)
            else:
                centered, whitened = (room[: len(some)] for room in shared)
                torch.matmul(centered.copy_(some).sub_(mean), whitening, out=whitened)
            distances.append(torch.linalg.vector_norm(whitened, dim=2))
        return torch.cat(distances).T.reshape(values.shape[:3]).float()

    def whitened(self, values: Tensor) -> Tensor:
        """Compute W (f − μ), (n, h, w, k) float32, of features (n, h, w, c), by the one whitening of all locations.

        Its length is the Mahalanobis distance to μ, and the distance of two such vectors that between their features.
        """
        return ((values.to(self.mean) - self.mean) @ self.rows[0, 0].mT).float()

    def to(self, device: str, dtype: torch.dtype) -> Whitening:
        return Whitening(self.mean.to(device, dtype), self.rows.to(device, dtype))


def _recorded() -> bool:
    """Whether what is computed is recorded, by torch.export, TorchScript or torch.compile."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def state_of(levels: Mapping[str, Whitening]) -> dict[str, Tensor]:
    """Make the ``state_dict`` of whitenings.

    Returns:
        ``mean.<level>`` (h, w, c) and ``whitening.<level>`` (h, w, k, c), float64 on the CPU.
    """
    means = {f"mean.{name}": whitening.mean.cpu().double() for name, whitening in levels.items()}
    return means | {f"whitening.{name}": whitening.rows.cpu().double() for name, whitening in levels.items()}


def from_state(scorer: str, state: Mapping[str, Tensor]) -> dict[str, Whitening]:
    """Read whitenings from the state that ``state_of`` made of them.

    Raises:
        UserError: a tensor that the scorer could not have saved.
    """
    tensors = checked_state(scorer, state, {"mean.*": 3, "whitening.*": 4}, torch.float64)
    levels = dict.fromkeys(name.partition(".")[2] for name in tensors)
    for level in levels:
        for name in (f"mean.{level}", f"whitening.{level}"):
            if name not in tensors:
                raise foreign_state(scorer, name, "there", f"only {', '.join(tensors)}")
        mean, rows = tensors[f"mean.{level}"].shape, tensors[f"whitening.{level}"].shape
        if rows[3] != mean[2] or rows[:2] not in (mean[:2], (1, 1)):
            wanted = f"of the grid and the channels of mean.{level}, {tuple(mean)}"
            raise foreign_state(scorer, f"whitening.{level}", wanted, tuple(rows))
    return {level: Whitening(tensors[f"mean.{level}"], tensors[f"whitening.{level}"]) for level in levels}


def factored(covariances: Tensor, typical: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute Cholesky factors of covariances, even of those that have no inverse.

    To the diagonal of a singular covariance, ``RIDGE`` times its mean variance is added; the covariance of rows that
    are all equal counts as ``typical`` times the identity.

    Args:
        covariances: (g, c, c) float64.
        typical: the variance that stands in where all rows are equal.

    Returns:
        (g, c, c) lower triangular factors; (g,) bool, which covariances were singular; (g,) bool, which of those were
        0.
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
    """Compute W (g, c, c) with ‖W(x−μ)‖² = (x−μ)ᵀΣ⁻¹(x−μ): the inverse of the Cholesky factor, lower triangular."""
    identity = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
    rows: Tensor = torch.linalg.solve_triangular(factors, identity, upper=False)
    return rows


def reduced_whitenings(covariances: Tensor, factors: Tensor, reduction: Reduction, components: int | float) -> Tensor:
    """Compute W as ``whitenings`` does, but within some principal components of ``covariances`` alone.

    Args:
        covariances: (g, c, c) float64, whose principal components are taken.
        factors: (g, c, c) float64, Cholesky factors of the same after shrinkage, which changes the components'
            variances and not their directions.
        reduction: ``pca`` keeps leading components, ``npca`` trailing ones.
        components: how many; or a share of the variance: pca keeps the fewest that hold at least as much, npca the
            most that hold no more, and both keep at least one.

    Returns:
        (g, c, c) with one row per component: those kept first, zeros after them.

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
