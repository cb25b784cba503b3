"""Backbones of ``timm``, small images for them, and what is said when one cannot be built."""

from __future__ import annotations

import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from torch import Tensor

from adkit import UserError
from adkit.plugin import Context

LITE, VIT, SWIN = "tf_efficientnet_lite0", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
RESNET = "test_resnet"  # timm's miniature


def make(
    backbone: str = LITE,
    *levels: str,
    weights: str = "none",
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
) -> TimmExtractor:
    params = TimmParams(backbone=backbone, weights=weights, levels=levels or ("pool",))
    return TimmExtractor(params, Context(image_size=size, seed=seed))


def sample_images(number: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(1))


def refusal(*args: str, **kwargs: str | tuple[int, int]) -> str:
    with pytest.raises(UserError) as caught:
        make(*args, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)
