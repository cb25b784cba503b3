"""Local-Net, Global-Net and the DAD head, layer by layer as the supplement's tables 1 to 3 list them.

Source: Wang et al., Glancing at the Patch: Anomaly Localization with Global and Local Feature Comparison (CVPR 2021),
supplement B. No layer has any padding: sizes are rounded down (125 and 62 in table 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH: Final = 33
"""The side of a patch in pixels."""
IMAGE: Final = 256
"""The side of an image in pixels."""
CHANNELS: Final = 128
"""The channels of what Local-Net and Global-Net give."""

LOCAL_SLOPE: Final = 5e-3
HEAD_SLOPE: Final = 1e-2


class LocalNet(nn.Module):
    """What a patch of 33×33 pixels shows: (n, 3, 33, 33) → (n, 128). Source: table 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 128, 3)
        self.conv2 = nn.Conv2d(128, 256, 5)
        self.conv3 = nn.Conv2d(256, 256, 2)
        self.conv4 = nn.Conv2d(256, CHANNELS, 4)

    def forward(self, patches: Tensor) -> Tensor:
        return self.last(self.before_last(patches)).flatten(1)

    def before_last(self, images: Tensor) -> Tensor:
        """What the layers before the last give: (n, 3, h, w) → (n, 256, h', w'), in steps of 4 pixels."""
        x = F.max_pool2d(_leaky(self.conv1(images)), 2)
        x = F.max_pool2d(_leaky(self.conv2(x)), 2)
        return _leaky(self.conv3(x))

    def last(self, given: Tensor, stride: int = 1) -> Tensor:
        """The last layer on what ``before_last`` gives, in steps of ``stride`` cells, as (n, 128, …)."""
        return _leaky(F.conv2d(given, self.conv4.weight, self.conv4.bias, stride))


def _leaky(values: Tensor) -> Tensor:
    return F.leaky_relu(values, LOCAL_SLOPE)


class PartialConv2d(nn.Conv2d):
    """A convolution of the valid values alone, which tells where what it gives is valid.

    Where a window has valid values, x' = Wᵀ(X ⊙ M) · sum(1) / sum(M) + b and m' = 1, elsewhere x' = 0 and m' = 0.
    Source: Liu et al., Image Inpainting for Irregular Holes Using Partial Convolutions (ECCV 2018), equations 1 and 2.
    """

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """
        Args:
            values: (n, c, h, w).
            valid: (n, 1, h, w), 1 where values are valid and 0 where they are hidden, for all channels alike.

        Returns:
            (n, c', h', w') values, and (n, 1, h', w') where they are valid.
        """
        window = valid.new_ones(1, 1, *self.kernel_size)
        count = F.conv2d(valid, window, stride=self.stride)  # (n, 1, h', w') valid values of a channel
        scale = torch.where(count > 0, window.numel() / count.clamp(min=1), torch.zeros_like(count))
        seen = (count > 0).to(valid.dtype)
        return self.scaled(values * valid, scale, seen), seen

    def scaled(self, values: Tensor, scale: Tensor, seen: Tensor) -> Tensor:
        """Wᵀ values · scale + b · seen, where ``values`` are 0 where they are hidden.

        Args:
            values: (n · m, c, h, w).
            scale: (m, 1, h', w') sum(1) / sum(M), or 0 where nothing is valid.
            seen: (m, 1, h', w') m'.
        """
        assert self.bias is not None
        found = F.conv2d(values, self.weight, stride=self.stride)
        parts = found.reshape(-1, len(scale), *found.shape[1:])
        return (parts * scale + self.bias[:, None, None] * seen).flatten(0, 1)


@dataclass(frozen=True)
class Layer:
    """One layer of Global-Net with a window: a partial convolution and the ReLU behind it, or the pooling."""

    name: str
    kernel: int
    stride: int
    relu: bool = True


LAYERS: Final = (
    Layer("conv0", 7, 2),
    Layer("pool", 3, 2),
    Layer("conv1_1", 3, 2),
    Layer("conv1_2", 3, 1),
    Layer("conv2_1", 3, 2),
    Layer("conv2_2", 3, 1),
    Layer("conv3_1", 3, 2),
    Layer("conv3_2", 3, 1),
    Layer("conv4", 3, 1, relu=False),
)
"""The layers of Global-Net, from input to output. Source: table 2."""

WIDTHS: Final[Mapping[str, tuple[int, int]]] = {
    "conv0": (3, 16),
    "conv1_1": (16, 32),
    "conv1_2": (32, 32),
    "conv2_1": (32, 64),
    "conv2_2": (64, 64),
    "conv3_1": (64, 128),
    "conv3_2": (128, 128),
    "conv4": (128, CHANNELS),
}
"""The channels that each convolution of Global-Net takes and gives."""


class GlobalNet(nn.Module):
    """What an image of 256×256 pixels leads one to expect where it is hidden: (n, 3, 256, 256) → (n, 128).

    Masks pass the max-pool as they pass a convolution: a cell is valid if any of its window is. Its value is then the
    largest valid one, because hidden values are 0 behind the ReLU and no valid one is less.
    """

    def __init__(self) -> None:
        super().__init__()
        for layer in LAYERS:
            if layer.name in WIDTHS:
                setattr(self, layer.name, PartialConv2d(*WIDTHS[layer.name], layer.kernel, layer.stride))

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """
        Args:
            hidden: (n, 256, 256) bool: the pixels that are hidden.
        """
        values, valid = images, (~hidden)[:, None].to(images.dtype)
        for layer in LAYERS:
            values, valid = self.step(layer, values, valid)
        return values.flatten(1)

    def convolution(self, layer: Layer) -> PartialConv2d | None:
        """The convolution of a layer; None for the pooling."""
        return getattr(self, layer.name, None)

    def step(self, layer: Layer, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: (n, c, h, w) values and (n, 1, h, w) masks to those behind it."""
        convolution = self.convolution(layer)
        if convolution is None:
            return pooled(values, layer), pooled(valid, layer)
        values, valid = convolution(values, valid)
        return (values.relu() if layer.relu else values), valid


def pooled(values: Tensor, layer: Layer) -> Tensor:
    """The pooling of ``layer``."""
    return F.max_pool2d(values, layer.kernel, layer.stride)


class DadHead(nn.Module):
    """Whether the features of a patch and of its surroundings match: logits of match and mismatch. Source: table 3."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0 = nn.Linear(2 * CHANNELS, 128)
        self.fc1 = nn.Linear(128, 2)

    def forward(self, local: Tensor, surroundings: Tensor) -> Tensor:
        """(…, 128) and (…, 128) → (…, 2)."""
        hidden = F.leaky_relu(self.fc0(torch.cat([surroundings, local], dim=-1)), HEAD_SLOPE)
        found: Tensor = F.leaky_relu(self.fc1(hidden), HEAD_SLOPE)
        return found
