"""spade: the distance of each location to the nearest locations of the most similar normal images.

Source: Reiss et al., PANDA (CVPR 2021), section 2.3 and its supplement 2.3; retrieval and κ are those of
Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid Correspondences (2020).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from adkit.plugin import (
    POOL,
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
    counted,
    hookimpl,
)
from adkit.toolkit.features import FeaturesTable, FeatureTransform
from adkit.toolkit.kmeans import located, located_distances, moved, recordable_located
from adkit.toolkit.memory import check_memory
from adkit.toolkit.neighbors import Bank, RecordableBank, nearest_among, recordable_among
from adkit.toolkit.scoring import Reservoir, checked_state, fitted_levels, foreign_state, levels_of, spatial

logger = logging.getLogger("adkit")

ALIGNED = 0.05
"""Share of the variance of normal features that their location explains, from which images count as aligned.

Measured on Lite 0's blocks.1 with 50 images: crops of textures 0.01 to 0.03, automobiles 0.07, magnetic tiles 0.09.
"""

_COMBINE = {"ensemble": "none", "concat": "concat"}
"""Value of ``combine`` here → that of the same key in ``[features]``."""


class SpadeParams(Params):
    k: int = Field(2, ge=1, description="nearest images whose distances are averaged into the image's score")
    retrieve: int = Field(50, ge=0, description="nearest images whose locations are searched; 0: all of them")
    kappa: int = Field(1, ge=1, description="nearest locations whose distances are averaged into the map")
    combine: Literal["ensemble", "concat"] = Field(
        "ensemble",
        description="ensemble: one map per level; concat: one map of all levels, joined on the first one's grid",
    )
    centroids: int = Field(
        0,
        ge=0,
        description="number of K-means centroids per location that replace retrieval; 0: keep every image",
    )
    iterations: int = Field(3, ge=1, description="passes over the normal images that K-means takes")

    @field_validator("centroids")
    @classmethod
    def _enough(cls, centroids: int, info: ValidationInfo) -> int:
        if 0 < centroids < info.data.get("kappa", 1):
            raise ValueError(f"expected 0 or at least kappa = {info.data['kappa']}, found {centroids}")
        return centroids


class Spade(Scorer[SpadeParams]):
    """A scorer by L2 distances to retrieved normal images, all of whose spatial levels it keeps.

    Each value takes 4 bytes: 5.6 MB per image for WideResNet-50-2's three levels at 224, and 22.5 MB with ``concat``.
    With ``centroids`` it is twice what as many images would need, however many are seen.
    """

    def __init__(self, params: SpadeParams, context: Context) -> None:
        super().__init__(params, context)
        self._images: Bank | RecordableBank | None = None
        self._locations: dict[str, Tensor] = {}  # (images, h, w, c), or with centroids (h, w, centroids, c)

    def fit(self, stream: Stream) -> None:
        self._images, self._locations = None, {}
        _check_levels(stream.levels)
        describe = self._transform(stream.levels)
        pooled, samples = self._reservoirs(stream, describe.levels)
        for features in stream:
            pooled.add(features[POOL])
            described = describe(features)
            for name, sample in samples.items():
                sample.add(described[name])
        self._check_counts(len(pooled.items), {name: sample.items.shape[1:3] for name, sample in samples.items()})
        if not self.params.centroids:
            self._locations = {name: sample.items for name, sample in samples.items()}
        else:
            _warn_unless_aligned(max((sample.items for sample in samples.values()), key=lambda items: items[0].numel()))
            self._locations = {name: located(samples.pop(name).items) for name in list(samples)}
            if self.params.centroids < len(pooled.items):
                for _ in range(self.params.iterations):
                    self._locations = moved(self._locations, stream, describe)
        self._images = Bank(pooled.items.flatten(1))

    def score(self, features: Features) -> Scores:
        if self._images is None:
            raise NotFittedError("spade")
        described = self._transform(levels_of(features))(features)
        names = [name for name in fitted_levels((POOL, *self._locations), described) if name != POOL]
        retrieve = min(self.params.retrieve or len(self._images), len(self._images))
        distances, images = self._images.search(features[POOL].flatten(1), max(retrieve, self.params.k))
        maps = {name: self._map(described[name], name, images[:, :retrieve]) for name in names}
        return Scores(distances[:, : self.params.k].mean(1), *spatial(maps, described.geometry))

    def state_dict(self) -> dict[str, Tensor]:
        if self._images is None:
            return {}
        return {"images": self._images.rows} | {f"locations.{n}": t for n, t in self._locations.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tensors = checked_state("spade", state, {"images": 2, "locations.*": 4})
        images = tensors.pop("images")
        kept, axis = self._kept(len(images)), 2 if self.params.centroids else 0
        for name, tensor in tensors.items():
            if tensor.shape[axis] != kept:
                wanted = f"of {counted(kept, 'image')} in dimension {axis}"
                raise foreign_state("spade", name, wanted, tuple(tensor.shape))
        locations = {name.removeprefix("locations."): tensor for name, tensor in tensors.items()}
        first = 0 if self.params.centroids else 1
        self._check_counts(len(images), {name: t.shape[first : first + 2] for name, t in locations.items()})
        device = self.context.device
        self._images = Bank(images.to(device))
        self._locations = {name: tensor.to(device) for name, tensor in locations.items()}

    def for_export(self) -> Spade:
        recordable = copy.copy(self)
        if self._images is not None:
            recordable._images = RecordableBank(self._images.rows, "l2")
        return recordable

    def memory(self, levels: Mapping[str, Level], images: int) -> int:
        _check_levels(levels)
        described = self._transform(levels).levels
        locations = sum(math.prod((*level.grid, level.channels)) for level in described.values() if level.spatial)
        kept = min(2 * self.params.centroids, 2 * images) or images  # K-means moves from one set to another
        return 4 * (kept * locations + images * levels[POOL].channels)

    def _map(self, values: Tensor, name: str, retrieved: Tensor) -> Tensor:
        """(n, h, w): the map of a level with ``values`` (n, h, w, c); ``retrieved`` (n, m) numbers images."""
        bank, kappa = self._locations[name], self.params.kappa
        recorded = isinstance(self._images, RecordableBank)
        if self.params.centroids:
            to_all = recordable_located if recorded else located_distances
            return to_all(values, bank).topk(kappa, largest=False).values.mean(3)
        if retrieved.shape[1] == len(bank):
            rows = bank.flatten(0, 2)
            every = RecordableBank(rows, "l2") if recorded else Bank(rows)
            lengths = every.distances(values.flatten(0, 2), kappa)
        elif recorded:
            lengths = recordable_among(values.flatten(1, 2), bank.flatten(1, 2), retrieved, kappa).flatten(0, 1)
        else:
            queries, bank = values.flatten(1, 2), bank.flatten(1, 2)
            found = [nearest_among(q, bank, r, kappa) for q, r in zip(queries, retrieved, strict=True)]
            lengths = torch.cat(found)
        return lengths.mean(1).view(values.shape[:3])

    def _transform(self, levels: Mapping[str, Level]) -> FeatureTransform:
        table = FeaturesTable.model_validate({"combine": _COMBINE[self.params.combine]})
        return FeatureTransform(table, levels, self.context.generator("spade", "features"))

    def _reservoirs(self, stream: Stream, described: Mapping[str, Level]) -> tuple[Reservoir, dict[str, Reservoir]]:
        count = self._kept(stream.count)
        check_memory(
            self.memory(stream.levels, stream.count),
            self.context.device,
            f"scorer: spade's bank of {counted(count, 'normal image')}",
            f"set scorer.centroids to {max(1, count // 4)} or less, or name fewer or deeper extractor.levels",
        )

        def reservoir(name: str, capacity: int, shape: tuple[int, ...]) -> Reservoir:
            generator = self.context.generator("spade", "pictures", name)
            return Reservoir(capacity, shape, self.context.device, generator)

        pooled = reservoir(POOL, stream.count, (1, 1, stream.levels[POOL].channels))
        shapes = {name: (*level.grid, level.channels) for name, level in described.items() if level.spatial}
        return pooled, {name: reservoir(name, count, shape) for name, shape in shapes.items()}

    def _kept(self, images: int) -> int:
        """The number of images whose locations are kept, or moved to become centroids."""
        return min(self.params.centroids or images, images)

    def require(self, levels: Mapping[str, Level], images: int) -> None:
        _check_levels(levels)
        described = self._transform(levels).levels
        self._check_counts(images, {name: level.grid for name, level in described.items() if level.spatial})

    def _check_counts(self, images: int, grids: Mapping[str, Sequence[int]]) -> None:
        if images < self.params.k:
            raise UserError(
                f"scorer.k: expected at most {images}, the number of normal images, found {self.params.k}: "
                "lower k or give more normal images"
            )
        retrieved = min(images, self.params.retrieve or images)
        for name, grid in grids.items():
            compared = self._kept(images) if self.params.centroids else retrieved * math.prod(grid)
            if compared < self.params.kappa:
                raise UserError(
                    f"scorer.kappa: expected at most {compared}, the number of normal features that a location of "
                    f"{name} is compared with, found {self.params.kappa}: lower kappa or give more normal images"
                )


def _warn_unless_aligned(sample: Tensor) -> None:
    """Warn where a location's features in ``sample`` (images, h, w, c) differ as if it were any other location."""
    images = len(sample)
    if images < 2:
        return
    means = sample.mean(0)  # (h, w, c)
    within = sum(float((image - means).double().square().sum()) for image in sample) / (images - 1)
    total = sum(float((image - means.mean((0, 1))).double().square().sum()) for image in sample) / images
    share = 1 - within / total if total > 0 else 1.0
    if share < ALIGNED:
        logger.warning(
            "spade: centroids of a location take images to be aligned, and here the location explains %.1f%% of what "
            "normal features vary by (aligned images: above %.0f%%): set scorer.centroids = 0",
            *(100 * max(share, 0.0), 100 * ALIGNED),
        )


def _check_levels(levels: Mapping[str, Level]) -> None:
    if POOL not in levels or not any(level.spatial for level in levels.values()):
        raise UserError(
            f"extractor.levels: spade expected pool and a spatial level, found {', '.join(levels)}: "
            'write, for a ResNet, levels = ["pool", "layer1", "layer2", "layer3"]'
        )


@hookimpl
def adkit_scorers() -> list[Component[Any]]:
    return [Component.scorer("spade", SpadeParams, Spade)]
