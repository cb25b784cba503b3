"""What became of the distances along a training: its snapshots, measured when all is decided.

Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from adkit.blame import blaming
from adkit.checkpoints import Course, put_back, read_snapshot, trained_parameters
from adkit.contracts import Batch
from adkit.frozen import Cut
from adkit.metrics import image_metrics
from adkit.report import SnapshotReport
from adkit.training import Lesson

T = TypeVar("T")

TRACED: Final = 256
"""Pictures of each group that are measured, evenly spread over it."""

TRAIN, NORMAL, ANOMALOUS = "train", "test_normal", "test_anomalous"
"""Groups of pictures with a meaning of their own; others are held-out normal ones."""

COLLAPSED: Final = 1e-4
"""Share of its first value below which the distance of training pictures counts as gone."""


@dataclass(frozen=True)
class Trail:
    """A training that is over, and the snapshots that it left on disk."""

    lesson: Lesson
    cut: Cut | None
    course: Course
    folder: Path

    @property
    def members(self) -> Sequence[int]:
        """Snapshots after ψ₀ and up to the state that the run goes on with."""
        course = self.course
        last = course.kept.minibatches if course.best else course.looks[-1].minibatches
        return [minibatches for minibatches in course.snapshots if 0 < minibatches <= last]

    def states(self, snapshots: Iterable[int]) -> Iterator[int]:
        """Put the extractor into the state of each snapshot, and at the end back into its own."""
        trained = trained_parameters(self.lesson.extractor, self.lesson.stages)
        own = {name: parameter.detach().clone() for name, parameter in trained.items()}
        try:
            for minibatches in snapshots:
                put_back(self.lesson.extractor, read_snapshot(self.folder, minibatches))
                yield minibatches
        finally:
            put_back(self.lesson.extractor, own)

    def trace(self, groups: Mapping[str, Iterable[Batch]]) -> list[SnapshotReport]:
        """The mean of the adapter's score in each group at each snapshot; for ``panda`` that is its distance.

        Args:
            groups: name → its pictures, a batch of which is held at a time.
        """
        scores: list[dict[str, list[Tensor]]] = [{} for _ in self.course.snapshots]
        for name, batches in groups.items():
            for batch in batches:
                images = batch.images if self.cut is None else self.cut.frozen(batch.images)
                for found, _ in zip(scores, self.states(self.course.snapshots), strict=True):
                    found.setdefault(name, []).append(self._scores(images))
        joined = [{name: torch.cat(parts) for name, parts in found.items()} for found in scores]
        return [self._report(at, found) for at, found in zip(self.course.snapshots, joined, strict=True)]

    def _scores(self, images: Tensor) -> Tensor:
        """(n,) in float64, on the CPU."""
        with torch.no_grad(), blaming(self.lesson.who_adapts):
            features = self.lesson.embedding(images) if self.cut is None else self.lesson.features(images)
            return self.lesson.adapter.score(features).cpu().double()

    def _report(self, minibatches: int, scores: Mapping[str, Tensor]) -> SnapshotReport:
        distances = {name: float(values.mean()) for name, values in scores.items()}
        auroc = None
        if NORMAL in scores and ANOMALOUS in scores:
            normal, anomalous = scores[NORMAL], scores[ANOMALOUS]
            labels = torch.cat([torch.zeros(len(normal)), torch.ones(len(anomalous))])
            auroc = image_metrics(torch.cat([normal, anomalous]).numpy(), labels.numpy())["image_auroc"]
        spread = distances.get(TRAIN, 0.0)
        return SnapshotReport(
            minibatches=minibatches,
            epochs=minibatches / self.lesson.pictures.epoch_length,
            distances=distances,
            normalized={name: value / spread for name, value in distances.items()} if spread > 0 else {},
            image_auroc=auroc,
        )


def spread_over(samples: Sequence[T], count: int = TRACED) -> list[T]:
    """So many of ``samples``, from all over them."""
    if len(samples) <= count:
        return list(samples)
    return [samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count)]


def collapse(snapshots: Sequence[SnapshotReport]) -> str | None:
    """A sentence where the features lost on the way what tells anomalous pictures from normal ones."""
    if len(snapshots) < 2:
        return None
    first, last = snapshots[0], snapshots[-1]
    if last.distances.get(TRAIN, 0.0) <= COLLAPSED * first.distances.get(TRAIN, 0.0):
        return (
            "the features collapsed: after training, the mean distance of training pictures is "
            f"{last.distances[TRAIN]:.3g}, before it was {first.distances[TRAIN]:.3g}. Train for less, or use ewc"
        )
    before, after = (one.normalized.get(ANOMALOUS) for one in (first, last))
    if before is None or after is None or after >= before:
        return None
    best = max(snapshots, key=lambda one: one.normalized.get(ANOMALOUS, 0.0))
    return (
        f"the features collapse: beside that of training pictures, the mean distance of anomalous test pictures was "
        f"{before:.3g} before training, {best.normalized[ANOMALOUS]:.3g} after {best.minibatches} minibatches and is "
        f"{after:.3g} now. Train for less, or use ewc or a stopper"
    )
