"""What adapters and stoppers are asked and what they answer, beside ``adkit.plugin.types``.

Importing this module does not import torch, either.
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
    """Parameters that are trained at one rate; ``None`` leaves it to ``[training]``."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Stage:
    """One stretch of training; ``None`` leaves its length to ``[training]``."""

    groups: Sequence[Group]
    minibatches: int | None = None
    name: str = "adapt"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of all groups."""
        return [parameter for group in self.groups for parameter in group.parameters]


@dataclass(frozen=True)
class Schedule:
    """How an adapter is trained: the values of its paper, each of which ``[training]`` may replace."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.9
    """Of sgd; the first beta of adam and adamw."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Largest norm of a step's gradient; None: as it is."""
    batch_size: int = 32
    minibatches: int | None = None
    epochs: float | None = None
    """Length in rounds through the normal images, where ``minibatches`` does not say it."""
    snapshot_epochs: float | None = None
    """Rounds after each of which the state is kept, for what the report says of it and for ``SnapshotAdapter``."""


class Adapter(Protocol):
    """How are the features fitted to the normal images?

    It is built anew for every category, prepared once, and then trained by the core, which owns optimizer, precision,
    checkpoints and the engine. Features that it is given have been through ``[features]``, as a scorer reads them.
    """

    def prepare(
        self, extractor: Extractor, normal: ImageStream, auxiliary: ImageStream | None, scorer: Scorer | None
    ) -> None:
        """See the normal images through ψ₀, before anything is trained.

        Args:
            extractor: the one that will be trained.
            normal: the training images.
            auxiliary: other images, those of ``[auxiliary]``.
            scorer: fitted on ``normal`` where the adapter asks for one (``ScoredAdapter``), else None.
        """
        ...

    def stages(self) -> Sequence[Stage]:
        """What is trained, one stage after the other; asked once, after ``prepare``."""
        ...

    def loss(self, extractor: Extractor, batch: Batch, features: Features) -> Tensor | Mapping[str, Tensor]:
        """Mean loss of a batch, a scalar that gradients flow through, or named terms whose sum it is."""
        ...

    def score(self, features: Features) -> Tensor:
        """(n,): how anomalous the objective finds each image; for stoppers."""
        ...


@runtime_checkable
class ScheduledAdapter(Protocol):
    """What an adapter should offer beside: the schedule of its paper."""

    @property
    def schedule(self) -> Schedule: ...


@runtime_checkable
class ScoredAdapter(Protocol):
    """What an adapter may offer beside, where its objective is the scorer's own score."""

    @property
    def needs_scorer(self) -> bool:
        """Whether ``prepare`` wants the scorer, fitted on ψ₀; its ``score`` is then differentiable."""
        ...


@runtime_checkable
class BatchingAdapter(Protocol):
    """What an adapter may offer beside, where a step's images are not just normal ones."""

    def batch(self, normal: Batch, auxiliary: Batch | None, generator: torch.Generator) -> Batch:
        """The images of a step, with labels and masks where the loss wants them.

        Args:
            normal: the next normal training images.
            auxiliary: as many of ``[auxiliary]``, None without that table.
            generator: of this step alone, so that a resumed run draws the same.
        """
        ...


@runtime_checkable
class FeaturesAdapter(Protocol):
    """What an adapter may offer beside, where ``loss`` and ``score`` look at features and never at ``batch.images``.

    Blocks that it does not train then run once per image.
    """

    def trained(self, extractor: Extractor) -> Sequence[nn.Parameter]:
        """The parameters of ``extractor`` that its stages name; asked before ``prepare``, and of other copies, too."""
        ...


@runtime_checkable
class SteppingAdapter(Protocol):
    """What an adapter may offer beside, where a part of its objective is minimized by steps of its own."""

    def after_step(self, learning_rates: Mapping[nn.Parameter, float]) -> None:
        """Change the parameters after a step of the optimizer; gradients are off.

        Args:
            learning_rates: every parameter of the stage, with the rate at which gradients act on it: of sgd with what
                clipping leaves of this step's gradient and with what momentum adds up to, lr · share / (1 − momentum);
                of adam, which scales each gradient by itself, the learning rate alone.
        """
        ...


@runtime_checkable
class SnapshotAdapter(Protocol):
    """What an adapter may offer beside, whose snapshots along the way all become members of the detector."""

    @property
    def fuse(self) -> Fuse:
        """How their scores become one."""
        ...


@runtime_checkable
class ExtendingAdapter(Protocol):
    """What an adapter may offer beside, where it trains a head of its own."""

    def extend(self, extractor: Extractor) -> Extractor:
        """``extractor`` with more levels, which scorers then read.

        Called before ``prepare``, and again when a saved detector is loaded, whose weights then replace those of the
        head; so what it makes depends on the extractor's levels and the adapter's parameters alone.
        """
        ...
