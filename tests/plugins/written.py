"""Features that are written out, and streams of them."""

from __future__ import annotations

from typing import Any

import torch

from adkit.plugin import POOL, Features, Geometry
from adkit.testing import FeatureStream

GEOMETRY = Geometry((0.5, 0.5), (1.0, 1.0))


def features_of(**levels: Any) -> Features:
    """Level → its features (n, h, w, c)."""
    return Features({name: torch.tensor(values) for name, values in levels.items()}, dict.fromkeys(levels, GEOMETRY))


def stream(values: Any, name: str = POOL) -> FeatureStream:
    """A stream of one level's features (n, h, w, c), image by image."""
    return FeatureStream(features_of(**{name: values}), batch_size=1)
