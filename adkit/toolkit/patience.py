"""What stoppers that keep the best state have in common: which state that is, and how long ago it was."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from adkit.errors import UserError
from adkit.plugin.stopper import Progress, Verdict
from adkit.utils.text import counted


class Patience:
    """Keeps every state that is better than all before it, and stops after a number of checks without a better one.

    The first state is kept whatever its value, so that a training that only does harm goes back to where it began.
    A subclass is a stopper once it has a ``check`` that computes the value and calls ``judge``.
    """

    def __init__(self, name: str, checks: int, lower_is_better: bool = False, min_delta: float = 0.0) -> None:
        """
        Args:
            name: name of the value, for the sentences of the verdicts.
            checks: number of checks without improvement after which to stop.
            lower_is_better: whether a lower value is the better one.
            min_delta: a value is better only if it improves on the best one by more than this.
        """
        self.name = name
        self.checks = checks
        self.min_delta = min_delta
        self._sign = -1.0 if lower_is_better else 1.0
        self._asked = False
        self._best = -inf
        """The best value so far times ``_sign``, so that more is better."""
        self._best_epochs = 0.0
        self._waited = 0

    def judge(self, progress: Progress, value: float | None, trouble: str = "") -> Verdict:
        """Judge a state by its value.

        Args:
            value: finite; None where there is none, which is worse than any.
            trouble: why there is none, as the beginning of a sentence.
        """
        merit = -inf if value is None else self._sign * value
        keep = not self._asked or merit > self._best + self.min_delta
        said = trouble if value is None else f"{self.name} {value:.4g}"
        reason = f"{said} {_when(progress.epochs)}"
        if keep:
            self._asked, self._best, self._best_epochs, self._waited = True, merit, progress.epochs, 0
            return Verdict(keep=True, stop=False, reason=f"{reason}, the best so far", value=value)
        self._waited += 1
        stop = self._waited >= self.checks
        best = "" if self._best == -inf else f" {self._sign * self._best:.4g}"
        reason = f"{reason}, best{best} {_when(self._best_epochs)}"
        if stop:
            reason += f", none better in {counted(self._waited, 'check')}"
        return Verdict(keep=False, stop=stop, reason=reason, value=value)

    def state_dict(self) -> dict[str, float]:
        """What the stopper remembers between checks; empty before the first one."""
        if not self._asked:
            return {}
        return {"best": self._best, "best_epochs": self._best_epochs, "waited": float(self._waited)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._asked = bool(state)
        self._best = state.get("best", -inf)
        self._best_epochs = state.get("best_epochs", 0.0)
        self._waited = int(state.get("waited", 0))


def none_held_out(name: str) -> UserError:
    """The error of a stopper for which no images were held out to judge by."""
    return UserError(
        f"stopper.validation: expected a share that leaves {name} at least 1 normal image, found none held out: "
        "raise it, or add normal images"
    )


def _when(epochs: float) -> str:
    return f"after epoch {round(epochs, 2):g}" if epochs else "before the first step"
