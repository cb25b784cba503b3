"""Finds by one forward pass which levels a network's modules give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from adkit.plugin import Geometry, Level, UserError

Layout = Literal["channels_first", "channels_last", "tokens", "vector"]
Size = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Tap:
    """How a module's output becomes a level."""

    level: Level
    layout: Layout
    overwritten: bool = False
    """Whether a later module writes into the output, so that it must be copied when it is read."""

    def read(self, output: Tensor) -> Tensor:
        """(n, h, w, c) float32: the level that the module's output is."""
        height, width = self.level.grid
        if self.layout == "channels_first":
            output = output.permute(0, 2, 3, 1)  # (n, c, h, w) → (n, h, w, c)
        elif self.layout == "tokens":  # (n, prefix + h·w, c) → (n, h, w, c)
            output = output[:, -height * width :].reshape(-1, height, width, output.shape[2])
        elif self.layout == "vector":
            output = output[:, None, None, :]  # (n, c) → (n, 1, 1, c)
        output = output.float().contiguous()
        return output.clone() if self.overwritten else output


class _Enough(Exception):
    """Raised when every module that was asked for has given its output."""


def capture(
    modules: Mapping[str, nn.Module],
    keep: Callable[[str, Tensor], T],
    run: Callable[[], object],
    *,
    to_the_end: bool = False,
) -> dict[str, T]:
    """The results of ``keep`` for each module's first output; ``run`` goes no further than the last of them needs.

    Args:
        modules: name → module to read.
        keep: takes a module's name and its first output.
        run: runs the network.
        to_the_end: let the run end by itself, since one that is being recorded cannot be stopped in its middle.
    """
    kept: dict[str, T] = {}

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if name not in kept:
                kept[name] = keep(name, output)
            if len(kept) == len(modules) and not to_the_end:
                raise _Enough

        return hook

    handles = [module.register_forward_hook(listen(name)) for name, module in modules.items()]
    try:
        run()
    except _Enough:
        return kept
    finally:
        for handle in handles:
            handle.remove()
    return kept


def probe(
    modules: Mapping[str, nn.Module], run: Callable[[Tensor], object], size: Size, prefix: int, last: bool
) -> dict[str, Tap]:
    """How to read each of ``modules`` when ``run`` is given inputs of ``size`` (height, width).

    Cells tile the input. Strides and paddings do not tell where they lie, since trained kernels are lopsided.

    Args:
        prefix: the number of tokens before those of the input.
        last: whether a map has its channels last where its shape does not say.

    Raises:
        UserError: a module does not run, or its output is no map, sequence of tokens or vector.
    """
    with torch.inference_mode(False), torch.no_grad():  # inference tensors do not count what is written to them
        image = torch.zeros(1, 3, *size)
        found = capture(modules, lambda _, output: (output, _version(output)), lambda: run(image))
    taps = {}
    for name in modules:
        if name not in found:
            raise UserError(
                f"extractor.levels: module {name!r} does not run before the classifier, or not as a whole: name "
                "another or one inside it"
            )
        output, version = found[name]
        tap = _tap(output, size, prefix, last)
        if tap is None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"extractor.levels: expected {name!r} to give a map, patch tokens or a vector per image, "
                f"found {shape}: name another module"
            )
        taps[name] = Tap(tap.level, tap.layout, overwritten=_version(output) != version)
    return taps


def _version(output: Any) -> int:
    return output._version if isinstance(output, Tensor) else 0


def _tap(output: Any, size: Size, prefix: int, last: bool) -> Tap | None:
    shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
    if len(shape) == 1:
        return Tap(Level(shape[0], (1, 1), Geometry.covering((1, 1), size)), "vector")
    candidates: list[tuple[Layout, Size, int]] = []
    if len(shape) == 3:
        candidates = [("channels_first", shape[1:], shape[0]), ("channels_last", shape[:2], shape[2])]
        candidates = candidates[::-1] if last else candidates
    elif len(shape) == 2:
        candidates = [("tokens", _fold(shape[0] - extra, size), shape[1]) for extra in {prefix: 0, 0: 0}]
    if not candidates:
        return None
    layout, grid, channels = min(candidates, key=lambda candidate: _stretch(candidate[1], size))
    if _stretch(grid, size) > 0.5:
        return None
    return Tap(Level(channels, grid, Geometry.covering(grid, size)), layout)


def _fold(count: int, size: Size) -> Size:
    """The grid of ``count`` cells whose shape is nearest to that of an input of ``size``."""
    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(grids, key=lambda grid: _stretch(grid, size), default=(1, max(count, 1)))


def _stretch(grid: Size, size: Size) -> float:
    """How far the shape of a grid is from that of the input: 0 is the same, 1 is twice as wide or as tall."""
    return abs(math.log2(grid[0] * size[1] / (grid[1] * size[0])))
