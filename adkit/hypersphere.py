"""The hypersphere classifier: normal pictures are drawn to 0, anomalies driven away from it.

Source: Ruff et al., Rethinking Assumptions in Deep Anomaly Detection (2020); with the pseudo-Huber norm, Liznerski et
al., Explainable Deep One-Class Classification (ICLR 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_ZERO = 1e-6
"""Added to h before its logarithm is taken, so that an anomaly at h = 0 costs 13.8 and not infinity."""


def pseudo_huber(squares: Tensor) -> Tensor:
    """h = sqrt(‖z‖² + 1) − 1 of ``squares`` ‖z‖², without the cancellation that would make it 0 below 1e-7."""
    return squares / ((squares + 1).sqrt() + 1)


def repelled(h: Tensor) -> Tensor:
    """−log(1 − exp(−h)) for h ≥ 0: what an anomaly costs, finite everywhere and exact for large h."""
    h = h + NEAR_ZERO
    return -torch.where(h < 0.7, torch.log(-torch.expm1(-h)), torch.log1p(-torch.exp(-h)))
