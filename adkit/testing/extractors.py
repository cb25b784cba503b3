"""Checks that an extractor keeps its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from adkit.plugin.extractor import AdaptableExtractor, Extractor
from adkit.plugin.types import Features, Level
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
    through_bytes,
    untouched,
)
from adkit.testing.samples import SIZE, sample_images


def check_extractor(
    make: Callable[[], Extractor],
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> None:
    """Run every check of an extractor; one that fails raises an AssertionError.

    Args:
        make: a function that gives a fresh extractor, always with the same parameters and seed.
        size: (height, width) of the input, as in the context that the extractor was built with.
        tolerance: share of the largest value of a level by which batches may differ.
        device: the torch device that the extractor is on.
    """
    (batch,) = sample_images(size=size, device=device)
    with generators_untouched():
        extractor = make()
        require_methods(extractor, "extractor")
        require(isinstance(extractor, nn.Module), "module", "a torch.nn.Module", type(extractor).__name__)
        with untouched("inputs", "images", {"images": batch.images}):
            features = _features(extractor, batch.images)
    _check_mode(extractor)
    _check_features(extractor, features, len(batch))
    _check_blocks(extractor)
    expected = dict(features)

    def extract(of: Extractor, first: int = 0, last: int = len(batch)) -> dict[str, Tensor]:
        return dict(_features(of, batch.images[first:last]))

    twin = make()
    require_close("seed", "two extractors of one seed to give equal features", expected, extract(twin), 0.0)
    with running("state_dict()"):
        saved = _module(extractor).state_dict()
    state = through_bytes(saved)
    _scramble(_module(twin))
    with running("load_state_dict(state)"):
        _module(twin).load_state_dict(state)
    wanted = "equal features after state_dict, safetensors and load_state_dict"
    require_close("state", wanted, expected, extract(twin), 0.0)
    require_batchwise(lambda i, j: extract(extractor, i, j), len(batch), tolerance)


def _features(extractor: Extractor, images: Tensor) -> Features:
    with running("extractor(images)"), torch.no_grad():
        features = extractor(images)
    require_type("what calling it gives", features, Features)
    require_type("Features.levels", features.levels, Mapping)
    require_type("Features.geometry", features.geometry, Mapping)
    return features


def _module(extractor: Extractor) -> nn.Module:
    assert isinstance(extractor, nn.Module)
    return extractor


def _scramble(module: nn.Module) -> None:
    """Change all floating-point weights, so that loading has something to do."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1)


def _check_mode(extractor: Extractor) -> None:
    training = [name or "itself" for name, module in _module(extractor).named_modules() if module.training]
    require(not training, "evaluation", "every module in evaluation mode", f"training: {', '.join(training)}")


def _check_features(extractor: Extractor, features: Features, count: int) -> None:
    with running("levels"):
        levels = extractor.levels
    require_type("levels", levels, Mapping)
    require(list(features) == list(levels), "levels", f"those stated, {list(levels)}, in order", list(features))
    for name, level in levels.items():
        require_type(f"level {name}", level, Level)
        require_tensor("shapes", f"level {name}", features[name], (count, *level.grid, level.channels))
        require_finite(f"level {name}", features[name])
        geometry = features.geometry.get(name)
        require(geometry == level.geometry, "geometry", f"{name} as stated, {level.geometry}", geometry)


def _check_blocks(extractor: Extractor) -> None:
    if not isinstance(extractor, AdaptableExtractor):
        return
    with running("blocks()"):
        owners = [id(parameter) for block in extractor.blocks().values() for parameter in block]
    for name, parameter in _module(extractor).named_parameters():
        count = owners.count(id(parameter))
        require(count == 1, "blocks", f"parameter {name} in exactly one block", f"it in {count}")
