"""adkit: image anomaly detection from one short recipe.

These names are for whoever runs recipes and uses detectors; authors of plugins import from ``adkit.plugin``.
Importing this package imports no torch: each name is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adkit.detector.detector import Detector, Predictions
    from adkit.errors import UserError
    from adkit.report.compare.comparison import compare
    from adkit.report.report import Report
    from adkit.runner.run import run

__version__ = "0.1.0"

__all__ = ["Detector", "Predictions", "Report", "UserError", "__version__", "compare", "run"]

_HOME = {
    "Detector": "adkit.detector.detector",
    "Predictions": "adkit.detector.detector",
    "Report": "adkit.report.report",
    "UserError": "adkit.errors",
    "compare": "adkit.report.compare.comparison",
    "run": "adkit.runner.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
