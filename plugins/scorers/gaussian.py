"""gaussian: the Mahalanobis distance to the distribution of the normal features.

Source: Rippel et al., Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations (2021), section 3,
equation 4. ``local`` over concatenated levels is Defard et al., PaDiM (2020).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from adkit.plugin import (
    Component,
    Context,
    Features,
    Level,
    NotFittedError,
    Params,
    Scorer,
    Scores,
    Stream,
    hookimpl,
)
from adkit.toolkit.covariance import (
    RIDGE,
    Means,
    Moments,
    Reduction,
    Shrinkage,
    Whitening,
    factored,
    float64_device,
    from_state,
    parts,
    reduced_whitenings,
    shrinkage,
    shrunk,
    state_of,
    whitenings,
    widest_float,
)
from adkit.toolkit.memory import check_memory
from adkit.toolkit.scoring import Aggregation, fitted_levels, foreign_state, require_components, require_some, scores_of

logger = logging.getLogger("adkit")

Share = Annotated[float, Field(gt=0, le=1)]


class GaussianParams(Params):
    covariance: Literal["global", "tied", "local"] = Field(
        "tied",
        description="global: one Gaussian per level; tied: one mean per location and one covariance per level; local: "
        "one Gaussian per location",
    )
    aggregation: Aggregation = Field("max", description="how a level's map becomes the image's score")
    shrinkage: Shrinkage = Field(
        "ledoit_wolf",
        description="how far each covariance is moved towards its mean variance times the identity: a rule, or a share",
    )
    reduction: Literal["none"] | Reduction = Field(
        "none", description="measure only within the leading (pca) or the trailing (npca) principal components"
    )
    components: Annotated[int, Field(ge=1)] | Share | None = Field(
        None,
        validate_default=True,
        examples=[50],
        description="components that reduction keeps: a count such as 50, or a share of the variance such as 0.99",
    )

    @field_validator("components")
    @classmethod
    def _with_reduction(cls, components: float | None, info: ValidationInfo) -> float | None:
        reduction = info.data.get("reduction", "none")
        if components is None and reduction != "none":
            raise ValueError(f'expected a count or a share of variance with reduction = "{reduction}", found none')
        if components is not None and reduction == "none":
            raise ValueError(f'expected none without reduction = "pca" or "npca", found {components:g}')
        return components


class Gaussian(Scorer[GaussianParams]):
    """A scorer by Gaussians, fitted and applied in float64; on MPS, which lacks that, they are applied in float32.

    ``global`` and ``tied`` count each location of each image as one sample, also for shrinkage, though neighbors are
    alike: with so many samples Ledoit-Wolf shrinks little. ``tied`` takes two passes over the images, the others one.
    Components are those of the covariance before shrinkage, and their variances those after it.
    """

    def __init__(self, params: GaussianParams, context: Context) -> None:
        super().__init__(params, context)
        self._fitted: dict[str, Whitening] = {}

    def fit(self, stream: Stream) -> None:
        self._fitted = {}
        levels, device = stream.levels, self.context.device
        require_components(self.params.components, levels)
        self._check_memory(levels, stream.count)
        groups = {name: _groups(level, self.params.covariance) for name, level in levels.items()}
        means = self._location_means(stream)
        moments = {name: Moments(groups[name], level.channels, device) for name, level in levels.items()}
        for features in stream:
            for name, values in features.items():
                cells = values.flatten(1, 2)  # (n, h·w, c)
                if groups[name] > 1:
                    moments[name].add(cells.transpose(0, 1))
                    continue
                for part in parts(cells.shape[1], len(cells) * cells.shape[2]):
                    rows = cells[:, part]
                    if name in means:
                        rows = rows.to(means[name].device) - means[name][part]
                    moments[name].add(rows.flatten(0, 1)[None])
        for name, level in levels.items():
            self._fitted[name] = self._finished(name, level, moments.pop(name), means.get(name))

    def score(self, features: Features) -> Scores:
        if not self._fitted:
            raise NotFittedError("gaussian")
        levels = fitted_levels(self._fitted, features)
        maps = {name: self._fitted[name].distances(features[name]) for name in levels}
        return scores_of(maps, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return state_of(self._fitted)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        levels = from_state("gaussian", state)
        for name, whitening in levels.items():
            grid, whitened = whitening.mean.shape[:2], whitening.rows.shape[:2]
            if (grid if self.params.covariance == "local" else (1, 1)) != whitened:
                wanted = f"{self.params.covariance} covariances for a mean of {tuple(grid)} cells"
                raise foreign_state("gaussian", f"whitening.{name}", wanted, f"those of {tuple(whitened)}")
        self._fitted = {name: self._placed(whitening) for name, whitening in levels.items()}

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The bytes that fitting takes at its peak, which are hardly more than those that the fitted scorer holds."""
        return self._memory(levels, self.params.covariance)

    def _memory(self, levels: Mapping[str, Level], covariance: str) -> int:
        copies = 1 if self.params.reduction == "none" else 2  # the rows that are kept are copied
        held = 0
        for level in levels.values():
            held += copies * Moments.memory(_groups(level, covariance), level.channels)
            held += 8 * prod(level.grid) * level.channels * (covariance == "tied")
        return held + Moments.working_memory(max(level.channels for level in levels.values()))

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        require_components(self.params.components, levels)

    def _check_memory(self, levels: Mapping[str, Level], images: int) -> None:
        advice = "keep fewer features.channels, or name levels with smaller grids or fewer channels"
        if self.params.covariance == "local":
            advice = f'set scorer.covariance = "tied" ({self._memory(levels, "tied") / 1e9:.1f} GB), {advice}'
        check_memory(
            self.memory(levels, images),
            float64_device(self.context.device),
            f"scorer: gaussian's {self.params.covariance} covariances of {', '.join(levels)}",
            advice,
        )

    def _placed(self, whitening: Whitening) -> Whitening:
        return whitening.to(self.context.device, widest_float(self.context.device))

    def _location_means(self, stream: Stream) -> dict[str, Tensor]:
        """Level name → (h·w, c) float64, for the levels that have a mean per location and one covariance."""
        tied = {n: level for n, level in stream.levels.items() if self.params.covariance == "tied" and level.spatial}
        means = {name: Means(prod(level.grid), level.channels, self.context.device) for name, level in tied.items()}
        for features in stream if tied else ():
            for name, mean in means.items():
                mean.add(features[name].flatten(1, 2).transpose(0, 1))  # (h·w, n, c)
        return {name: mean.means for name, mean in means.items()}

    def _finished(self, name: str, level: Level, moments: Moments, location_means: Tensor | None) -> Whitening:
        require_some(moments.count)
        variance = float(moments.variances.mean())
        typical = variance if variance > 0 else 1.0
        singular = still = 0
        # Of two rows Ledoit and Wolf's estimate is 0, whatever they are; that of Chen et al. counts them.
        rule = "oas" if self.params.shrinkage == "ledoit_wolf" and moments.count == 2 else self.params.shrinkage

        def whitening(covariances: Tensor, quartics: Tensor) -> Tensor:
            nonlocal singular, still
            shares = shrinkage(rule, covariances, quartics, moments.count)
            factors, not_regular, zero = factored(shrunk(covariances, shares), typical)
            singular, still = singular + int(not_regular.sum()), still + int(zero.sum())
            if self.params.reduction == "none" or self.params.components is None:
                return whitenings(factors)
            return reduced_whitenings(covariances, factors, self.params.reduction, self.params.components)

        rows = moments.spend(whitening)
        mean = moments.means if location_means is None else location_means
        self._say(name, len(rows), singular - still, still)
        if self.params.reduction != "none":  # rows of zeros come last
            rows = rows[:, : int(rows.any(2).sum(1).max())].clone()
        grids = [level.grid if len(tensor) > 1 else (1, 1) for tensor in (mean, rows)]
        return self._placed(Whitening(mean.view(*grids[0], -1), rows.view(*grids[1], *rows.shape[1:])))

    def _say(self, name: str, covariances: int, singular: int, still: int) -> None:
        if singular:
            shrinks = self.params.shrinkage not in ("none", 0)
            advice = "use more normal images" if shrinks else 'use shrinkage = "ledoit_wolf", or more normal images'
            logger.warning(
                "gaussian: level %s: singular covariances (%d of %d), to whose diagonals %g of the mean variance was "
                "added: %s",
                *(name, singular, covariances, RIDGE, advice),
            )
        if still:
            logger.warning(
                "gaussian: level %s: covariances in which nothing varies (%d of %d), for which plain distances to the "
                "mean are taken, in units of the level's mean variance if it has one",
                *(name, still, covariances),
            )


def _groups(level: Level, covariance: str) -> int:
    """The number of covariances that a level has."""
    return prod(level.grid) if covariance == "local" else 1


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("gaussian", GaussianParams, Gaussian)]
