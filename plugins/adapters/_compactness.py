"""What the adapters of PANDA share: the compactness loss, the schedule of its training, and what is trained.

Source: Reiss et al., PANDA: Adapting Pretrained Features for Anomaly Detection and Segmentation (CVPR 2021),
equation 1 and supplement 2.1.
"""

from __future__ import annotations

from typing import Final, TypeVar

from torch import Tensor

from adkit.plugin import Features, Schedule, Scores, See, Step, Stream
from adkit.toolkit.blocks import BlocksAdapter, TunesBlocks, mean_terms
from adkit.toolkit.centers import distances, fit_centers
from adkit.toolkit.scoring import scores_of

SCHEDULE: Final = Schedule(
    optimizer="sgd",
    learning_rate=1e-2,  # the paper gives none
    momentum=0.9,
    weight_decay=5e-5,
    clip_norm=1e-3,
    batch_size=32,
    minibatches=2300,
    snapshot_epochs=5,
)
"""The paper's schedule for the last two blocks of a ResNet-152, stopped early."""


class Compactness:
    """The compactness loss ‖ψ(x) − c‖², with c the mean of ψ₀ over the normal images.

    It is the mean over images, levels and a level's locations. Equation 1 is a sum over images, for the pooled level
    alone; for that level, this is its mean.
    """

    def __init__(self, normal: Stream) -> None:
        """Take the centers of ``normal``, the normal images through ψ₀, in one pass."""
        self._centers = fit_centers(normal.levels, normal, "level")

    def terms(self, features: Features) -> dict[str, Tensor]:
        """One term per level, whose sum is the loss."""
        return mean_terms(self._scores(features).levels)

    def score(self, features: Features) -> Tensor:
        """(n,) float32: the compactness of each image by itself, as a mean over levels."""
        return self._scores(features).image

    def _scores(self, features: Features) -> Scores:
        maps = {name: distances(features[name], center, "squared_l2") for name, center in self._centers.items()}
        return scores_of(maps, features.geometry, "mean")


T = TypeVar("T", bound=TunesBlocks)


class CompactnessAdapter(BlocksAdapter[T]):
    """An adapter that minimizes the mean squared distance to the mean of ψ₀, in the blocks that are tuned."""

    schedule = SCHEDULE

    _compactness: Compactness

    def prepare(self, see: See) -> None:
        self._compactness = Compactness(see.normal)

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        return self._compactness.terms(features)

    def score(self, features: Features) -> Tensor:
        return self._compactness.score(features)
