"""The diagonal of the Fisher information of a pretrained classifier: how much each weight matters to it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from adkit.plugin import Batch, Context, Extractor, ImageStream, UserError, counted
from adkit.toolkit.blocks import classified
from adkit.toolkit.cache import add_tensor, cached

from ._pretraining import class_numbers, classes_of

Labels = Literal["predicted", "classes"]
"""Where the labels y come from: drawn from the classifier's prediction, or the class that each image shows."""

FORMULA = "fisher 1"
"""The part of the cache's key that changes with the formula."""

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Sampled:
    """A uniformly random sample of the images of a stream, which is always the same for equal streams."""

    images: ImageStream
    count: int
    """The largest number of images."""
    context: Context

    @cached_property
    def numbers(self) -> frozenset[int]:
        """The places of the images in the stream; where some are unreadable, fewer come."""
        generator = self.context.generator("fisher", "pictures")
        return frozenset(torch.randperm(self.images.count, generator=generator)[: self.count].tolist())

    def __iter__(self) -> Iterator[Batch]:
        """Batches of one image each."""
        number = 0
        for batch in self.images.batches():
            for i in range(len(batch)):
                if number in self.numbers:
                    kinds = None if batch.kinds is None else batch.kinds[i : i + 1]
                    yield Batch(batch.images[i : i + 1], batch.ids[i : i + 1], kinds=kinds)
                number += 1


def fisher(
    extractor: Extractor,
    parameters: Sequence[nn.Parameter],
    images: ImageStream,
    labels: Labels,
    count: int,
    context: Context,
) -> list[Tensor]:
    """The mean over images of (∂ −log p(y|x) / ∂θ)², for every one of ``parameters``, computed once and then cached.

    With y drawn from the classifier's own prediction p(·|x) this is the definition of the Fisher information, which
    takes no labels. With the true classes it is what PANDA's equation 3 and elastic weight consolidation compute.
    The extractor stays in evaluation mode, and as it is.

    Args:
        extractor: the extractor with the pretrained classifier.
        parameters: parameters of the extractor.
        images: images, whose kinds are known where ``labels`` are their classes; class i is the kind of number i.
        labels: where the labels y come from.
        count: the largest number of images to use.
        context: the adapter's context.

    Returns:
        Tensors ≥ 0 of the shapes of ``parameters``, float32, on their devices.

    Raises:
        UserError: the weights have no classifier, or the kinds of the images are not its classes.
    """
    wanted = {id(parameter) for parameter in parameters}
    names = {id(p): name for name, p in extractor.named_parameters() if id(p) in wanted}
    sampled = Sampled(images, count, context)
    found = cached(
        "fisher",
        _key(extractor, sorted(names.values()), sampled, labels),
        lambda: dict(
            zip(
                (names[id(parameter)] for parameter in parameters),
                compute_fisher(extractor, parameters, sampled, labels),
                strict=True,
            )
        ),
    )
    return [found[names[id(parameter)]].to(parameter.device) for parameter in parameters]


def compute_fisher(
    extractor: Extractor, parameters: Sequence[nn.Parameter], sampled: Sampled, labels: Labels
) -> list[Tensor]:
    """Compute the Fisher information without the cache; ``fisher`` explains it."""
    started, done = time.perf_counter(), 0
    device = sampled.context.device
    generator = sampled.context.generator("fisher", "labels")
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    with _only(extractor, parameters), torch.enable_grad():
        # One by one: the mean of squares is not the square of a batch's mean gradient.
        for image in sampled:
            log_p = classified(extractor, image.images.to(device)).float().log_softmax(1)[0]  # (classes,)
            if labels == "classes":
                numbers = class_numbers(sampled.images.kinds, len(log_p), "fisher")
                y = int(classes_of(image, numbers, "fisher"))
            else:
                y = int(torch.multinomial(log_p.detach().cpu().exp(), 1, generator=generator))
            done += 1
            gradients = torch.autograd.grad(-log_p[y], list(parameters), allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    if not done:
        raise UserError("data: expected images for the Fisher information, found none that can be read: add some")
    if not all(bool(total.isfinite().all()) for total in sums):
        raise UserError(
            "extractor.weights: expected a classifier whose gradients are finite, found NaN or inf: use other weights, "
            'or set adapter.fisher = "uniform"'
        )
    logger.info("Fisher information of %s: %.1f s", counted(done, "image"), time.perf_counter() - started)
    return [total / done for total in sums]


@contextmanager
def _only(extractor: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Compute gradients for ``parameters`` alone, so that none pass back through the blocks below them."""
    before = [(parameter, parameter.requires_grad) for parameter in extractor.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)


def _key(extractor: Extractor, names: Sequence[str], sampled: Sampled, labels: Labels) -> str:
    """The digest of all that the Fisher information depends on."""
    context = sampled.context
    kinds = list(sampled.images.kinds) if labels == "classes" else None
    device = torch.device(context.device).type
    # The text of a module distinguishes networks whose weights have the same names.
    about = [FORMULA, repr(extractor), names, labels, kinds, context.seed, sampled.count, device]
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in extractor.state_dict().items():
        add_tensor(digest, name, tensor)
    for image in sampled:
        add_tensor(digest, str(image.kinds) if labels == "classes" else "", image.images)
    return digest.hexdigest()
