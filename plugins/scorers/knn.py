"""knn: the mean distance to the nearest normal features; over ``pool`` alone it is DN2, with a coreset PatchCore.

Sources: Reiss et al., PANDA (CVPR 2021), sections 2.2 and 4.3.3; PatchCore [Roth et al., Towards Total Recall in
Industrial Anomaly Detection (CVPR 2022)], section 3. Distances for the coreset are exact; with ``projection`` they are
those of a random projection, which that paper makes use of and adkit by default does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
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
    counted,
    hookimpl,
)
from adkit.toolkit.coreset import BYTES_OF_A_ROW, greedy_k_center
from adkit.toolkit.kmeans import kmeans
from adkit.toolkit.memory import check_memory
from adkit.toolkit.neighbors import Bank, Index, Metric, RecordableBank, prepared
from adkit.toolkit.progress import steps
from adkit.toolkit.scoring import (
    Aggregation,
    Reservoir,
    checked_state,
    fitted_levels,
    foreign_state,
    require_rows,
    scores_of,
)

PER_CENTROID = 256
"""The number of features per centroid that K-means learns from; more hardly move the centroids."""
BYTES_OF_NUMBERS = 32
"""Bytes that say of each feature where it is from, by its number in the stream and among the cells of all images, while
the one is made of the other."""


class KnnParams(Params):
    k: int = Field(2, ge=1, description="neighbors whose distances are averaged")
    metric: Metric = Field("l2", description="distance between features; cosine is 1 - cos")
    aggregation: Aggregation = Field("max", description="how a level's map becomes the image's score")
    sample: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of each image's locations that a level's bank keeps, drawn at random",
    )
    centroids: int = Field(0, ge=0, description="K-means centroids that replace a level's bank; 0: keep the bank")
    coreset: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a level's bank that is kept, chosen so that no normal feature is far from it",
    )
    projection: int = Field(
        0,
        ge=0,
        description="random directions in which the features are measured to choose a coreset, fewer than channels: "
        "quicker, but another coreset; 0: all channels are",
    )
    reweight: int = Field(
        0,
        ge=0,
        description="normal features around the nearest one by whose distances an image's score is weighted, as "
        "PatchCore does with 9; 0: it is not weighted",
    )
    index: Index = Field(
        "auto",
        description="what searches: faiss, on the CPU, or torch, on the run's device; auto: torch, but faiss for small "
        "banks on the CPU",
    )

    @field_validator("centroids")
    @classmethod
    def _enough(cls, centroids: int, info: ValidationInfo) -> int:
        if 0 < centroids < info.data.get("k", 1):
            raise ValueError(f"expected 0 or at least k = {info.data['k']}, found {centroids}")
        return centroids

    @field_validator("coreset")
    @classmethod
    def _one_way(cls, coreset: float, info: ValidationInfo) -> float:
        if coreset < 1 and info.data.get("centroids"):
            raise ValueError(
                f"expected 1 beside centroids = {info.data['centroids']}, found {coreset}: set one of them"
            )
        return coreset

    @field_validator("projection")
    @classmethod
    def _of_a_coreset(cls, projection: int, info: ValidationInfo) -> int:
        if projection and info.data.get("coreset") == 1:
            raise ValueError(f"expected 0 without a coreset, found {projection}: set coreset below 1 or remove it")
        return projection

    @field_validator("reweight")
    @classmethod
    def _weighable(cls, reweight: int, info: ValidationInfo) -> int:
        if reweight == 1:
            raise ValueError("expected 0 or at least 2, found 1: beside itself alone, every feature weighs nothing")
        if reweight and (aggregation := info.data.get("aggregation", "max")) != "max":
            raise ValueError(
                f'expected 0 beside aggregation = "{aggregation}", found {reweight}: it is for "max" alone'
            )
        if 0 < (centroids := info.data.get("centroids", 0)) < reweight:
            raise ValueError(f"expected at most centroids = {centroids}, found {reweight}")
        return reweight


class Knn(Scorer[KnnParams]):
    """A scorer by nearest neighbors, with one bank per level, of the features of all images and locations."""

    def __init__(self, params: KnnParams, context: Context) -> None:
        super().__init__(params, context)
        self._banks: Mapping[str, Bank | RecordableBank] = {}
        self._cells: dict[str, Tensor] = {}
        """Level name → (m,) int64 numbers of the cells that its bank holds; none after K-means or loading."""

    def fit(self, stream: Stream) -> None:
        self._banks, self._cells = {}, {}
        levels, images = stream.levels, stream.count
        draws = {name: self.context.generator("knn", "sample", name) for name in levels}
        kept = {name: self._kept(level) for name, level in levels.items()}
        samples = self._reservoirs(levels, images)
        drawn: dict[str, list[Tensor]] = {name: [] for name in levels}  # (n, kept) cells of each image
        for features in stream:
            for name, values in features.items():
                rows = values.flatten(1, 2)  # (n, h·w, c)
                if kept[name] < rows.shape[1]:
                    order = torch.rand(rows.shape[:2], generator=draws[name]).argsort(1)[:, : kept[name]]
                    drawn[name].append(order.int())
                    rows = rows.gather(1, order.to(rows.device)[..., None].expand(-1, -1, rows.shape[2]))
                samples[name].add(prepared(rows.flatten(0, 1), self.params.metric))
        banks = {}
        for name, sample in samples.items():
            bank, chosen = self._condensed(name, sample.items)
            banks[name] = self._bank(bank)
            if chosen is not None:
                height, width = levels[name].grid
                self._cells[name] = _numbers(sample.numbers, drawn[name], height * width)[chosen]
        self._banks = banks

    def nearest(self, level: str, cells: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
        bank = self._banks.get(level)
        if bank is None or level not in self._cells:
            return None
        distances, rows = bank.search(cells, min(k, len(bank)))
        return distances, self._cells[level][rows.cpu()]

    def score(self, features: Features) -> Scores:
        if not self._banks:
            raise NotFittedError("knn")
        maps, weights = {}, {}
        for name in fitted_levels(self._banks, features):
            values, bank = features[name], self._banks[name]
            distances, found = bank.search(values.flatten(0, 2), self.params.k)  # (n·h·w, k)
            maps[name] = distances.mean(1).view(values.shape[:3])
            if self.params.reweight:
                highest = maps[name].flatten(1).argmax(1, keepdim=True)  # (n, 1)
                nearest = found[:, 0].view(maps[name].shape).flatten(1).gather(1, highest)[:, 0]
                patches = values.flatten(1, 2).gather(1, highest[..., None].expand(-1, -1, values.shape[3]))[:, 0]
                weights[name] = self._weights(bank, patches, nearest)
        scores = scores_of(maps, features.geometry, self.params.aggregation)
        if not self.params.reweight:
            return scores
        levels = {name: score * weights[name] for name, score in scores.levels.items()}
        return replace(scores, image=torch.stack(list(levels.values())).mean(0), levels=levels)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"bank.{name}": bank.rows for name, bank in self._banks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        banks = checked_state("knn", state, {"bank.*": 2})
        for name, rows in banks.items():
            for key in ("k", "reweight"):
                if len(rows) < (least := getattr(self.params, key)):
                    raise foreign_state("knn", name, f"at least {key} = {counted(least, 'row')}", len(rows))
        self._banks, self._cells = {name.removeprefix("bank."): self._bank(rows) for name, rows in banks.items()}, {}

    def for_export(self) -> Knn:
        recordable = copy.copy(self)
        recordable._banks = {n: RecordableBank(b.rows, self.params.metric) for n, b in self._banks.items()}
        return recordable

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        for name, count in self._counts(levels, images).items():
            self._require_rows(name, count)

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        """The bytes of the banks as they are filled, and of what thinning the largest of them takes beside them."""
        counts = self._counts(levels, images)
        filled = sum((4 * levels[name].channels + BYTES_OF_NUMBERS) * n for name, n in counts.items())
        left = sum(4 * levels[name].channels * self._left(n) for name, n in counts.items() if self._left(n) < n)
        return filled + left + max(self._thinning(levels[name].channels) * n for name, n in counts.items())

    def operations(self, levels: Mapping[str, Level], images: int) -> float | None:
        counts = self._counts(levels, images)
        if self.params.coreset < 1:  # every feature is measured from every one that is chosen
            widths = {name: self._measured(level.channels) for name, level in levels.items()}
            return sum(2.0 * n * self._left(n) * widths[name] for name, n in counts.items())
        return None

    def _weights(self, bank: Bank | RecordableBank, patches: Tensor, nearest: Tensor) -> Tensor:
        """(n,): 1 − softmax of distances of patches (n, c) to the features around their ``nearest`` (n,), at that one.

        So what is nearest to a feature of which there are few like it counts for more [PatchCore, equation 7].
        """
        around = bank.search(bank.rows[nearest], self.params.reweight)[1]  # (n, b)
        patches = prepared(patches, self.params.metric)
        lengths = torch.linalg.vector_norm(patches[:, None] - bank.rows[around], dim=2)
        own = torch.linalg.vector_norm(patches - bank.rows[nearest], dim=1)
        weights: Tensor = 1 - (own - lengths.logsumexp(1)).exp()
        return weights

    def _counts(self, levels: Mapping[str, Level], images: int) -> dict[str, int]:
        """Level name → the number of rows that its bank is filled with, before it is thinned."""
        most = PER_CENTROID * self.params.centroids or math.inf
        return {name: int(min(images * self._kept(level), most)) for name, level in levels.items()}

    def _require_rows(self, level: str, count: int) -> None:
        require_rows(level, count, self.params.k)
        require_rows(level, count, self.params.reweight, "reweight")

    def _left(self, count: int) -> int:
        """The number of rows that are left of ``count`` by K-means or by the coreset."""
        if self.params.coreset < 1:
            return max(round(self.params.coreset * count), self.params.k, self.params.reweight)
        return min(count, self.params.centroids or count)

    def _thinning(self, channels: int) -> int:
        """The bytes that choosing a coreset takes for each feature."""
        if self.params.coreset == 1:
            return 0
        width = self._measured(channels)
        return BYTES_OF_A_ROW + 4 * width * (width < channels)

    def _kept(self, level: Level) -> int:
        return max(1, round(self.params.sample * level.grid[0] * level.grid[1]))

    @property
    def _device(self) -> str:
        return "cpu" if self.params.index == "faiss" else self.context.device

    def _reservoirs(self, levels: Mapping[str, Level], images: int) -> dict[str, Reservoir]:
        counts = self._counts(levels, images)
        check_memory(
            self.memory(levels, images),
            self._device,
            f"scorer: knn's bank of {counted(sum(counts.values()), 'normal feature')}",
            "lower scorer.sample, set scorer.centroids, or name levels with smaller grids or fewer channels",
        )
        return {
            name: Reservoir(counts[name], (level.channels,), self._device, self.context.generator("knn", "bank", name))
            for name, level in levels.items()
        }

    def _condensed(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The bank of a level, and which of ``rows`` it has; None for centroids, which are none of them."""
        self._require_rows(name, len(rows))
        every = torch.arange(len(rows))
        if self.params.coreset < 1:
            least = max(self.params.k, self.params.reweight)
            draw = torch.rand(1, generator=self.context.generator("knn", "coreset", name), dtype=torch.float64)
            count = self._left(len(rows))
            with steps(f"coreset of {counted(len(rows), 'feature')} of {name}", count, "feature") as advance:
                kept = greedy_k_center(self._projected(name, rows), count, int(draw * len(rows)), advance).cpu()
            if len(kept) < least:  # all others are copies of these, of which some are taken, too
                kept = torch.cat([kept, every[~torch.isin(every, kept)][: least - len(kept)]])
            return rows[kept.to(rows.device)], kept
        if not 0 < self.params.centroids < len(rows):
            return rows, every  # as few features as centroids are their own centroids
        seed = self.context.seed_for("knn", "centroids", name)
        return kmeans(rows, self.params.centroids, seed, spherical=self.params.metric == "cosine"), None

    def _projected(self, name: str, rows: Tensor) -> Tensor:
        """The features (m, c) in random directions (m, p), in which they are about as far from each other."""
        width = self._measured(rows.shape[1])
        if width == rows.shape[1]:
            return rows
        draws = self.context.generator("knn", "projection", name)
        projected: Tensor = rows @ torch.randn(rows.shape[1], width, generator=draws).to(rows.device)
        return projected.div_(width**0.5)

    def _measured(self, channels: int) -> int:
        return min(self.params.projection or channels, channels)

    def _bank(self, rows: Tensor) -> Bank:
        return Bank(rows.to(self._device), self.params.metric, self.params.index)


def _numbers(kept: Tensor, drawn: list[Tensor], cells: int) -> Tensor:
    """The numbers of cells in the stream, (m,), from their places among those that were drawn of each image.

    Args:
        kept: (m,) places among the drawn cells of all images, one image after the other.
        drawn: (n, d) the cells that were drawn of each image of a batch; none where all were taken.
        cells: number of cells of an image.
    """
    if not drawn:
        return kept.clone()
    own = torch.cat(drawn)  # (images, d)
    images, places = kept // own.shape[1], kept % own.shape[1]
    return images * cells + own[images, places]


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("knn", KnnParams, Knn)]
