"""What a training leaves on disk: its progress, to resume it from, and snapshots of its extractor."""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from ignite.handlers import DiskSaver
from safetensors import SafetensorError
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.adapter import Stage
from adkit.report.report import CheckReport
from adkit.utils.atomic import whole_file
from adkit.utils.tensors import load_tensors, save_tensors
from adkit.utils.text import counted

logger = logging.getLogger("adkit")

CHECKPOINT: Final = "training"
"""Beginning of the names of checkpoint files."""


@dataclass
class TrainingState:
    """The progress of a training: what a checkpoint holds besides weights and optimizer."""

    checks: list[CheckReport] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The trained tensors of the state that was kept last; empty where none was."""
    stage: int = 0
    """Number of the stage that is being trained, from 0."""
    done: int = 0
    """Number of minibatches of the previous stages."""
    key: str = ""
    """Key in the cache of the last stage whose outcome is shared; empty where there was none."""
    begun: int = 0
    """Number of checks before that stage."""
    ended: str = ""
    """Why the training ended early; empty while it goes on, and where it reached its length."""
    seconds: float = 0.0
    snapshots: list[int] = field(default_factory=list)
    """Numbers of minibatches after which there are snapshots on disk; 0 stands for ψ₀."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the loss (named "") and of its terms over the minibatches since the last check."""
    count: int = 0
    """Number of minibatches since the last check."""

    @property
    def kept(self) -> CheckReport:
        """The check of the state that the run goes on with."""
        return next((check for check in reversed(self.checks) if check.kept), self.checks[-1])

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "checks": [check.model_dump() for check in self.checks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.checks = [CheckReport(**check) for check in state["checks"]]


class CheckpointFolder(DiskSaver):
    """Ignite's folder of checkpoints, which tells of a full disk as the system does.

    A checkpoint is made in memory, for torch finds only at the end of writing one that much of it is missing, and then
    says something about positions.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, require_empty=False)
        self._folder = folder

    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        data = io.BytesIO()
        torch.save(checkpoint, data)
        with whole_file(self._folder / filename) as draft:
            draft.write_bytes(data.getbuffer())


def trained_parameters(extractor: nn.Module, stages: Sequence[Stage]) -> dict[str, nn.Parameter]:
    """Find the parameters, by name, that any stage trains.

    Raises:
        ValueError: a stage trains a parameter that is not one of the extractor.
    """
    wanted = {id(parameter) for stage in stages for parameter in stage.parameters}
    found = {name: parameter for name, parameter in extractor.named_parameters() if id(parameter) in wanted}
    if len(found) < len(wanted):
        raise ValueError(
            f"stages: expected parameters of the extractor alone, found {counted(len(wanted) - len(found), 'other')}, "
            "which would be lost: an adapter that trains a head extends the extractor by it"
        )
    return found


def write_snapshot(folder: Path, minibatches: int, trained: Mapping[str, Tensor]) -> None:
    """Write the trained tensors of a state to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    save_tensors(tensors, _snapshot(folder, minibatches))


def read_snapshot(folder: Path, minibatches: int) -> dict[str, Tensor]:
    """Read the trained tensors of the state after so many minibatches.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = _snapshot(folder, minibatches)
    try:
        return load_tensors(path)
    except (OSError, SafetensorError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no file"
        raise UserError(
            f"{path}: expected a snapshot that the training wrote, found: {found}; start over with --fresh"
        ) from error


def put_back(extractor: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the parameters of ``extractor`` that ``state`` names to the values there."""
    parameters = dict(extractor.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor)


def _snapshot(folder: Path, minibatches: int) -> Path:
    return folder / f"snapshot-{minibatches:09}.safetensors"


def has_checkpoint(folder: Path) -> bool:
    """Whether a training has left a checkpoint in ``folder``."""
    return any(_checkpoints(folder))


def latest(folder: Path) -> dict[str, Any] | None:
    """Read the last checkpoint in ``folder``; what a killed process left half-written has another name."""
    found = sorted(_checkpoints(folder), key=lambda path: int(path.stem.rpartition("_")[2]))
    for path in reversed(found):
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            logger.warning("%s: a checkpoint that cannot be read (%s), as a power cut leaves it; skipped", path, error)
            continue
        return saved
    return None


def _checkpoints(folder: Path) -> Iterator[Path]:
    return folder.glob(f"{CHECKPOINT}_checkpoint_*.pt")
