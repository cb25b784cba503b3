"""What became of the distances along a training: its snapshots, measured when all is decided.

Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from adkit.data.samples import Sample
from adkit.inference.sources import Source
from adkit.metrics import image_metrics
from adkit.plugin.guard import blaming
from adkit.plugin.types import Batch, Features
from adkit.report.report import SnapshotReport, TrainingReport
from adkit.training.checkpoints import TrainingState, put_back, read_snapshot, trained_parameters
from adkit.training.frozen import Frozen, NoRoomError
from adkit.training.trainer import TrainingTask
from adkit.utils.progress import Advance

T = TypeVar("T")

TRACED: Final = 256
"""Minibatches of each group that are measured, evenly spread over it."""

TRAIN, NORMAL, ANOMALOUS = "train", "test_normal", "test_anomalous"
"""Groups of images with a meaning of their own; others are held-out normal ones."""

MATERIAL: Final = 0.9
"""Share of its first value below which the anomalous images' distance counts as fallen."""

ROUNDING: Final = 1e-9
"""Share of the largest distance below which that of training images is rounding, as with a single one."""

COLLAPSED: Final = 1e-4
"""Share of its first value below which the distance of training images counts as gone."""


@dataclass(frozen=True)
class Snapshots:
    """A training that is over, and the snapshots that it left on disk."""

    task: TrainingTask
    frozen: Frozen | None
    state: TrainingState
    folder: Path
    samples: Sequence[Sample]
    """Which were trained on."""
    source: Source
    """Of their features, and of those of all others."""
    held_out: Sequence[Sample] = ()
    """Normal ones that were not."""

    @property
    def members(self) -> Sequence[int]:
        """Snapshots after ψ₀ and up to the state that the run goes on with."""
        last = self.state.kept.minibatches
        return [minibatches for minibatches in self.state.snapshots if 0 < minibatches <= last]

    def states(self, snapshots: Iterable[int]) -> Iterator[int]:
        """Put the extractor into the state of each snapshot, and at the end back into its own."""
        trained = trained_parameters(self.task.extractor, self.task.stages)
        own = {name: parameter.detach().clone() for name, parameter in trained.items()}
        try:
            for minibatches in snapshots:
                put_back(self.task.extractor, read_snapshot(self.folder, minibatches))
                yield minibatches
        finally:
            put_back(self.task.extractor, own)

    def trace(self, groups: Mapping[str, Sequence[Sample]], advance: Advance) -> list[SnapshotReport]:
        """The mean of the adapter's score in each group at each snapshot; for ``panda`` that is its distance.

        Args:
            groups: name → its images, up to 256 of which are measured.
            advance: told of every image that the frozen blocks run for.
        """
        read = {name: self._images(name, spread_over(samples), advance) for name, samples in groups.items()}
        found = []
        for minibatches in self.states(self.state.snapshots):
            scores = {name: list(self._scores(batches(), features)) for name, (batches, features) in read.items()}
            joined = {name: torch.cat(parts) for name, parts in scores.items() if parts}
            found.append(self._report(minibatches, joined))
        return found

    def _images(
        self, name: str, samples: Sequence[Sample], advance: Advance
    ) -> tuple[Callable[[], Iterable[Batch]], Callable[[Tensor], Features]]:
        """Batches of a group, and the way from their images to features: where it can, what the frozen blocks made."""
        embedding = self.task.embedding
        samples = [sample for sample in samples if sample.id not in self.source.bad]
        if self.frozen is not None:
            try:
                rows = self.frozen.rows(f"trace-{name}", samples, advance)
            except NoRoomError:
                pass  # the whole network then runs at every snapshot
            else:
                load = partial(rows.load, range(len(rows)), self.task.schedule.batch_size)
                return load, self.task.features
        return self.source.decoding((embedding,)).stream(samples, advance, targets=False).batches, embedding

    def _scores(self, batches: Iterable[Batch], features: Callable[[Tensor], Features]) -> Iterator[Tensor]:
        """(n,) in float64, on the CPU, for each batch."""
        for batch in batches:
            with torch.no_grad(), blaming(self.task.who_adapts):
                yield self.task.adapter.score(features(batch.images)).cpu().double()

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
            epochs=minibatches / self.task.normal.epoch_length,
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
    """A sentence where the state that the run goes on with lost what tells anomalous images from normal ones."""
    snapshots = [one for one in training.snapshots if one.minibatches <= training.kept_minibatches]
    if len(snapshots) < 2 or any(distance < 0 for one in snapshots for distance in one.distances.values()):
        return None  # a score that can be below 0 is no distance
    first, last = snapshots[0], snapshots[-1]
    spread = first.distances.get(TRAIN, 0.0)
    if spread > 0 and last.distances[TRAIN] <= COLLAPSED * spread:
        return (
            "the features collapsed: after training, the mean distance of training images is "
            f"{last.distances[TRAIN]:.3g}, before it was {spread:.3g}. Train for less, or use ewc"
        )
    ratios = {one.minibatches: one.normalized.get(ANOMALOUS) for one in snapshots}
    before, after = ratios[first.minibatches], ratios[last.minibatches]
    if before is None or after is None or after >= MATERIAL * before:
        return None
    best = max(snapshots, key=lambda one: one.normalized.get(ANOMALOUS, 0.0))
    return (
        f"the features collapse: beside that of training images, the mean distance of anomalous test images was "
        f"{before:.3g} before training, {best.normalized[ANOMALOUS]:.3g} after {best.minibatches} minibatches and is "
        f"{after:.3g} now. Train for less, or use ewc or a stopper"
    )
