"""What a training leaves on disk to go on from, beside weights and optimizer."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from adkit.report import LookReport

logger = logging.getLogger("adkit")

CHECKPOINT: Final = "training"
"""What the names of checkpoints begin with."""


@dataclass
class Course:
    """How a training went so far: what a checkpoint has to know beside weights and optimizer."""

    looks: list[LookReport] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The trained tensors of the state that was kept last; empty where none was."""
    stage: int = 0
    done: int = 0
    """Minibatches of the stages before."""
    ended: str = ""
    """Why it ended; empty while it goes on."""
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    """Of the loss and its terms since the last look."""
    count: int = 0

    @property
    def kept(self) -> LookReport:
        """The look at the state that the run goes on with."""
        return next((look for look in reversed(self.looks) if look.kept), self.looks[-1])

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "looks": [look.model_dump() for look in self.looks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.looks = [LookReport(**look) for look in state["looks"]]


def latest(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint in ``folder``; what a killed process left half-written has another name."""
    found = sorted(folder.glob(f"{CHECKPOINT}_checkpoint_*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    for path in reversed(found):
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            logger.warning(
                "%s: a checkpoint that cannot be read (%s), as a power cut leaves it; passed over", path, error
            )
            continue
        return saved
    return None
