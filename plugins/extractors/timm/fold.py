"""Prepares networks for inference: the same features, faster and, in reduced precision, closer to float32."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FOLDABLE = ("Conv2d", "Conv2dSame")
"""Names of the classes, nn's and timm's, that convolve with their weights; others standardize or mix them first."""


def fold_batch_norms(network: nn.Module, spared: Iterable[str]) -> None:
    """Fold each batch norm into the convolution that stands before it among its parent's children, in place.

    A convolution that stands before a batch norm need not be applied before it (a pre-activation network norms first),
    so the caller must compare the network with what it was.

    Args:
        network: the network to change, in evaluation mode.
        spared: names of modules whose outputs are read, which must stay what they are.
    """
    spared = set(spared)
    for path, parent in list(network.named_modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            names = {f"{path}.{name}".lstrip(".") for name in (conv_name, norm_name)}
            if not names & spared and _foldable(conv, norm):
                _fold(conv, norm)
                setattr(parent, norm_name, _after(norm))


def redraw(network: nn.Module, generator: torch.Generator) -> None:
    """Give the network random weights with which no layer is nearly the identity and no activation grows large.

    Batch norms are initialized to change next to nothing, so that folding one wrongly would not be noticed.

    Args:
        network: the network to change.
        generator: on the CPU; the same one gives the same weights to every network of the same architecture.
    """
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            drawn = torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
        else:  # scales and variances around 1, means and biases around 0
            drawn = torch.rand(tensor.shape, generator=generator) + 0.5
            drawn = drawn if name.endswith(("weight", "running_var")) else (drawn - 1) / 2
        tensor.copy_(drawn)


def keep_float32(network: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Compute the convolutions and linear layers that own any of ``parameters`` in float32 under autocast, in place.

    The first layers see smooth images, of which they take differences; rounding those to 8 bits of mantissa is
    most of what a network loses in bfloat16, and keeping these few layers in float32 costs little.
    """
    kept = {id(parameter) for parameter in parameters}
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module.weight) in kept:
            module.forward = MethodType(_float32_forward, module)  # type: ignore[method-assign]


def release_float32(network: nn.Module) -> None:
    """Undo ``keep_float32``, in place."""
    for module in network.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is _float32_forward:
            del module.forward


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv).__name__ in FOLDABLE
        and isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and conv.out_channels == norm.num_features
    )


def _fold(conv: Any, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight.data = weight.detach().to(memory_format=torch.channels_last)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)


def _after(norm: nn.Module) -> nn.Module:
    """What is left of a folded batch norm: timm's contain their activation."""
    return nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name))).eval()


def _float32_forward(module: nn.Module, values: Tensor) -> Tensor:
    """The forward of a module in float32: a method, not a closure, so that a copy computes with its own weights."""
    with torch.autocast(values.device.type, enabled=False):
        result: Tensor = type(module).forward(module, values.float())
    return result
