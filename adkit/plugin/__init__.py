"""The contract of plugins: all that their authors import, except the building blocks in ``adkit.toolkit``.

Importing this package does not import torch.
"""

from adkit.errors import NotFittedError, UserError
from adkit.plugin.adapter import (
    Adapter,
    BatchingAdapter,
    ExtendingAdapter,
    FeaturesAdapter,
    Group,
    Schedule,
    ScheduledAdapter,
    ScoredAdapter,
    SnapshotAdapter,
    Stage,
    SteppingAdapter,
)
from adkit.plugin.component import Component, Exportable
from adkit.plugin.context import Context
from adkit.plugin.extractor import AdaptableExtractor, Extractor, FoldableExtractor, SplittableExtractor
from adkit.plugin.hooks import hookimpl
from adkit.plugin.localizer import Localizer
from adkit.plugin.params import Params
from adkit.plugin.scorer import Scorer, SizedScorer
from adkit.plugin.stopper import HoldingStopper, Progress, Stopper, Verdict
from adkit.plugin.types import POOL, Batch, Features, Fuse, Geometry, ImageStream, Level, Scores, Stream
from adkit.utils.text import counted, did_you_mean

__all__ = [
    "POOL",
    "AdaptableExtractor",
    "Adapter",
    "Batch",
    "BatchingAdapter",
    "Component",
    "Context",
    "Exportable",
    "ExtendingAdapter",
    "Extractor",
    "Features",
    "FeaturesAdapter",
    "FoldableExtractor",
    "Fuse",
    "Geometry",
    "Group",
    "HoldingStopper",
    "ImageStream",
    "Level",
    "Localizer",
    "NotFittedError",
    "Params",
    "Progress",
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
    "counted",
    "did_you_mean",
    "hookimpl",
]
