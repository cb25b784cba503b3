"""adkit: image anomaly detection from one short recipe.

Importing this package imports no torch; each public name is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adkit.context import Context
    from adkit.contracts import (
        POOL,
        AdaptableExtractor,
        Batch,
        Component,
        Exportable,
        Extractor,
        Features,
        FoldableExtractor,
        Geometry,
        Level,
        Localizer,
        PictureStream,
        Scorer,
        Scores,
        SizedScorer,
        SplittableExtractor,
        Stream,
    )
    from adkit.detector import Detector, Predictions
    from adkit.errors import NotFittedError, UserError
    from adkit.hooks import hookimpl
    from adkit.params import Params
    from adkit.report import Report
    from adkit.runner import run
    from adkit.training_contracts import (
        Adapter,
        BatchingAdapter,
        ExtendingAdapter,
        FeaturesAdapter,
        Group,
        HoldingStopper,
        Progress,
        Schedule,
        ScheduledAdapter,
        ScoredAdapter,
        SnapshotAdapter,
        Stage,
        SteppingAdapter,
        Stopper,
        Verdict,
    )

__version__ = "0.1.0"

_HOMES = {
    "adkit.context": ("Context",),
    "adkit.contracts": (
        "POOL",
        "AdaptableExtractor",
        "Batch",
        "Component",
        "Exportable",
        "Extractor",
        "Features",
        "FoldableExtractor",
        "Geometry",
        "Level",
        "Localizer",
        "PictureStream",
        "Scorer",
        "Scores",
        "SizedScorer",
        "SplittableExtractor",
        "Stream",
    ),
    "adkit.detector": ("Detector", "Predictions"),
    "adkit.errors": ("NotFittedError", "UserError"),
    "adkit.hooks": ("hookimpl",),
    "adkit.params": ("Params",),
    "adkit.report": ("Report",),
    "adkit.runner": ("run",),
    "adkit.training_contracts": (
        "Adapter",
        "BatchingAdapter",
        "ExtendingAdapter",
        "FeaturesAdapter",
        "Group",
        "HoldingStopper",
        "Progress",
        "Schedule",
        "ScheduledAdapter",
        "ScoredAdapter",
        "SnapshotAdapter",
        "Stage",
        "SteppingAdapter",
        "Stopper",
        "Verdict",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "POOL",
    "AdaptableExtractor",
    "Adapter",
    "Batch",
    "BatchingAdapter",
    "Component",
    "Context",
    "Detector",
    "Exportable",
    "ExtendingAdapter",
    "Extractor",
    "Features",
    "FeaturesAdapter",
    "FoldableExtractor",
    "Geometry",
    "Group",
    "HoldingStopper",
    "Level",
    "Localizer",
    "NotFittedError",
    "Params",
    "PictureStream",
    "Predictions",
    "Progress",
    "Report",
    "Schedule",
    "ScheduledAdapter",
    "ScoredAdapter",
    "Scorer",
    "Scores",
    "SizedScorer",
    "SnapshotAdapter",
    "SplittableExtractor",
    "Stage",
    "SteppingAdapter",
    "Stopper",
    "Stream",
    "UserError",
    "Verdict",
    "__version__",
    "hookimpl",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
