"""fixed: train for the whole length that ``[training]`` gives, and keep the last state."""

from __future__ import annotations

from typing import Any

from adkit.plugin import Component, Look, Params, Stopper, Verdict, hookimpl


class FixedParams(Params):
    pass


class Fixed(Stopper[FixedParams]):
    """A stopper that never stops early and keeps no state, so that the run goes on with the last one."""

    def check(self, look: Look) -> Verdict:
        return Verdict(keep=False, stop=False, reason="trained for a fixed length, the last state counts")


@hookimpl
def adkit_stoppers() -> list[Component[Any]]:
    return [Component.stopper("fixed", FixedParams, Fixed)]
