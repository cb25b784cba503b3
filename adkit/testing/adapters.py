"""Checks of adapters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adkit.contracts import Adapter, Batch, Extractor, Scorer
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_batchwise,
    require_close,
    require_finite,
    require_tensor,
    untouched,
)
from adkit.testing.samples import SIZE, part, pictures, stream_of
from adkit.testing.tiny import TinyExtractor


def check_adapter(
    make: Callable[[], Adapter],
    make_extractor: Callable[[], Extractor] = TinyExtractor,
    make_scorer: Callable[[], Scorer] | None = None,
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of an adapter.

    Args:
        make: gives a fresh adapter, always with the same parameters and seed.
        make_extractor: gives a fresh extractor with the levels that the adapter needs.
        make_scorer: gives a scorer, which is fitted before ``prepare`` sees it; default: none.
        size: (height, width) of pictures, the extractor's.
        tolerance: share of the largest score by which batches may differ.
    """
    (batch,) = pictures(10, size, seed=1, device=device)

    def prepared() -> tuple[Adapter, Extractor]:
        adapter, extractor = make(), make_extractor()
        normal, auxiliary = (stream_of(extractor, seed, size, device) for seed in (2, 3))
        scorer = make_scorer() if make_scorer else None
        if scorer:
            scorer.fit(normal)
        adapter.prepare(extractor, normal, auxiliary, scorer)
        return adapter, extractor

    with generators_untouched():
        adapter, extractor = prepared()
        _check_stages(adapter)
        loss = _check_loss(adapter, extractor, batch)
    other = _loss(*prepared(), batch).detach()
    wanted = "two adapters of one seed to give equal losses"
    require_close("seed", wanted, {"loss": loss}, {"loss": other}, 0.0)
    with torch.no_grad():
        features = extractor(batch.images)
        with untouched("inputs", "features of score", features):
            scores = adapter.score(features)
        require_tensor("shapes", "score", scores, (len(batch),))
        require_finite("score", scores)
        require_batchwise(lambda i, j: {"score": adapter.score(part(features, i, j))}, len(batch), tolerance)


def _loss(adapter: Adapter, extractor: Extractor, batch: Batch) -> Tensor:
    return adapter.loss(extractor, batch, extractor(batch.images))


def _check_stages(adapter: Adapter) -> None:
    stages = adapter.stages()
    require(len(stages) > 0, "stages", "at least one", len(stages))
    for stage in stages:
        count = sum(parameter.requires_grad for parameter in stage.parameters)
        require(count > 0, "stages", f"stage {stage.name} to train some parameter", "none")


def _check_loss(adapter: Adapter, extractor: Extractor, batch: Batch) -> Tensor:
    with untouched("inputs", "images of loss", {"images": batch.images}):
        loss = _loss(adapter, extractor, batch)
    require_tensor("shapes", "loss", loss, ())
    require_finite("loss", loss)
    parameters = [parameter for stage in adapter.stages() for parameter in stage.parameters]
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else []
    gradients = [gradient for gradient in found if gradient is not None]
    for gradient in gradients:
        require_finite("gradient", gradient)
    moving = any(bool(gradient.any()) for gradient in gradients)
    require(moving, "gradient", "one that is not 0 in some parameter of the stages", "none")
    return loss.detach()
