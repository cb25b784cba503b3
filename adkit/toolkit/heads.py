"""Extractors with further levels, which an adapter's own head computes from the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from adkit.plugin.component import Exportable
from adkit.plugin.extractor import Extractor, FoldableExtractor, SplittableExtractor
from adkit.plugin.types import Features, Level
from adkit.toolkit.blocks import adaptable


class ExtendedExtractor(nn.Module):
    """The levels of an extractor as they are, and after them those of a head that reads them.

    The head is computed in float32 whatever the precision: it is small, and losses take logarithms of its levels. It
    reads the extractor's own levels; what ``[features]`` makes of them comes after it.
    """

    inner: Extractor

    def __init__(self, inner: Extractor, head: nn.Module, added: Mapping[str, Level], block: str) -> None:
        """
        Args:
            inner: an ``nn.Module``; it is not copied.
            head: called with the features of ``inner``, gives a tensor (n, h, w, c) for each level of ``added``.
            added: what the head gives, by names that ``inner`` does not use.
            block: what the head is called among the extractor's blocks.
        """
        super().__init__()
        clash = sorted(inner.levels.keys() & added.keys())
        if clash:
            raise ValueError(f"added: expected levels of new names, found {', '.join(clash)}")
        self.inner, self.head = inner, head
        self._added, self._block = dict(added), block
        self.eval().requires_grad_(False)

    @property
    def levels(self) -> Mapping[str, Level]:
        return {**self.inner.levels, **self._added}

    def forward(self, images: Tensor) -> Features:
        return _with_head(self.inner(images), self.head, self._added)

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The blocks of the extractor, and after them the head."""
        return {**adaptable(self.inner).blocks(), self._block: list(self.head.parameters())}

    def classify(self, images: Tensor) -> Tensor:
        return adaptable(self.inner).classify(images)

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """Cut the extractor below ``parameters``, where it can be cut; the head belongs to the tail."""
        if not isinstance(self.inner, SplittableExtractor):
            return None
        heads = {id(parameter) for parameter in self.head.parameters()}
        halves = self.inner.split([parameter for parameter in parameters if id(parameter) not in heads])
        return None if halves is None else (halves[0], _HeadedTail(halves[1], self.head, self._added))

    def for_inference(self) -> ExtendedExtractor:
        inner = self.inner.for_inference() if isinstance(self.inner, FoldableExtractor) else None
        return self._over(inner)

    def for_export(self) -> ExtendedExtractor:
        inner = cast(Extractor, self.inner.for_export()) if isinstance(self.inner, Exportable) else None
        return self._over(inner)

    def _over(self, inner: Extractor | None) -> ExtendedExtractor:
        """Make a copy of the head over ``inner``, by default over a copy of the extractor."""
        inner = copy.deepcopy(self.inner) if inner is None else inner
        return ExtendedExtractor(inner, copy.deepcopy(self.head), self._added, self._block)


class _HeadedTail(nn.Module):
    """The tail of an extractor, and a head that reads the levels that it gives."""

    def __init__(self, tail: nn.Module, head: nn.Module, added: Mapping[str, Level]) -> None:
        super().__init__()
        self.tail, self.head = tail, head
        self._added = added
        self.eval()

    def forward(self, given: Tensor) -> Features:
        return _with_head(self.tail(given), self.head, self._added)


def _with_head(features: Features, head: nn.Module, added: Mapping[str, Level]) -> Features:
    """Return ``features``, and after them the levels ``added`` that the head computes from them."""
    kind = next(iter(features.values())).device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        plain = Features({name: level.float() for name, level in features.items()}, features.geometry)
        made = head(plain)
    geometry = {name: level.geometry for name, level in added.items()}
    return Features({**features.levels, **{name: made[name] for name in added}}, {**features.geometry, **geometry})
