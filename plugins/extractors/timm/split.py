"""Cuts a network in two: what an adapter leaves unchanged, which then runs once per image, and what it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Tracer

from .levels import Size, Tap

SAME = 1e-5
"""The share of a level's norm by which the features of the two halves may deviate."""


class Tail(nn.Module):
    """The half behind the cut, up to the last level, which turns the output of the trunk into levels."""

    def __init__(self, rest: nn.Module, taps: Mapping[str, Tap]) -> None:
        super().__init__()
        self.rest = rest
        self.overwrites = False
        """Whether the rest writes into its input, so that this must be copied."""
        self._names = tuple(taps)

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        levels = self.rest(given.clone() if self.overwrites else given)
        return dict(zip(self._names, levels, strict=True))


def cut(
    extractor: nn.Module,
    run: Callable[[Any], object],
    sources: Mapping[str, nn.Module],
    taps: Mapping[str, Tap],
    blocks: Iterable[nn.Module],
    parameters: Sequence[nn.Parameter],
    size: Size,
) -> tuple[nn.Module, Tail] | None:
    """(trunk, tail) of an extractor, cut as far behind its input as ``parameters`` and the levels allow.

    The cut is at the last tensor before the first use of ``parameters`` from which alone everything behind it, and
    every level, is computed. The network is run once on a symbol instead of images, which records what calls what. Both
    halves call the extractor's own modules; they are compared with it on images of noise before they are returned.

    Args:
        extractor: the extractor, in evaluation mode.
        run: runs images through ``sources`` as the extractor does, without looking at the images' shape.
        sources: level name → the module whose first output becomes the level.
        taps: level name → how the level is made of that output; in the order of the features.
        blocks: modules between which a cut may lie; nothing inside them is recorded but levels.
        parameters: the parameters that will be trained.
        size: (height, width) of the input.

    Returns:
        None where there is no such tensor before ``parameters``, or the network cannot be recorded.
    """
    whole = _Whole(extractor, run, taps.values())
    recorder = _Recorder(sources, dict(zip(taps, whole.readers, strict=True)), blocks)
    try:
        nodes = list(recorder.trace(whole).nodes)[:-1]  # the last is what run gives
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NameError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None  # it ran on images before, so it does what a symbol does not allow: it looks at values or shapes
    levels = [recorder.read[name] for name in taps if name in recorder.read]
    if len(levels) < len(taps):
        return None
    place = _place(nodes, levels, _first_use(nodes, whole, parameters))
    if place is None:
        return None
    trunk, rest = (GraphModule(whole, half).eval() for half in _halves(nodes, levels, place))
    tail = Tail(rest, taps).eval()
    worthwhile = next(trunk.parameters(), None) is not None  # else it does no more than normalize
    return (trunk, tail) if worthwhile and _same(extractor, trunk, tail, size) else None


class _Whole(nn.Module):
    """A network, with one module per level that reads it."""

    def __init__(self, network: nn.Module, run: Callable[[Any], object], taps: Iterable[Tap]) -> None:
        super().__init__()
        self.network, self.run = network, run
        self.readers = nn.ModuleList(_Reader(tap) for tap in taps)

    def forward(self, images: Any) -> object:
        return self.run(images)


class _Reader(nn.Module):
    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self.tap = tap

    def forward(self, output: Tensor) -> Tensor:
        return self.tap.read(output)


class _Recorder(Tracer):
    """Records calls of modules, and looks only into those that contain blocks or levels."""

    def __init__(
        self, sources: Mapping[str, nn.Module], readers: Mapping[str, nn.Module], blocks: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.read: dict[str, Node] = {}
        self._sources, self._readers = sources, readers
        self._wanted = {id(module) for module in (*blocks, *sources.values())}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(id(module) in self._wanted for module in m.modules() if module is not m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        for name, module in self._sources.items():
            if module is m and name not in self.read:  # at once: a later module may write into the output
                self.read[name] = self._readers[name](output).node
        return output


def _first_use(nodes: Sequence[Node], whole: nn.Module, parameters: Sequence[nn.Parameter]) -> int:
    """The place of the first node that uses any of ``parameters``, or the one behind all where none does."""
    wanted = {id(parameter) for parameter in parameters}
    using = {name for name, parameter in whole.named_parameters(remove_duplicate=False) if id(parameter) in wanted}
    for place, node in enumerate(nodes):
        if node.op == "get_attr" and node.target in using:
            return place
        if node.op == "call_module" and any(name.startswith(f"{node.target}.") for name in using):
            return place
    return len(nodes)


def _place(nodes: Sequence[Node], levels: Sequence[Node], first: int) -> int | None:
    """Where to cut: the last node before ``first`` that no later node, and no level, reaches back over."""
    places = {node: place for place, node in enumerate(nodes)}
    moving: dict[Node, int] = {}  # node that depends on the images → the first such node that it is made of
    for node in nodes:
        inputs = [places[given] for given in node.all_input_nodes if given in moving]
        if node.op == "placeholder" or inputs:
            moving[node] = min(inputs, default=0)
    reach = min(places[level] for level in levels)
    for place in range(max(places[level] for level in levels), -1, -1):
        if nodes[place] in moving:
            if place < first and place <= reach:
                return place
            reach = min(reach, moving[nodes[place]])
    return None


def _halves(nodes: Sequence[Node], levels: Sequence[Node], place: int) -> tuple[Graph, Graph]:
    """The graph up to ``nodes[place]``, and the graph from there to the last level."""
    trunk, tail = Graph(), Graph()
    copied: dict[Node, Node] = {}
    for node in nodes[: place + 1]:
        copied[node] = trunk.node_copy(node, copied.__getitem__)
    trunk.output(copied[nodes[place]])
    known = {nodes[place]: tail.placeholder("given")}
    for node in nodes[: max(nodes.index(level) for level in levels) + 1]:
        of_known = node.op != "placeholder" and all(given in known for given in node.all_input_nodes)
        if of_known and node not in known:  # also what stands before the cut and does not depend on images
            known[node] = tail.node_copy(node, known.__getitem__)
    tail.output(tuple(known[level] for level in levels))
    return trunk, tail


def _same(extractor: nn.Module, trunk: nn.Module, tail: Tail, size: Size) -> bool:
    """Whether the halves give the extractor's features, also where images change their order behind the trunk."""
    order = [2, 0, 1]
    with torch.inference_mode(False), torch.no_grad():  # inference tensors do not count what is written to them
        noise = torch.rand(len(order), 3, *size, generator=torch.Generator().manual_seed(0))
        noise = noise.to(next(extractor.parameters()).device)
        given = trunk(noise)
        if not isinstance(given, Tensor) or given.shape[:1] != (len(order),):
            return False
        given = given[order]
        version = given._version
        found, expected = tail(given), extractor(noise[order])
        tail.overwrites = given._version != version
    return all(
        found[name].shape == level.shape and bool(torch.dist(found[name], level) <= SAME * level.norm())
        for name, level in expected.items()
    )
