"""How long a stage of training lasts, and the optimizer that takes its steps."""

from __future__ import annotations

import torch
from torch import nn

from adkit.plugin.adapter import Schedule, Stage


def length_of(schedule: Schedule, stage: Stage, epoch_length: int) -> int:
    """Minibatches of a stage."""
    if stage.minibatches is not None:
        return stage.minibatches
    if schedule.minibatches is not None:
        return schedule.minibatches
    if schedule.epochs is None:
        raise ValueError("schedule: expected minibatches or epochs, found neither")
    return max(1, round(schedule.epochs * epoch_length))


def interval_of(epochs: float, epoch_length: int) -> int:
    """Minibatches from one snapshot to the next."""
    return max(1, round(epochs * epoch_length))


def optimizer_of(schedule: Schedule, stage: Stage) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    groups = [
        {"params": list(group.parameters), "lr": rate if group.learning_rate is None else group.learning_rate}
        for group in stage.groups
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=schedule.momentum, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, betas=(schedule.momentum, 0.999), weight_decay=decay)


def acting_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, share: float) -> dict[nn.Parameter, float]:
    """Parameter → the rate at which a gradient acts on it, clipping and the momentum of sgd included.

    Args:
        share: what clipping left of this step's gradient.
    """
    gain = share / (1 - schedule.momentum) if schedule.optimizer == "sgd" else 1.0
    return {parameter: gain * float(group["lr"]) for group in optimizer.param_groups for parameter in group["params"]}
