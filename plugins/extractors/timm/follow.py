"""Finds where in the input the cells of a network's maps lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from adkit.plugin import Geometry

_POOL = ("input", "kernel_size", "stride", "padding")
_WINDOWS: dict[Any, tuple[str, ...]] = {
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation"),
    torch.max_pool2d: (*_POOL, "dilation"),
    F.max_pool2d: (*_POOL, "dilation"),
    F.avg_pool2d: _POOL,
}
"""Function that slides a window → the names of its operands, in order."""


class Follow(TorchFunctionMode):
    """A context that follows the cells of every tensor that is made from ``image`` (1, 3, H, W).

    Convolution and pooling shift and widen cells, and padding shifts them, too: that is why the cells of networks
    ported from TensorFlow lie half a stride away from those of PyTorch's own. Every other operation is taken to leave
    cells where those of its first operand are.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._size = (image.shape[2], image.shape[3])
        self._cells: MutableMapping[Tensor, Geometry] = WeakTensorKeyDictionary()
        self._cells[image] = Geometry((0.5, 0.5), (1.0, 1.0))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        known = (self._cells.get(tensor) for tensor in _tensors([*args, *named.values()]))
        source = next((cells for cells in known if cells is not None), None)
        if source is not None:
            for tensor in _tensors([result]):
                self._cells[tensor] = _moved(source, func, args, named)
        return result

    def geometry(self, tensor: Tensor, grid: tuple[int, int]) -> Geometry:
        """Where the cells of ``tensor`` lie: an even tiling of the input if no sliding window made them."""
        tiling = Geometry.covering(grid, self._size)
        found = self._cells.get(tensor)
        if found is None or grid == (1, 1):
            return tiling
        # Reshaping can merge cells, as Swin does: then the cells that were followed no longer span the input.
        spans = (math.log2(tiling.step[axis] / found.step[axis]) for axis in (0, 1))
        return found if all(abs(span) < 0.5 for span in spans) else tiling


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _moved(cells: Geometry, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Geometry:
    if func is F.pad:
        left, _, top, _ = pad if len(pad := named.get("pad") or args[1]) == 4 else (0, 0, 0, 0)
        return _slid(cells, shift=(-top, -left), stride=(1, 1))
    if func not in _WINDOWS:
        return cells
    given = dict(zip(_WINDOWS[func], args, strict=False)) | named
    kernel = _pair(given["weight"].shape[2:] if "weight" in given else given["kernel_size"])
    dilation, padding = _pair(given.get("dilation", 1)), given.get("padding", 0)
    reach = (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
    if isinstance(padding, str):
        padding = (reach[0] // 2, reach[1] // 2) if padding == "same" else 0
    top, left = _pair(padding)
    stride = _pair(given.get("stride") or (1 if "weight" in given else kernel))
    return _slid(cells, shift=(reach[0] / 2 - top, reach[1] / 2 - left), stride=stride)


def _slid(cells: Geometry, shift: tuple[float, float], stride: tuple[int, int]) -> Geometry:
    """The cells whose first is ``shift`` cells further, and of which only every ``stride``-th is left."""
    (y, x), (tall, wide) = cells.start, cells.step
    return Geometry((y + shift[0] * tall, x + shift[1] * wide), (tall * stride[0], wide * stride[1]))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
