"""Checks of adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from adkit.contracts import Adapter, Batch, Extractor, Features, Scorer, Stage
from adkit.testing.asserts import (
    generators_untouched,
    require,
    require_batchwise,
    require_close,
    require_finite,
    require_methods,
    require_tensor,
    require_type,
    running,
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

    The extractor's parameters may be frozen: like a run, this sets those that ``stages()`` names to be trained.

    Args:
        make: gives a fresh adapter, always with the same parameters and seed.
        make_extractor: gives a fresh extractor with the levels that the adapter needs.
        make_scorer: gives a scorer, which is fitted before ``prepare`` sees it; default: none.
        size: (height, width) of pictures, the extractor's.
        tolerance: share of the largest score by which batches may differ.
    """
    (batch,) = pictures(10, size, seed=1, device=device)

    def prepared() -> tuple[Adapter, Extractor, list[nn.Parameter]]:
        adapter, extractor = make(), make_extractor()
        require_methods(adapter, "adapter")
        normal, auxiliary = (stream_of(extractor, seed, size, device) for seed in (2, 3))
        scorer = make_scorer() if make_scorer else None
        if scorer:
            scorer.fit(normal)
        with running("prepare(extractor, normal, auxiliary, scorer)"):
            adapter.prepare(extractor, normal, auxiliary, scorer)
        return adapter, extractor, _trained(adapter)

    with generators_untouched():
        adapter, extractor, parameters = prepared()
        loss = _check_loss(adapter, extractor, batch, parameters)
    twin, its_extractor, _ = prepared()
    other = _loss(twin, its_extractor, batch).detach()
    wanted = "two adapters of one seed to give equal losses"
    require_close("seed", wanted, {"loss": loss}, {"loss": other}, 0.0)
    with torch.no_grad():
        features = extractor(batch.images)
        with untouched("inputs", "features of score", features):
            scores = _score(adapter, features)
        require_tensor("shapes", "score", scores, (len(batch),))
        require_finite("score", scores)
        require_batchwise(lambda i, j: {"score": _score(adapter, part(features, i, j))}, len(batch), tolerance)


def _loss(adapter: Adapter, extractor: Extractor, batch: Batch) -> Tensor:
    features = extractor(batch.images)
    with running("loss(extractor, batch, features)"):
        loss = adapter.loss(extractor, batch, features)
    require_tensor("shapes", "loss", loss, ())
    return loss


def _score(adapter: Adapter, features: Features) -> Tensor:
    with running("score(features)"):
        return adapter.score(features)


def _trained(adapter: Adapter) -> list[nn.Parameter]:
    """The parameters of all stages, set to be trained."""
    with running("stages()"):
        stages = adapter.stages()
    require_type("what stages gives", stages, Sequence)
    require(len(stages) > 0, "stages", "at least one", len(stages))
    for stage in stages:
        require_type("a stage", stage, Stage)
        require_type(f"parameters of stage {stage.name}", stage.parameters, Sequence)
        require(len(stage.parameters) > 0, "stages", f"stage {stage.name} to train some parameter", "none")
        for parameter in stage.parameters:
            require_type(f"a parameter of stage {stage.name}", parameter, nn.Parameter)
            parameter.requires_grad_(True)
    return [parameter for stage in stages for parameter in stage.parameters]


def _check_loss(adapter: Adapter, extractor: Extractor, batch: Batch, parameters: list[nn.Parameter]) -> Tensor:
    with untouched("inputs", "images of loss", {"images": batch.images}):
        loss = _loss(adapter, extractor, batch)
    require_finite("loss", loss)
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else []
    gradients = [gradient for gradient in found if gradient is not None]
    for gradient in gradients:
        require_finite("gradient", gradient)
    moving = any(bool(gradient.any()) for gradient in gradients)
    require(moving, "gradient", "one that is not 0 in some parameter of the stages", "none")
    return loss.detach()
