"""Local-Net and Global-Net on every patch of a grid, with what neighboring patches have in common computed once.

Both give what patch-by-patch passes give, up to rounding.

Local-Net pools twice, so patches whose offsets are multiples of 4 read the same cells of its layers: these are computed
over the whole image. Of Global-Net only cells whose receptive field meets the hidden patch differ from those of the
image without a hole: 2, 4, 7, 12, 22, 35, 72 and 100% of a layer, from the first convolution to the last. These windows
are computed for each patch, and the rest once per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .networks import IMAGE, LAYERS, PATCH, GlobalNet, Layer, LocalNet, pooled

STEP = 4
"""The pixels between two cells of Local-Net's last layer but one."""
READ = 30
"""The pixels of a patch that Local-Net reads along an axis: poolings of odd sizes leave the last ones out."""


def offsets(count: int, exact: bool) -> list[int]:
    """The first pixels of ``count`` patches along an axis, evenly from the first pixel to the last.

    Args:
        exact: whether they are rounded to whole pixels, or to multiples of ``STEP``.
    """
    unit = 1 if exact else STEP
    room = (IMAGE - PATCH) // unit
    if count == 1:
        return [room // 2 * unit]
    return [unit * ((2 * i * room + count - 1) // (2 * (count - 1))) for i in range(count)]  # halves are rounded up


def shares_cells(first: Sequence[int]) -> bool:
    """Whether Local-Net over the whole image takes fewer operations than patch by patch, by its second convolution."""
    side = (first[-1] + READ - 2) // 2 - 4
    return all(one % STEP == 0 for one in first) and side**2 < 11**2 * len(first) ** 2


class SharedLocal(nn.Module):
    """Local-Net on a square grid of patches: (n, 3, 256, 256) → (n, k, k, 128)."""

    def __init__(self, first: Sequence[int]) -> None:
        """
        Args:
            first: the first pixels of the patches, along either axis.
        """
        super().__init__()
        self._count, self._side, self._shares = len(first), first[-1] + READ, shares_cells(first)
        reads = [one // STEP + i for one in first for i in range(4)] if self._shares else _spans(first, PATCH)
        self.register_buffer("_reads", torch.tensor(reads), persistent=False)
        self._reads: Tensor

    def forward(self, net: LocalNet, images: Tensor) -> Tensor:
        if self._shares:
            cells = net.before_last(images[:, :, : self._side, : self._side])
            found = net.last(_crossings(cells, self._reads, self._reads), stride=4)  # (n, 128, k, k)
            return found.permute(0, 2, 3, 1)
        patches = _tiles(_crossings(images, self._reads, self._reads), self._count)
        each: Tensor = net(patches)
        return each.reshape(-1, self._count, self._count, each.shape[1])


class SharedGlobal(nn.Module):
    """Global-Net with each patch of a square grid hidden in turn: (n, 3, 256, 256) → (n, k, k, 128)."""

    def __init__(self, first: Sequence[int]) -> None:
        """
        Args:
            first: the first pixels of the patches, along either axis.
        """
        super().__init__()
        self._count = len(first)
        windows, size = torch.tensor(first), IMAGE
        hidden = (windows, windows + PATCH)
        width = PATCH
        self.steps = nn.ModuleList()
        for layer in LAYERS:
            step = _Windows(layer, size, windows, width, hidden)
            self.steps.append(step)
            size, windows, width, hidden = step.size, step.first, step.width, step.hidden

    def forward(self, net: GlobalNet, images: Tensor) -> Tensor:
        whole, count = images, self._count
        nothing = torch.zeros_like(images[:, :, :1, :1])
        windows = nothing.expand(-1, -1, count * PATCH, count * PATCH)  # all hidden
        for layer, step in zip(LAYERS, self.steps, strict=True):
            windows = step(net, whole, windows)
            if layer is not LAYERS[-1]:
                whole = _unhidden(net, layer, whole)
        return windows.permute(0, 2, 3, 1)


def _unhidden(net: GlobalNet, layer: Layer, values: Tensor) -> Tensor:
    """One layer where nothing is hidden, which makes it an ordinary one."""
    return net.step(layer, values, values.new_ones(1, 1, *values.shape[2:]))[0]


class _Windows(nn.Module):
    """One layer of Global-Net on the cells of each patch that differ from those of the image without a hole.

    The windows of all patches lie side by side, as a mosaic (n, c, k · width, k · width). Patches and what they hide
    are rectangles, so each axis has its own indices.
    """

    def __init__(self, layer: Layer, size: int, first: Tensor, width: int, hidden: tuple[Tensor, Tensor]) -> None:
        """
        Args:
            size: the side of what the layer is given.
            first: (k,) where the windows begin in that, which hold all that differs.
            width: their width.
            hidden: (k,) the first cell that is hidden in it, and the first one behind.
        """
        super().__init__()
        kernel, stride = layer.kernel, layer.stride
        self._layer, self._count = layer, len(first)
        self.size = (size - kernel) // stride + 1
        begin = ((first - kernel).div(stride, rounding_mode="floor") + 1).clamp(min=0)
        end = (-(-(first + width)).div(stride, rounding_mode="floor")).clamp(max=self.size)
        self.width = int((end - begin).max())
        self.first = begin.clamp(max=self.size - self.width)
        low, high = hidden
        self.hidden = (
            -(-low).div(stride, rounding_mode="floor"),
            (high - kernel).div(stride, rounding_mode="floor") + 1,
        )
        reads = self.first[:, None] * stride + torch.arange((self.width - 1) * stride + kernel)  # (k, r)
        inside = (reads >= first[:, None]) & (reads < first[:, None] + width)
        places = torch.arange(self._count)[:, None] * width + (reads - first[:, None]).clamp(0, width - 1)
        begins = (self.first[:, None] + torch.arange(self.width)) * stride  # (k, width) what each cell reads from on
        lost = torch.minimum(begins + kernel, high[:, None]) - torch.maximum(begins, low[:, None])
        lost = lost.clamp(min=0).flatten()  # along one axis: those of a cell are the product
        valid = kernel**2 - lost[:, None] * lost
        scale = torch.where(valid > 0, kernel**2 / valid.clamp(min=1), torch.zeros(()))
        for name, tensor in {
            "_reads": reads.flatten(),
            "_places": places.flatten(),
            "_inside": inside.flatten()[:, None] & inside.flatten(),
            "_scale": self._parts(scale),
            "_seen": self._parts((valid > 0).float()),
        }.items():
            self.register_buffer(name, tensor, persistent=False)
        self._reads: Tensor
        self._places: Tensor
        self._inside: Tensor
        self._scale: Tensor
        self._seen: Tensor

    def forward(self, net: GlobalNet, whole: Tensor, windows: Tensor) -> Tensor:
        """The windows behind the layer.

        Args:
            whole: (n, c, size, size) what the layer is given where nothing is hidden.
            windows: what it is given of the windows.
        """
        outside = _crossings(whole, self._reads, self._reads)
        given = torch.where(self._inside, _crossings(windows, self._places, self._places), outside)
        tiles = _tiles(given, self._count)  # (n · k², c, r, r)
        convolution = net.convolution(self._layer)
        if convolution is None:
            return _mosaic(pooled(tiles, self._layer), self._count)
        found = convolution.scaled(tiles, self._scale, self._seen)
        return _mosaic(found.relu() if self._layer.relu else found, self._count)

    def _parts(self, mosaic: Tensor) -> Tensor:
        """(k², 1, width, width): a mosaic (k · width, k · width) of what all images have in common, by patches."""
        return _tiles(mosaic[None, None], self._count)


def _spans(first: Sequence[int], width: int) -> list[int]:
    return [one + i for one in first for i in range(width)]


def _crossings(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The cells of ``values`` (n, c, h, w) where rows and columns cross."""
    return values.index_select(2, rows).index_select(3, columns)


def _tiles(mosaic: Tensor, count: int) -> Tensor:
    """(n, c, count · r, count · r) → (n · count², c, r, r)."""
    side = mosaic.shape[2] // count
    parts = mosaic.reshape(-1, mosaic.shape[1], count, side, count, side)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _mosaic(tiles: Tensor, count: int) -> Tensor:
    """The inverse of ``_tiles``."""
    parts = tiles.reshape(-1, count, count, *tiles.shape[1:])  # (n, count, count, c, r, r)
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
