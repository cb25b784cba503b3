"""fixed: train for the whole length that ``[training]`` gives, and keep the last state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from adkit.plugin import Adapter, Batch, Component, Context, Features, Params, Progress, Verdict, hookimpl


class FixedParams(Params):
    pass


class Fixed:
    """A stopper that never stops early and keeps no state, so that the run goes on with the last one."""

    def __init__(self, params: FixedParams, context: Context) -> None:
        self.params = params
        self.context = context

    def check(
        self,
        progress: Progress,
        extractor: Callable[[Tensor], Features],
        adapter: Adapter,
        held_out: Iterable[Batch],
        generator: torch.Generator,
    ) -> Verdict:
        return Verdict(keep=False, stop=False, reason="trained for a fixed length, the last state counts")

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Do nothing: there is nothing to remember."""


@hookimpl
def adkit_stoppers() -> list[Component[Any]]:
    return [Component("fixed", "stopper", FixedParams, Fixed)]
