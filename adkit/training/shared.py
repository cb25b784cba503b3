"""Stages that do not depend on the normal images: trained once, and taken from the cache by whoever needs them next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from adkit.plugin.adapter import Schedule, Stage
from adkit.plugin.context import Context
from adkit.plugin.types import Batch
from adkit.report.report import CheckReport
from adkit.toolkit.cache import add_tensor

KIND: Final = "stages"
"""What such outcomes are called in the cache."""
CHECKS: Final = "checks"
"""Name of the tensor that holds the checks of a stage, as JSON; no parameter is called so, for modules have names."""

_LIST: Final = TypeAdapter(list[CheckReport])


STEPS: Final = (
    "optimizer",
    "momentum",
    "weight_decay",
    "clip_norm",
    "relative_steps",
    "rate_decay",
    "warmup",
    "ema_decay",
)
"""What of a schedule every stage depends on; a stage may have its own length, batch size and rates."""


def key_of(
    about: str,
    schedule: Schedule,
    stage: Stage,
    length: int,
    extractor: nn.Module,
    context: Context,
    images: Iterable[Batch],
    losses: Mapping[str, Tensor],
) -> str:
    """The digest of all that the outcome of a stage depends on.

    Args:
        about: names the adapter, its version, its parameters, and the place of the stage.
        length: minibatches of the stage.
        extractor: as it is when the stage begins.
        images: those of the stage.
        losses: of the first minibatch, before anything is trained: they tell what no parameter does, such as what is
            in a file of weights that a parameter names.
    """
    names = {id(parameter): name for name, parameter in extractor.named_parameters()}
    rates = [schedule.learning_rate if one.learning_rate is None else one.learning_rate for one in stage.groups]
    groups = [[names[id(one)] for one in group.parameters] for group in stage.groups]
    steps = [getattr(schedule, name) for name in STEPS]
    told = [about, steps, length, stage.batch_size or schedule.batch_size, rates, groups, asdict(context)]
    digest = hashlib.sha256(json.dumps([*told, torch.__version__]).encode())
    for name, tensor in {**extractor.state_dict(), **losses}.items():
        add_tensor(digest, name, tensor)
    for batch in images:
        add_tensor(digest, repr(batch.kinds), batch.images)
    return digest.hexdigest()


def packed(parameters: Mapping[str, Tensor], checks: Sequence[CheckReport]) -> dict[str, Tensor]:
    """The outcome of a stage as tensors: the parameters that it trained, by name, and its checks."""
    written = bytearray(_LIST.dump_json(list(checks)))
    return {**parameters, CHECKS: torch.frombuffer(written, dtype=torch.uint8)}


def unpacked(found: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[CheckReport]]:
    """What ``packed`` was given."""
    checks: Any = _LIST.validate_json(found[CHECKS].numpy().tobytes())
    return {name: tensor for name, tensor in found.items() if name != CHECKS}, checks
