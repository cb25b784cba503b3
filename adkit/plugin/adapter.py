"""How are the features fitted to the normal images? The contract of adapters.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from adkit.plugin.extractor import Extractor
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features, Fuse, ImageStream

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Parameters that are trained at one learning rate; ``None`` leaves the rate to ``[training]``."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Stage:
    """One stretch of an adapter's training; ``minibatches = None`` leaves its length to ``[training]``."""

    groups: Sequence[Group]
    minibatches: int | None = None
    name: str = "adapt"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all groups."""
        return [parameter for group in self.groups for parameter in group.parameters]


@dataclass(frozen=True)
class Schedule:
    """How an adapter is trained: the values of its paper, each of which ``[training]`` may replace."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.9
    """The momentum of sgd, or the first beta of adam and adamw, in [0, 1)."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """The norm to which a step's gradient is clipped; None: gradients are not clipped."""
    relative_steps: bool = False
    """Whether a step's gradient is first made as long as the weights that are trained, so that one learning rate, the
    share by which weights change in a step, serves backbones, losses and data. Then it is not clipped."""
    batch_size: int = 32
    minibatches: int | None = None
    epochs: float | None = None
    """The length of training in rounds through the normal images, where ``minibatches`` is None."""
    snapshot_epochs: float | None = None
    """The rounds between two snapshots of the state, for the report and ``SnapshotAdapter``; None: no snapshots."""


class Adapter(Protocol):
    """An adapter fits an extractor's features to the normal images.

    A new one is built for every category, prepared once, and then trained by the core, which owns the optimizer, the
    precision, the checkpoints and the engine. The features that it is given have been through ``[features]``, as those
    that a scorer reads.
    """

    def prepare(
        self, extractor: Extractor, normal: ImageStream, auxiliary: ImageStream | None, scorer: Scorer | None
    ) -> None:
        """See the normal images through ψ₀, the pretrained extractor, before anything is trained.

        Args:
            extractor: the extractor that will be trained.
            normal: the training images and their features.
            auxiliary: the images of ``[auxiliary]`` and their features; None without that table.
            scorer: a scorer fitted on ``normal`` where the adapter asks for one (``ScoredAdapter``), else None.

        Raises:
            adkit.errors.UserError: the recipe lacks something that the adapter needs, such as ``[auxiliary]``.
        """
        ...

    def stages(self) -> Sequence[Stage]:
        """The stages of the training, in their order; called once, after ``prepare``."""
        ...

    def loss(self, extractor: Extractor, batch: Batch, features: Features) -> Tensor | Mapping[str, Tensor]:
        """The mean loss of a batch: a scalar that gradients flow through, or named terms whose sum it is."""
        ...

    def score(self, features: Features) -> Tensor:
        """(n,) float32: how anomalous the adapter's objective finds each image; stoppers and the report read it."""
        ...


@runtime_checkable
class ScheduledAdapter(Protocol):
    """An adapter with the schedule of its paper; every adapter should have one."""

    @property
    def schedule(self) -> Schedule:
        """The schedule, each of whose values ``[training]`` may replace."""
        ...


@runtime_checkable
class ScoredAdapter(Protocol):
    """An adapter that needs the fitted scorer, because its objective is the scorer's own score."""

    @property
    def needs_scorer(self) -> bool:
        """Whether ``prepare`` needs the scorer, fitted on ψ₀, whose ``score`` must then be differentiable."""
        ...


@runtime_checkable
class BatchingAdapter(Protocol):
    """An adapter that makes the images of each step itself, where they are not just normal ones."""

    def batch(self, normal: Batch, auxiliary: Batch | None, generator: torch.Generator) -> Batch:
        """The images of one step, with labels and masks where the loss needs them.

        Args:
            normal: the next normal training images.
            auxiliary: as many images of ``[auxiliary]``, or fewer at the end of a round; None without that table.
            generator: a generator for this step alone, so that a resumed run draws the same.
        """
        ...


@runtime_checkable
class FeaturesAdapter(Protocol):
    """An adapter whose ``loss`` and ``score`` read features and never ``batch.images``.

    Blocks that it does not train then run once per image.
    """

    def trained(self, extractor: Extractor) -> Sequence[nn.Parameter]:
        """The parameters of ``extractor`` that the stages name; called before ``prepare``, and with other copies."""
        ...


@runtime_checkable
class SteppingAdapter(Protocol):
    """An adapter that minimizes a part of its objective by steps of its own."""

    def after_step(self, learning_rates: Mapping[nn.Parameter, float]) -> None:
        """Change the parameters after a step of the optimizer; gradients are not recorded here.

        Args:
            learning_rates: every parameter of the stage → the rate at which gradients act on it. For sgd that is
                lr · share / (1 − momentum), where share is what clipping leaves of this step's gradient, or what makes
                it as long as the weights; for adam, which scales each gradient by itself, it is the learning rate.
        """
        ...


@runtime_checkable
class SnapshotAdapter(Protocol):
    """An adapter whose snapshots along the training all become members of the detector."""

    @property
    def fuse(self) -> Fuse:
        """How the scores of the snapshots become one score."""
        ...


@runtime_checkable
class ExtendingAdapter(Protocol):
    """An adapter that trains a head of its own, which adds levels to the extractor."""

    def extend(self, extractor: Extractor) -> Extractor:
        """An extractor with the levels of ``extractor`` and more, which scorers then read.

        It is called before ``prepare``, and again when a saved detector is loaded, whose weights then replace those of
        the head. So what it makes must depend on the extractor's levels and the adapter's parameters alone.
        """
        ...
