"""How distances change along a training: its snapshots, measured after the run has decided everything.

Source: Reiss et al., PANDA (CVPR 2021), section 3.2 and figure 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from adkit.data.samples import Sample, spread_over
from adkit.inference.sources import Source
from adkit.metrics import image_metrics
from adkit.plugin.types import Batch, Features
from adkit.report.report import SnapshotReport, TrainingReport
from adkit.training.checkpoints import TrainingState, put_back, read_snapshot, trained_parameters
from adkit.training.frozen import Frozen, NoRoomError
from adkit.training.plan import interval_of
from adkit.training.trainer import TrainingTask
from adkit.utils.progress import Advance
from adkit.utils.text import counted

TRACED: Final = 256
"""Largest number of images of each group that are measured, evenly spread over it."""

TRAIN, NORMAL, ANOMALOUS = "train", "test_normal", "test_anomalous"
"""Names of the groups of images that have a meaning of their own; other groups are held-out normal images."""

MATERIAL: Final = 0.9
"""Share of its first value below which the mean distance of anomalous images counts as fallen."""

ROUNDING: Final = 1e-9
"""Share of the largest distance below which that of training images is rounding, as for a single image."""

COLLAPSED: Final = 1e-2
"""Share of its first value below which the spread of training images, a mean squared distance, counts as gone."""


@dataclass(frozen=True)
class Snapshots:
    """The snapshots that a training left on disk, with what it takes to measure them."""

    task: TrainingTask
    frozen: Frozen | None
    state: TrainingState
    folder: Path
    samples: Sequence[Sample]
    """Normal images that were trained on."""
    source: Source
    """Source of the features of these and of all other images."""
    held_out: Sequence[Sample] = ()
    """Normal images that were not trained on."""

    @property
    def members(self) -> Sequence[int]:
        """Numbers of minibatches of the snapshots at the interval, up to the state that the run goes on with.

        There is none of ψ₀, and of the last state only where an interval ends there.
        """
        schedule, last = self.task.schedule, self.state.kept.minibatches
        assert schedule.snapshot_epochs is not None  # require_trainable has checked it
        every = interval_of(schedule.snapshot_epochs, self.task.normal.epoch_length)
        return [number for number in self.state.snapshots if 0 < number <= last and number % every == 0]

    def uncollapsed(self, advance: Advance) -> Sequence[int]:
        """Find those of ``members`` in whose features the training images still differ.

        Args:
            advance: called with the number of images that the frozen blocks have just run for.
        """
        batches, features = self._images(TRAIN, spread_over(self.samples, TRACED), advance)
        numbers = (0, *self.members)
        spreads = {number: self._spread(batches(), features) for number in self.states(numbers)}
        first = spreads[0]
        return [
            number
            for number in self.members
            if any(spread >= COLLAPSED * first[name] for name, spread in spreads[number].items())
        ]

    def states(self, snapshots: Iterable[int]) -> Iterator[int]:
        """Put the extractor into the state of each snapshot in turn, and at the end back into its own."""
        trained = trained_parameters(self.task.extractor, self.task.stages)
        own = {name: parameter.detach().clone() for name, parameter in trained.items()}
        try:
            for minibatches in snapshots:
                put_back(self.task.extractor, read_snapshot(self.folder, minibatches))
                yield minibatches
        finally:
            put_back(self.task.extractor, own)

    def trace(self, groups: Mapping[str, Sequence[Sample]], advance: Advance) -> list[SnapshotReport]:
        """Measure the mean of the adapter's score in each group at each snapshot; for ``panda`` that is its distance.

        Args:
            groups: name of a group → its images, up to 256 of which are measured.
            advance: called with the number of images that the frozen blocks have just run for.
        """
        read = {name: self._images(name, spread_over(samples, TRACED), advance) for name, samples in groups.items()}
        found = []
        for minibatches in self.states(self.state.snapshots):
            scores = {name: list(self._scores(batches(), features)) for name, (batches, features) in read.items()}
            joined = {name: torch.cat(parts) for name, parts in scores.items() if parts}
            found.append(self._report(minibatches, joined))
        return found

    def _images(
        self, name: str, samples: Sequence[Sample], advance: Advance
    ) -> tuple[Callable[[], Iterable[Batch]], Callable[[Tensor], Features]]:
        """Make the batches of a group, of rows of the frozen blocks if possible, and the way from them to features."""
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
        return self.source.images.stream(samples, (embedding,), advance, targets=False).batches, embedding

    def _scores(self, batches: Iterable[Batch], features: Callable[[Tensor], Features]) -> Iterator[Tensor]:
        """Yield the adapter's scores (n,) of each batch, in float64 on the CPU."""
        for batch in batches:
            with torch.no_grad():
                yield self.task.adapter.score(features(batch.images)).cpu().double()

    def _spread(self, batches: Iterable[Batch], features: Callable[[Tensor], Features]) -> dict[str, float]:
        """Level → the mean squared distance of the images' features from their own mean, summed over channels."""
        moments: dict[str, list[Tensor]] = {}
        for batch in batches:
            with torch.no_grad():
                for name, level in features(batch.images).items():
                    flat = level.flatten(0, -2).double().cpu()
                    found = torch.stack([torch.ones_like(flat).sum(0), flat.sum(0), flat.square().sum(0)])
                    moments.setdefault(name, []).append(found)
        spreads = {}
        for name, parts in moments.items():
            count, total, squares = torch.stack(parts).sum(0)
            spreads[name] = float((squares / count - (total / count).square()).sum())
        return spreads

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


def collapse(training: TrainingReport) -> str | None:
    """Warn of a state that lost what tells anomalous images from normal ones; None where the run's state did not."""
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
        f"the features collapse: relative to that of training images, the mean distance of anomalous test images was "
        f"{before:.3g} before training, {best.normalized[ANOMALOUS]:.3g} after "
        f"{counted(best.minibatches, 'minibatch', 'minibatches')} and is {after:.3g} now. Train for less, or use ewc "
        "or a stopper"
    )
