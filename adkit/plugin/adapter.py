"""How are the features fitted to the normal images? The contract of adapters.

Importing this module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from adkit.plugin.contract import Contract, P
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Batch, Features, Fuse, ImageStream

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adkit.plugin.extractor import Extractor


Optimizer = Literal["sgd", "adam", "adamw"]
"""The optimizers that a training can have."""
RateDecay = Literal["none", "linear", "cosine"]
"""How learning rates go down to 0 over a stage, if at all."""


@dataclass(frozen=True)
class Group:
    """Parameters that are trained at one learning rate; ``None`` leaves the rate to ``[training]``."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Stage:
    """One stretch of an adapter's training."""

    groups: Sequence[Group]
    minibatches: int | None = None
    """Its length; None leaves it to ``[training]``."""
    batch_size: int | None = None
    """The images of a minibatch; None leaves their number to ``[training]``."""
    images: Literal["normal", "auxiliary"] = "normal"
    """The images that ``Step.batch`` has: the normal ones to train on, or those of ``[auxiliary]``."""
    name: str = "adapt"
    shared: bool = False
    """Whether a stage on ``[auxiliary]`` depends on no normal image, not by ``prepare`` either: it is then trained
    once, and other categories, folds and runs take its outcome from the cache."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all groups."""
        return [parameter for group in self.groups for parameter in group.parameters]


@dataclass(frozen=True)
class Schedule:
    """How an adapter is trained: the values of its paper, each of which ``[training]`` may replace."""

    optimizer: Optimizer = "sgd"
    learning_rate: float = 1e-2
    momentum: float = 0.9
    """The momentum of sgd, or the first beta of adam and adamw, in [0, 1)."""
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """The norm to which a step's gradient is clipped; None: gradients are not clipped."""
    relative_steps: bool = False
    """Whether a step's gradient is first made as long as the weights that are trained, so that one learning rate, the
    share by which weights change in a step, serves backbones, losses and data. Then it is not clipped."""
    rate_decay: RateDecay = "none"
    """How learning rates go down over each stage: not, or to 0, on a line or on half a cosine
    [Loshchilov and Hutter, SGDR (ICLR 2017), equation 5, without restarts]."""
    warmup: int = 0
    """The minibatches at the beginning of each stage over which learning rates rise to what they are."""
    ema_decay: float | None = None
    """The share of the mean of the weights that each step keeps, in (0, 1), where this exponential moving average of
    the weights over the steps of a stage is what is judged and kept; None: the weights themselves are."""
    batch_size: int = 32
    minibatches: int | None = None
    epochs: float | None = None
    """The length of training in rounds through the normal images, where ``minibatches`` is None."""
    snapshot_epochs: float | None = None
    """The rounds between two snapshots of the state, for the report and ``Adapter.fuse``; None: no snapshots."""


@dataclass(frozen=True)
class See:
    """What an adapter sees before anything is trained: the normal images through ψ₀, the pretrained extractor."""

    extractor: Extractor
    """The extractor that will be trained."""
    normal: ImageStream
    """The training images and their features."""
    auxiliary: ImageStream | None
    """The images of ``[auxiliary]`` and their features; None without that table."""
    scorer: Scorer | None
    """A scorer fitted on ``normal`` where the adapter has ``needs_scorer``, else None."""


@dataclass(frozen=True)
class Step:
    """One step of a training."""

    extractor: Extractor
    """The extractor that is trained."""
    batch: Batch
    """The next images of the stage; in ``loss`` those that ``Adapter.batch`` made of them."""
    auxiliary: Batch | None
    """As many images of ``[auxiliary]``, or fewer at the end of a round; None without that table, in a stage whose own
    images they are, and for an adapter without ``reads_images``."""
    stage: int
    """The number of the stage among those of ``Adapter.stages``, from 0."""
    minibatch: int
    """The number of the step in the whole training, from 0."""
    generator: torch.Generator
    """A generator for this step alone, so that a resumed run draws the same."""


class Adapter(Contract[P]):
    """An adapter fits an extractor's features to the normal images.

    A new one is built for every category, prepared once, and then trained by the core, which owns the optimizer, the
    precision, the checkpoints and the engine. The features that it is given have been through ``[features]``, as those
    that a scorer reads.
    """

    kind: ClassVar[str] = "adapter"
    required: ClassVar[tuple[str, ...]] = ("prepare", "stages", "loss", "score")

    schedule: Schedule = Schedule()
    """The schedule of the adapter's paper, each of whose values ``[training]`` may replace."""
    needs_scorer: bool = False
    """Whether ``prepare`` needs the scorer, fitted on ψ₀, whose ``score`` must then be differentiable."""
    fuse: Fuse | None = None
    """How the scores of snapshots along the training become one score; None: the detector is the last state alone."""
    reads_images: bool = True
    """Whether ``batch``, ``loss`` or ``after_step`` reads the images of a ``Step``, the auxiliary ones included; if
    not, blocks that are not trained run once an image."""
    reads_features: bool = True
    """Whether ``loss`` reads the features that it is given; if not, they are empty, and it runs the parts of
    ``step.extractor`` that it needs, in the precision of the run."""

    @abstractmethod
    def prepare(self, see: See) -> None:
        """See the normal images through ψ₀ before anything is trained.

        Raises:
            adkit.errors.UserError: the recipe lacks something that the adapter needs, such as ``[auxiliary]``.
        """

    @abstractmethod
    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        """The stages of a training of ``extractor``, in their order.

        It is asked at any time, before ``prepare`` and with other copies of the extractor, too, so it depends on the
        extractor and the parameters alone.
        """

    @abstractmethod
    def loss(self, step: Step, features: Features) -> Tensor | Mapping[str, Tensor]:
        """The mean loss of ``step.batch``: a scalar that gradients flow through, or named terms whose sum it is."""

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """(n,) float32: how anomalous the adapter's objective finds each image; stoppers and the report read it."""

    def extend(self, extractor: Extractor) -> Extractor:
        """An extractor with the levels of ``extractor`` and those of a head that the adapter trains; default: itself.

        A head that serves training alone, such as a projection, need not have levels. It is called before ``prepare``,
        and again when a saved detector is loaded, whose weights then replace those of the head. So what it makes must
        depend on the extractor's levels and the adapter's parameters alone.
        """
        return extractor

    def batch(self, step: Step) -> Batch:
        """The images of one step, with labels and masks where the loss needs them; default: ``step.batch`` as it is."""
        return step.batch

    def after_step(self, step: Step, rates: Mapping[nn.Parameter, float]) -> None:
        """Change the parameters after a step of the optimizer, to minimize a part of the objective in another way.

        Gradients are not recorded here. Default: nothing is changed.

        Args:
            rates: every parameter of the stage → the rate at which gradients act on it. For sgd that is
                lr · share / (1 − momentum), where share is what clipping leaves of this step's gradient, or what makes
                it as long as the weights; for adam, which scales each gradient by itself, it is the learning rate.
        """
