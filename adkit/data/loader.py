"""From samples to batches, decoded in threads while the previous batch is being computed on.

Threads, not processes: Pillow releases the interpreter lock while it decodes and resizes, which is nearly
all of the work, so threads keep every core busy. Processes would start slowly, copy every image from one
address space to another, need everything pickled, and leave orphans behind when the parent is killed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch

from adkit.data.formats.base import MaskResize
from adkit.data.images import ImageError, decoding_threads, reading, within_memory
from adkit.data.masks import read_mask, size_problem
from adkit.data.samples import Sample
from adkit.data.view import Pixels, View, to_planes
from adkit.errors import UserError
from adkit.plugin.types import Batch
from adkit.utils.escapes import harmless
from adkit.utils.text import counted, some


class BadImages:
    """The unreadable images of a run, each counted once, however often it was tried."""

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._reasons: dict[str, str] = {}

    def add(self, id: str, reason: str) -> None:
        self._reasons[id] = harmless(reason)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Id of each image → why it cannot be read, in the order in which they were found."""
        return MappingProxyType(self._reasons)

    def __contains__(self, id: str) -> bool:
        return id in self._reasons

    def __len__(self) -> int:
        return len(self._reasons)

    def check(self, total: int) -> None:
        """Raise UserError when too large a share of ``total`` images could not be read."""
        if len(self) > self._max_share * total:
            named = some([f"{id}: {reason}" for id, reason in self._reasons.items()])
            raise UserError(
                f"{len(self):,} of {counted(total, 'image')} cannot be read, more than the share of "
                f"{self._max_share:g} that max_bad_share allows; fix or remove them: {named}"
            )


class Loader:
    """Samples as batches of CPU tensors, in their order; a loader can be iterated over more than once.

    Every batch but the last is full, even where unreadable images are left out. At any time at most
    ``batch_size`` decoded images (at the size of the input) are held besides the batch that was yielded last.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        view: View,
        batch_size: int,
        bad: BadImages,
        *,
        targets: bool = False,
        metric_size: int | None = None,
        mask_resize: MaskResize = "nearest",
        mask_threshold: float = 0,
        pinned: bool = False,
    ) -> None:
        """
        Args:
            bad: collects the images that cannot be read.
            targets: whether batches carry labels, and masks where any of the samples has one.
            metric_size: side of the masks; default: that of the input.
            mask_resize: how masks come to that side, as ``View.mask`` has it.
            mask_threshold: the value of a mask above which a pixel is anomalous.
            pinned: whether images lie where a GPU copies them from while both go on with other work.
        """
        self.samples = tuple(samples)
        self._view = view
        self._batch_size = batch_size
        self._bad = bad
        self._targets = targets
        self._metric_size = metric_size or view.size[0]
        self._mask_resize: MaskResize = mask_resize
        self._mask_threshold = mask_threshold
        self._pinned = pinned
        self._masks = targets and any(sample.mask is not None for sample in self.samples)

    def __len__(self) -> int:
        """The number of batches, provided that every image can be read."""
        return -(-len(self.samples) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, decoding ahead within a window of one batch.

        Raises:
            UserError: a mask does not fit its image.
        """
        pool = ThreadPoolExecutor(decoding_threads(), thread_name_prefix="adkit-decode")
        try:
            window = _Window(pool, self._load, self.samples, self._batch_size)
            while len(window):
                found = self._filled(window)
                if found:
                    yield found.pop()  # nothing but the consumer holds its images
        finally:  # also when the consumer stops early or is interrupted: no further image is begun
            # Nobody waits: an iterator that was left unfinished may be collected in any thread, also in one that is
            # being started, and joining the pool's threads there would wait for a lock that the same thread holds.
            pool.shutdown(wait=False, cancel_futures=True)

    def _filled(self, window: _Window) -> list[Batch]:
        """The next batch; none where no image that is left can be read."""
        batch = _Assembly(min(self._batch_size, len(window)), self._view, self._mask_side, self._pinned)
        while len(window) and not batch.full:
            self._take(window, batch)
        return [batch.finish(self._targets)] if batch.count else []

    def _take(self, window: _Window, batch: _Assembly) -> None:
        sample, future = window.pop()
        found = future.result()
        if isinstance(found, str):
            self._bad.add(sample.id, found)
        else:
            batch.add(found)
        del future, found  # releases the decoded image before the next one is begun
        window.refill()

    @property
    def _mask_side(self) -> int | None:
        return self._metric_size if self._masks else None

    def _load(self, sample: Sample) -> _Loaded | str:
        """Read a sample and bring it to the size of the input, or say why it cannot be read; this runs in a thread.

        An error would hold what was decoded, through its traceback, for as long as others are waited for.
        """
        try:
            with within_memory():
                return self._loaded(sample)
        except ImageError as error:
            return error.reason

    def _loaded(self, sample: Sample) -> _Loaded:
        with reading(sample.source, self._view.range, self._view.memory) as image:
            size = (image.height, image.width)
            pixels = self._view.input(image)
        mask = None
        if self._masks and sample.label and sample.mask is not None:
            drawn = read_mask(sample.mask, self._mask_threshold)
            if drawn.shape != size:
                raise UserError(size_problem(sample, size, (drawn.shape[0], drawn.shape[1])))
            mask = self._view.mask(drawn, self._metric_size, self._mask_resize)
        return _Loaded(sample, pixels, self._view.region(size), mask)


