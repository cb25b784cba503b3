"""Extractors with further levels, which an adapter's own head computes from the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.plugin.types import Features, Level


class ExtendedExtractor(Extractor):
    """The levels of an extractor as they are, and after them those of a head that reads them.

    The head is computed in float32 whatever the precision: it is small, and losses take logarithms of its levels. It
    reads the extractor's own levels; what ``[features]`` makes of them comes after it. A head without levels serves
    training alone: it is never called here, and ``for_inference`` leaves it out.
    """

    inner: Extractor

    def __init__(self, inner: Extractor, head: nn.Module, added: Mapping[str, Level], block: str) -> None:
        """
        Args:
            inner: an ``nn.Module``; it is not copied.
            head: called with the features of ``inner``, gives a tensor (n, h, w, c) for each level of ``added``.
            added: what the head gives, by names that ``inner`` does not use; empty for one that serves training alone.
            block: what the head is called among the extractor's blocks.
        """
        nn.Module.__init__(self)  # it is made of another extractor, not of parameters
        clash = sorted(inner.levels.keys() & added.keys())
        if clash:
            raise ValueError(f"added: expected levels of new names, found {', '.join(clash)}")
        self.inner, self.head = inner, head
        self._added, self._block = dict(added), block
        self.eval().requires_grad_(False)

    @property
    def levels(self) -> Mapping[str, Level]:
        return {**self.inner.levels, **self._added}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = self.inner(images)
        return _with_head(found, self.head, self.levels) if self._added else dict(found)

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The blocks of the extractor, and after them the head."""
        return {**member(self.inner, Extractor, "blocks")(), self._block: list(self.head.parameters())}

    def classify(self, images: Tensor) -> Tensor | None:
        found: Tensor | None = member(self.inner, Extractor, "classify")(images)
        return found

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """Cut the extractor below ``parameters``, where it can be cut; the head belongs to the tail."""
        heads = {id(parameter) for parameter in self.head.parameters()}
        halves = member(self.inner, Extractor, "split")(
            [parameter for parameter in parameters if id(parameter) not in heads]
        )
        if halves is None or not self._added:
            return cast("tuple[nn.Module, nn.Module] | None", halves)
        return halves[0], _HeadedTail(halves[1], self.head, self.levels)

    def for_inference(self) -> Extractor:
        return self._over(member(self.inner, Extractor, "for_inference")())

    def for_export(self) -> Extractor:
        return self._over(member(self.inner, Extractor, "for_export")())

    def _over(self, inner: Extractor) -> Extractor:
        """Make a copy of the head over ``inner``, or over a copy of the extractor where ``inner`` is the same one."""
        inner = copy.deepcopy(inner) if inner is self.inner else inner
        if not self._added:
            return inner
        return ExtendedExtractor(inner, copy.deepcopy(self.head), self._added, self._block)


class _HeadedTail(nn.Module):
    """The tail of an extractor, and a head that reads the levels that it gives."""

    def __init__(self, tail: nn.Module, head: nn.Module, levels: Mapping[str, Level]) -> None:
        super().__init__()
        self.tail, self.head = tail, head
        self._levels = levels
        self.eval()

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        return _with_head(self.tail(given), self.head, self._levels)


def _with_head(found: Mapping[str, Tensor], head: nn.Module, levels: Mapping[str, Level]) -> dict[str, Tensor]:
    """Return the levels ``found``, and after them those of ``levels`` that the head computes from them."""
    kind = next(iter(found.values())).device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        plain = {name: level.float() for name, level in found.items()}
        made = head(Features(plain, {name: levels[name].geometry for name in plain}))
    return {**found, **{name: made[name] for name in levels if name not in found}}
