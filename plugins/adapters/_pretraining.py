"""The task that an extractor was pretrained on: images of ``[auxiliary]`` as classes of its classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adkit.plugin import Batch, UserError, counted


def class_numbers(kinds: Sequence[str], classes: int, key: str) -> dict[str, int]:
    """Kind → the number of its class, where the kinds are those of the pretraining data, in their order.

    Args:
        kinds: ``ImageStream.kinds``.
        classes: the number of classes that the classifier has.
        key: the adapter's parameter that asks for them, for the sentence.

    Raises:
        UserError: the number of kinds is not that of the classes.
    """
    if len(kinds) != classes:
        raise UserError(
            f"[auxiliary]: expected images of {counted(classes, 'kind')}, one per class of the pretrained classifier, "
            f'which adapter.{key} = "classes" needs, found {len(kinds)}: name the data set that the weights were '
            f'trained on, or set adapter.{key} = "predicted"'
        )
    return {kind: number for number, kind in enumerate(kinds)}


def classes_of(batch: Batch, numbers: Mapping[str, int], key: str) -> Tensor:
    """(b,) int64: the class that each image shows.

    Raises:
        UserError: it is not known what the images show.
    """
    if batch.kinds is None:
        raise UserError(
            f'[auxiliary]: expected images whose kinds are known, which adapter.{key} = "classes" needs, found '
            f'{batch.ids[0]} without one: use a data set of classes, or set adapter.{key} = "predicted"'
        )
    return torch.tensor([numbers[kind] for kind in batch.kinds])