@dataclass(frozen=True)
class _Loaded:
    """A decoded sample at the size of the input."""

    sample: Sample
    pixels: Pixels
    """(H, W) gray or (H, W, 3) RGB input."""
    region: tuple[int, int, int, int]
    """The part (top, left, bottom, right) of the input that shows the image."""
    mask: npt.NDArray[np.bool_] | None
    """(M, M) mask at the metric size; None where there is none."""


class _Window:
    """The next few images, in the order of the samples, each being decoded or already decoded."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        load: Callable[[Sample], _Loaded | str],
        samples: Sequence[Sample],
        size: int,
    ) -> None:
        self._pool = pool
        self._load = load
        self._todo = deque(samples)
        self._begun: deque[tuple[Sample, Future[_Loaded | str]]] = deque()
        for _ in range(size):
            self.refill()

    def __len__(self) -> int:
        """The number of images that have not been popped yet."""
        return len(self._begun) + len(self._todo)

    def pop(self) -> tuple[Sample, Future[_Loaded | str]]:
        return self._begun.popleft()

    def refill(self) -> None:
        if self._todo:
            sample = self._todo.popleft()
            self._begun.append((sample, self._pool.submit(self._load, sample)))


class _Assembly:
    """A batch that fills up; decoded images are copied into its array and released.

    NumPy does the copying, because torch would spread each small copy over threads that the decoding keeps busy,
    and wait for them.
    """

    def __init__(self, capacity: int, view: View, mask_side: int | None, pinned: bool) -> None:
        self._images = torch.empty(capacity, 3, *view.size, pin_memory=pinned)
        self._planes = self._images.numpy()
        self._masks = None if mask_side is None else np.zeros((capacity, mask_side, mask_side), np.bool_)
        self._regions: list[tuple[int, int, int, int]] | None = [] if view.resize == "pad" else None
        self._samples: list[Sample] = []

    @property
    def count(self) -> int:
        return len(self._samples)

    @property
    def full(self) -> bool:
        return self.count == len(self._images)

    def add(self, loaded: _Loaded) -> None:
        at = self.count
        to_planes(loaded.pixels, self._planes[at])
        if self._masks is not None and loaded.mask is not None:
            self._masks[at] = loaded.mask
        if self._regions is not None:
            self._regions.append(loaded.region)
        self._samples.append(loaded.sample)

    def finish(self, targets: bool) -> Batch:
        count = self.count
        return Batch(
            images=self._images[:count],
            ids=tuple(sample.id for sample in self._samples),
            labels=torch.tensor([sample.label for sample in self._samples]) if targets else None,
            kinds=tuple(sample.kind for sample in self._samples) if targets else None,
            groups=groups_of(self._samples),
            masks=None if self._masks is None else torch.from_numpy(self._masks[:count]),
            regions=None if self._regions is None else torch.tensor(self._regions),
        )


def groups_of(samples: Sequence[Sample]) -> tuple[str, ...] | None:
    """The key of the group of each sample, its id where nobody says; None where nobody says any."""
    if all(sample.group is None for sample in samples):
        return None
    return tuple(sample.id if sample.group is None else sample.group for sample in samples)
