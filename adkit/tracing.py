"""What became of the distances along a training: its snapshots, measured when all is decided.

Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from adkit.blame import blaming
from adkit.checkpoints import Course, put_back, read_snapshot, trained_parameters
from adkit.contracts import Batch
from adkit.data.loader import Loader
from adkit.data.samples import Sample
from adkit.frozen import Cut, FrozenStore, NoRoomError
from adkit.metrics import image_metrics
from adkit.report import SnapshotReport, TrainingReport
from adkit.training import Lesson

T = TypeVar("T")

TRACED: Final = 256
"""Pictures of each group that are measured, evenly spread over it."""

TRAIN, NORMAL, ANOMALOUS = "train", "test_normal", "test_anomalous"
"""Groups of pictures with a meaning of their own; others are held-out normal ones."""

MATERIAL: Final = 0.9
"""Share of its first value below which the anomalous pictures' distance counts as fallen."""

ROUNDING: Final = 1e-9
"""Share of the largest distance below which that of training pictures is rounding, as with a single one."""

COLLAPSED: Final = 1e-4
"""Share of its first value below which the distance of training pictures counts as gone."""


@dataclass(frozen=True)
class Trail:
    """A training that is over, and the snapshots that it left on disk."""

    lesson: Lesson
    cut: Cut | None
    course: Course
    folder: Path
    samples: Sequence[Sample]
    """Which were trained on."""
    held_out: Sequence[Sample] = ()
    """Normal ones that were not."""

    @property
    def members(self) -> Sequence[int]:
        """Snapshots after ψ₀ and up to the state that the run goes on with."""
        last = self.course.kept.minibatches
        return [minibatches for minibatches in self.course.snapshots if 0 < minibatches <= last]

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

    def trace(
        self, groups: Mapping[str, Sequence[Sample]], load: Callable[[Sequence[Sample]], Loader]
    ) -> list[SnapshotReport]:
        """The mean of the adapter's score in each group at each snapshot; for ``panda`` that is its distance.

        Args:
            groups: name → its pictures, up to 256 of which are measured.
            load: pictures → their batches.
        """
        loaders = {name: load(spread_over(samples)) for name, samples in groups.items()}
        inputs: dict[str, Callable[[], Iterable[Batch]]] = {name: loader.__iter__ for name, loader in loaders.items()}
        if self.cut is not None:
            try:
                inputs = {name: self._frozen(name, loader, self.cut) for name, loader in loaders.items()}
            except NoRoomError:
                return replace(self, cut=None).trace(groups, load)
        found = []
        for minibatches in self.states(self.course.snapshots):
            scores = {name: [self._scores(batch.images) for batch in batches()] for name, batches in inputs.items()}
            joined = {name: torch.cat(parts) for name, parts in scores.items() if parts}
            found.append(self._report(minibatches, joined))
        return found

    def _frozen(self, name: str, loader: Loader, cut: Cut) -> Callable[[], Iterable[Batch]]:
        """What the trunk gives for the pictures of a group, computed once for all snapshots."""
        path = self.folder / f"trace-{name}.float32"
        store = FrozenStore(path, loader, len(loader.samples), cut, lambda done: None)
        return lambda: store.load(range(len(store)), loader.batch_size)

    def _scores(self, images: Tensor) -> Tensor:
        """(n,) in float64, on the CPU."""
        with torch.no_grad(), blaming(self.lesson.who_adapts):
            whole = self.cut is None
            features = self.lesson.embedding(images) if whole else self.lesson.features(images)
            return self.lesson.adapter.score(features).cpu().double()

    def _report(self, minibatches: int, scores: Mapping[str, Tensor]) -> SnapshotReport:
        distances = {name: float(values.mean()) for name, values in scores.items()}
        auroc = None
        if NORMAL in scores and ANOMALOUS in scores:
            normal, anomalous = scores[NORMAL], scores[ANOMALOUS]
            labels = torch.cat([torch.zeros(len(normal)), torch.ones(len(anomalous))])
            auroc = image_metrics(torch.cat([normal, anomalous]).numpy(), labels.numpy())["image_auroc"]
        spread = distances.get(TRAIN, 0.0)
        measured = spread > ROUNDING * max(map(abs, distances.values()), default=0.0)
        return SnapshotReport(
            minibatches=minibatches,
            epochs=minibatches / self.lesson.pictures.epoch_length,
            distances=distances,
            normalized={name: value / spread for name, value in distances.items()} if measured else {},
            image_auroc=auroc,
        )


def spread_over(samples: Sequence[T], count: int = TRACED) -> list[T]:
    """So many of ``samples``, from all over them."""
    if len(samples) <= count:
        return list(samples)
    return [samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count)]


def collapse(training: TrainingReport) -> str | None:
    """A sentence where the state that the run goes on with lost what tells anomalous pictures from normal ones."""
    snapshots = [one for one in training.snapshots if one.minibatches <= training.kept_minibatches]
    if len(snapshots) < 2 or any(distance < 0 for one in snapshots for distance in one.distances.values()):
        return None  # a score that can be below 0 is no distance
    first, last = snapshots[0], snapshots[-1]
    spread = first.distances.get(TRAIN, 0.0)
    if spread > 0 and last.distances[TRAIN] <= COLLAPSED * spread:
        return (
            "the features collapsed: after training, the mean distance of training pictures is "
            f"{last.distances[TRAIN]:.3g}, before it was {spread:.3g}. Train for less, or use ewc"
        )
    ratios = {one.minibatches: one.normalized.get(ANOMALOUS) for one in snapshots}
    before, after = ratios[first.minibatches], ratios[last.minibatches]
    if before is None or after is None or after >= MATERIAL * before:
        return None
    best = max(snapshots, key=lambda one: one.normalized.get(ANOMALOUS, 0.0))
    return (
        f"the features collapse: beside that of training pictures, the mean distance of anomalous test pictures was "
        f"{before:.3g} before training, {best.normalized[ANOMALOUS]:.3g} after {best.minibatches} minibatches and is "
        f"{after:.3g} now. Train for less, or use ewc or a stopper"
    )
