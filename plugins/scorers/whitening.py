"""whitening: distances among features after PCA whitening made all directions of the normal ones vary alike.

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021), section
4.3.2, and table 4 of its supplement, which do not say whether to the mean or to nearest neighbors: both are here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
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
    UserError,
    hookimpl,
)
from adkit.toolkit.covariance import Moments, Whitening, float64_device, from_state, state_of, widest_float
from adkit.toolkit.memory import check_memory
from adkit.toolkit.neighbors import Bank, RecordableBank
from adkit.toolkit.scoring import (
    Aggregation,
    Reservoir,
    checked_state,
    fitted_levels,
    foreign_state,
    require_components,
    require_rows,
    require_some,
    scores_of,
)

logger = logging.getLogger("adkit")

ZERO = 1e-12
"""The share of the largest variance up to which a component varies by the rounding of float32 alone."""


class WhiteningParams(Params):
    components: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="leading components to measure within: a count such as 50, or a share of variance such as 0.99; "
        "1.0: all of them",
    )
    epsilon: float = Field(
        0.0, ge=0, description="share of the mean variance to add to each component's, so that small ones count less"
    )
    k: int = Field(
        0,
        ge=0,
        description="nearest normal features, all whitened, whose distances are averaged; 0: that to their mean",
    )
    metric: Literal["l2", "squared_l2"] = Field("l2", description="distance between whitened features")
    aggregation: Aggregation = Field("max", description="how a level's map becomes the image's score")


class PcaWhitening(Scorer[WhiteningParams]):
    """A scorer by principal components of a level's normal features, each divided by its standard deviation.

    n features vary in n − 1 directions at most, and more often than not there are fewer images than channels. How an
    image differs in the other directions, whose variance is 0, then counts for nothing, and the n themselves all have
    one distance, (n − 1) / sqrt(n). Fewer ``components`` or some ``epsilon`` fix the latter; scorer ``gaussian``, which
    moves covariances towards the identity, fixes both. With ``k`` all whitened normal features are kept.
    """

    def __init__(self, params: WhiteningParams, context: Context) -> None:
        super().__init__(params, context)
        self._fitted: dict[str, Whitening] = {}
        self._banks: Mapping[str, Bank | RecordableBank] = {}

    def fit(self, stream: Stream) -> None:
        self._fitted, self._banks = {}, {}
        levels, device = stream.levels, self.context.device
        require_components(self.params.components, levels)
        self._check_memory(levels, stream.count)
        moments = {name: Moments(1, level.channels, device) for name, level in levels.items()}
        for features in stream:
            for name, values in features.items():
                moments[name].add(values.flatten(0, 2)[None])  # (1, n·h·w, c)
        self._fitted = {name: self._finished(name, moments.pop(name)) for name in levels}
        if self.params.k:
            self._banks = {name: Bank(rows, self.params.metric) for name, rows in self._whitened(stream).items()}

    def score(self, features: Features) -> Scores:
        if not self._fitted:
            raise NotFittedError("whitening")
        maps = {name: self._map(name, features[name]) for name in fitted_levels(self._fitted, features)}
        return scores_of(maps, features.geometry, self.params.aggregation)

    def state_dict(self) -> dict[str, Tensor]:
        return state_of(self._fitted) | {f"bank.{name}": bank.rows for name, bank in self._banks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        banks = {name: state[name] for name in state if name.startswith("bank.")}
        levels = from_state("whitening", {name: state[name] for name in state if name not in banks})
        for name, whitening in levels.items():
            if whitening.mean.shape[:2] != (1, 1):  # then the rows' are, too
                found = tuple(whitening.mean.shape[:2])
                raise foreign_state("whitening", f"mean.{name}", "that of one location", f"those of {found}")
        wanted = {f"bank.{name}": whitening.rows.shape[2] for name, whitening in levels.items() if self.params.k}
        if banks.keys() != wanted.keys():
            raise foreign_state("whitening", "bank.*", f"that of k = {self.params.k}", ", ".join(banks) or "none")
        for name, rows in checked_state("whitening", banks, {"bank.*": 2}).items() if banks else ():
            if len(rows) < self.params.k or rows.shape[1] != wanted[name]:
                expected = f"at least k = {self.params.k} rows of {wanted[name]} components"
                raise foreign_state("whitening", name, expected, tuple(rows.shape))
        device = self.context.device
        self._fitted = {name: self._placed(whitening) for name, whitening in levels.items()}
        self._banks = {n.removeprefix("bank."): Bank(rows.to(device), self.params.metric) for n, rows in banks.items()}

    def for_export(self) -> PcaWhitening:
        recordable = copy.copy(self)
        recordable._banks = {n: RecordableBank(bank.rows, self.params.metric) for n, bank in self._banks.items()}
        return recordable

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The bytes that fitting takes at its peak."""
        held = sum(Moments.memory(1, level.channels) for level in levels.values())
        if self.params.k:
            held += sum(4 * images * prod(level.grid) * level.channels for level in levels.values())
        return held + Moments.working_memory(max(level.channels for level in levels.values()))

    def _map(self, name: str, values: Tensor) -> Tensor:
        """The distances (n, h, w) of a level's features (n, h, w, c)."""
        if self.params.k:
            whitened = self._fitted[name].whitened(values)
            return self._banks[name].distances(whitened.flatten(0, 2), self.params.k).mean(1).view(values.shape[:3])
        distances = self._fitted[name].distances(values)
        return distances.square() if self.params.metric == "squared_l2" else distances

    def _whitened(self, stream: Stream) -> dict[str, Tensor]:
        """Level name → (rows, kept) every whitened normal feature."""
        device, draws = self.context.device, self.context.generator("whitening", "bank")
        rows = {
            name: Reservoir(stream.count * prod(level.grid), (self._fitted[name].rows.shape[2],), device, draws)
            for name, level in stream.levels.items()
        }
        for features in stream:
            for name, values in features.items():
                rows[name].add(self._fitted[name].whitened(values).flatten(0, 2))
        for name, found in rows.items():
            require_rows(name, len(found.items), self.params.k)
        return {name: found.items for name, found in rows.items()}

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        require_components(self.params.components, levels)
        for name, level in levels.items():
            require_rows(name, images * prod(level.grid), self.params.k)

    def _check_memory(self, levels: Mapping[str, Level], images: int) -> None:
        check_memory(
            self.memory(levels, images),
            float64_device(self.context.device),
            f"scorer: whitening's {'covariances and features' if self.params.k else 'covariances'} of "
            f"{', '.join(levels)}",
            "keep fewer features.channels, or name levels with fewer channels",
        )

    def _finished(self, name: str, moments: Moments) -> Whitening:
        count = moments.count
        require_some(count)
        variances, vectors = torch.linalg.eigh(moments.covariances()[0])  # ascending; components in columns
        variances, vectors = variances.flip(0).clamp_min(0), vectors.flip(1)
        rank = int((variances > ZERO * variances[0]).sum())
        if not rank:
            raise UserError(
                f"scorer: expected normal features that vary, found no variance in level {name}: add normal "
                "images, name other extractor.levels or use another scorer, such as center"
            )
        kept = min(rank, self._components(variances))
        if kept == rank < len(variances):
            logger.warning(
                "whitening: level %s: %d features vary in %d of %d directions; differences in the others count for "
                "nothing, and the smallest of these counts as much as the largest: use more normal images, fewer "
                "scorer.components such as 0.99, or scorer gaussian",
                *(name, count, rank, len(variances)),
            )
        unbiased = (variances[:kept] + self.params.epsilon * variances.mean()) * (count / (count - 1))
        rows = (vectors[:, :kept] / unbiased.sqrt()).mT.contiguous()  # (kept, c)
        return self._placed(Whitening(moments.means[None], rows[None, None]))

    def _components(self, variances: Tensor) -> int:
        components = self.params.components
        if isinstance(components, int):
            return components
        if components == 1:
            return len(variances)
        through = variances.cumsum(0)
        return int((through - variances < components * through[-1]).sum())  # the fewest that hold at least the share

    def _placed(self, whitening: Whitening) -> Whitening:
        return whitening.to(self.context.device, widest_float(self.context.device))


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("whitening", WhiteningParams, PcaWhitening)]
