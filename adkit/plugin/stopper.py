"""When has adapting gone far enough? The contract of stoppers.

Importing this module does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adkit.plugin.adapter import Adapter
from adkit.plugin.contract import Contract, P
from adkit.plugin.types import Batch, Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """How far adapting has come at one check of a stopper."""

    minibatches: int
    epochs: float
    loss: float | None
    """The mean loss since the previous check; None before the first step."""


@dataclass(frozen=True)
class Look:
    """What a stopper is shown at one check."""

    progress: Progress
    extractor: Callable[[Tensor], Features]
    """A function from images to features as ``adapter.score`` takes them, without gradients."""
    adapter: Adapter
    """The adapter that is being trained."""
    held_out: Iterable[Batch]
    """Normal images for the stopper alone, which can be iterated over more than once; test images never come here.
    It is empty unless the stopper asks for images by ``validation``."""
    generator: torch.Generator
    """A generator for this check alone."""


@dataclass(frozen=True)
class Verdict:
    """A stopper's answer; ``reason`` is a sentence that the report shows."""

    keep: bool
    """Whether this state is the best so far; the run goes on with the last state that was kept."""
    stop: bool
    reason: str
    value: float | None = None
    """The number that the stopper judges by, which the report shows; None where it has none."""


class Stopper(Contract[P]):
    """A stopper says when adapting has gone far enough.

    It is asked before the first step, after every epoch, and after the last step; of several stages, it is asked about
    the last one alone. Where it kept no state, the run goes on with the last one.
    """

    kind: ClassVar[str] = "stopper"
    required: ClassVar[tuple[str, ...]] = ("check",)

    validation: float = 0.0
    """The share of the normal training images, in [0, 1), to hold out for the stopper."""

    @abstractmethod
    def check(self, look: Look) -> Verdict:
        """Judge the current state of the training."""

    def state_dict(self) -> dict[str, float]:
        """What the stopper remembers between checks, as numbers, so that a killed run can be resumed; default: nothing.

        A stopper that remembers anything needs this and ``load_state_dict``.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over the numbers of an earlier ``state_dict``."""
