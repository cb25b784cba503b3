"""The contract of plugins: all that their authors import, except the building blocks in ``adkit.toolkit``.

Importing this package does not import torch; ``Extractor``, which is a torch module, does when it is first used.
"""

from typing import TYPE_CHECKING, Any

from adkit.errors import NotFittedError, UserError
from adkit.plugin.adapter import Adapter, Group, Schedule, See, Stage, Step
from adkit.plugin.component import Component
from adkit.plugin.context import Context
from adkit.plugin.hooks import hookimpl
from adkit.plugin.localizer import Localizer
from adkit.plugin.params import Params
from adkit.plugin.scorer import Scorer
from adkit.plugin.stopper import Look, Progress, Stopper, Verdict
from adkit.plugin.types import POOL, Batch, Features, Fuse, Geometry, ImageStream, Level, Scores, Stream
from adkit.utils.text import counted, did_you_mean

if TYPE_CHECKING:
    from adkit.plugin.extractor import Extractor

__all__ = [
    "POOL",
    "Adapter",
    "Batch",
    "Component",
    "Context",
    "Extractor",
    "Features",
    "Fuse",
    "Geometry",
    "Group",
    "ImageStream",
    "Level",
    "Localizer",
    "Look",
    "NotFittedError",
    "Params",
    "Progress",
    "Schedule",
    "Scorer",
    "Scores",
    "See",
    "Stage",
    "Step",
    "Stopper",
    "Stream",
    "UserError",
    "Verdict",
    "counted",
    "did_you_mean",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name == "Extractor":
        from adkit.plugin.extractor import Extractor

        return Extractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
