"""Errors that a user can fix, as sentences: where, what was expected, what was found, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_EXHAUSTED: Final = ("DefaultCPUAllocator", "CUDA out of memory", "MPS backend out of memory", "std::bad_alloc")
"""What allocators say; "not enough memory" alone may be what a plugin says of a memory bank."""


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


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, by whichever library it was raised, or was caused by one that does."""
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, PluginError):  # it quotes what the plugin said, which was judged when it was raised
        return False
    # torch raises RuntimeErrors, each device in its own words, and so does what C++ raises beneath other libraries.
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED):
        return True
    return error.__cause__ is not None and exhausted(error.__cause__)


def out_of_memory(what: str, error: BaseException) -> OutOfMemoryError:
    """Make the error that tells a user that memory ran out.

    Args:
        what: what was being done, as the subject of the sentence.
        error: the error for which ``exhausted`` holds.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    bytes_asked = re.search(r"allocate (\d+) bytes", str(error))
    asked = re.search(r"allocate ([\d.]+ [KMGTPE]iB)", str(error))
    more = f" for {int(bytes_asked[1]) / 1e9:,.1f} GB" if bytes_asked else f" for {asked[1]}" if asked else ""
    return OutOfMemoryError(
        f"{what}: expected enough memory, found too little{more}: lower data.batch_size, data.image_size or the number "
        "of levels, or end other programs"
    )
