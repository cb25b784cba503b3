"""Errors that a user can fix, as sentences: where, what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Input that adkit refuses; commands print its sentences without a traceback and exit with status 2."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class OutOfMemoryError(UserError):
    """There was too little memory for what was asked, on the machine or its accelerator."""


class NotFittedError(RuntimeError):
    """A scorer was asked to score before it was fitted or loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: not fitted yet: call fit(stream) or load_state_dict(state) before score(features)")


class PluginError(RuntimeError):
    """A component broke its contract or failed inside; the message names it, its distribution and its version."""

    def __init__(self, who: str, what: str) -> None:
        super().__init__(f"{who}: {what}")
