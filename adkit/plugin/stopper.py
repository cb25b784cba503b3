"""When has adapting gone far enough? The contract of stoppers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from adkit.plugin.adapter import Adapter
from adkit.plugin.types import Batch, Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """How far adapting has come when a stopper is asked."""

    minibatches: int
    epochs: float
    loss: float | None
    """Mean since the stopper was last asked; None before the first step."""


@dataclass(frozen=True)
class Verdict:
    """A stopper's answer; ``reason`` is a sentence that the report shows."""

    keep: bool
    """Whether this state is the best so far; the last one kept is what the run goes on with."""
    stop: bool
    reason: str
    value: float | None = None


class Stopper(Protocol):
    """When has adapting gone far enough?

    Asked before the first step, after every epoch, and after the last step. Where it kept no state, the last counts.
    """

    def check(
        self,
        progress: Progress,
        extractor: Callable[[Tensor], Features],
        adapter: Adapter,
        held_out: Iterable[Batch],
        generator: torch.Generator,
    ) -> Verdict:
        """Judge the current state.

        Args:
            extractor: images → features as ``adapter.score`` takes them, without gradients.
            held_out: normal images kept for stopping alone, which can be walked more than once; test images never
                come here. Empty unless the stopper asks for some (``HoldingStopper``).
            generator: of this check alone.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """What it remembers between checks, so that a killed run can be resumed."""
        ...

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...


@runtime_checkable
class HoldingStopper(Protocol):
    """What a stopper may offer beside, where it judges by images that are not trained on."""

    @property
    def validation(self) -> float:
        """Share of the normal training images, in [0, 1), to hold out for it."""
        ...
