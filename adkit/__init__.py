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
        Adapter,
        Batch,
        BatchingAdapter,
        Component,
        Exportable,
        ExtendingAdapter,
        Extractor,
        Features,
        FoldableExtractor,
        Geometry,
        HoldingStopper,
        Level,
        Localizer,
        PictureStream,
        Progress,
        Schedule,
        ScheduledAdapter,
        ScoredAdapter,
        Scorer,
        Scores,
        SizedScorer,
        Stage,
        Stopper,
        Stream,
        Verdict,
    )
    from adkit.detector import Detector, Predictions
    from adkit.errors import NotFittedError, UserError
    from adkit.hooks import hookimpl
    from adkit.params import Params
    from adkit.report import Report
    from adkit.runner import run

__version__ = "0.1.0"

_HOMES = {
    "adkit.context": ("Context",),
    "adkit.contracts": (
        "POOL",
        "AdaptableExtractor",
        "Adapter",
        "Batch",
        "BatchingAdapter",
        "Component",
        "Exportable",
        "ExtendingAdapter",
        "Extractor",
        "Features",
        "FoldableExtractor",
        "Geometry",
        "HoldingStopper",
        "Level",
        "Localizer",
        "PictureStream",
        "Progress",
        "Schedule",
        "ScheduledAdapter",
        "ScoredAdapter",
        "Scorer",
        "Scores",
        "SizedScorer",
        "Stage",
        "Stopper",
        "Stream",
        "Verdict",
    ),
    "adkit.detector": ("Detector", "Predictions"),
    "adkit.errors": ("NotFittedError", "UserError"),
    "adkit.hooks": ("hookimpl",),
    "adkit.params": ("Params",),
    "adkit.report": ("Report",),
    "adkit.runner": ("run",),
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
    "FoldableExtractor",
    "Geometry",
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
    "Stage",
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
