"""Which pictures each step of a training sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from adkit.errors import UserError
from adkit.plugin.context import Context
from adkit.plugin.types import Batch


class Pictures:
    """Training pictures in minibatches, epoch after epoch without end, in an order that the epoch's number decides.

    So a run that is resumed at any minibatch sees what it would have seen.
    """

    def __init__(
        self, load: Callable[[Sequence[int]], Iterable[Batch]], count: int, batch_size: int, context: Context, name: str
    ) -> None:
        """
        Args:
            load: numbers of pictures → those pictures, in batches of ``batch_size``.
            count: how many there are.
            name: of the generator that shuffles them.
        """
        self._load = load
        self._count = count
        self._batch_size = batch_size
        self._context = context
        self._name = name

    @property
    def epoch_length(self) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return math.ceil(self._count / self._batch_size)

    def since(self, minibatch: int) -> Iterator[Batch]:
        """Batches from number ``minibatch`` (from 0) on."""
        epoch, offset = divmod(minibatch, self.epoch_length)
        while True:
            order = torch.randperm(self._count, generator=self._context.generator(self._name, str(epoch))).tolist()
            found = 0
            for batch in self._load(order[offset * self._batch_size :]):
                found += 1
                yield batch
            if not found:
                raise UserError("data: expected pictures to train on, found none that can be read any more")
            epoch, offset = epoch + 1, 0
