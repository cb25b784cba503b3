"""What the base classes of the five kinds have in common: parameters, context, and members that are spelled right.

Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
from abc import ABC
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from adkit.plugin.context import Context
    from adkit.plugin.params import Params

P = TypeVar("P", bound="Params", default=Any)

NEAR: Final = 0.85
"""The likeness, from 0 to 1, from which a name is taken for a misspelt member; ``difflib`` measures it."""


class Contract(ABC, Generic[P]):
    """The base of the five base classes; a subclass has the members of its kind, and others of its own.

    Raises:
        TypeError: a subclass has a public member whose name is nearly that of an optional one, which would be ignored.
    """

    kind: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    """The members that every component of the kind has of its own."""

    def __init__(self, params: P, context: Context) -> None:
        """Keep the parameters and the context as ``self.params`` and ``self.context``."""
        super().__init__()
        self.params = params
        self.context = context

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base = base_of(cls)
        if base is not None and base is not cls:
            for fault in misspelt(vars(cls), base):
                raise TypeError(f"{cls.__name__}: {fault}")


def base_of(cls: type) -> type[Contract] | None:
    """The base class of a kind that ``cls`` is or inherits from; None for a class of another descent."""
    return next((one for one in cls.__mro__ if "required" in vars(one) and issubclass(one, Contract)), None)


def optional_members(base: type[Contract]) -> tuple[str, ...]:
    """The members of a kind that a component need not have, in the order of its base class."""
    return tuple(
        name for name in vars(base) if not name.startswith("_") and name not in (*base.required, "kind", "required")
    )


def misspelt(names: Iterable[str], base: type[Contract]) -> Iterator[str]:
    """A sentence for each public name that is nearly, but not quite, that of an optional member of a kind."""
    members = optional_members(base)
    for name in names:
        if name.startswith("_") or name in members or name in base.required:
            continue
        near = next((one for one in members if _abridged(name, one) or _abridged(one, name)), None)
        near = near or next(iter(difflib.get_close_matches(name, members, n=1, cutoff=NEAR)), None)
        if near:
            yield (
                f"{name} is no member of {base.__name__} (did you mean {near}?): spell it so, or let the name of a "
                "member of your own begin with _"
            )


def _abridged(short: str, name: str) -> bool:
    """Whether ``short`` is two or more of the words that ``name`` begins or ends with, as ``load_state`` for one."""
    return "_" in short and (name.startswith(f"{short}_") or name.endswith(f"_{short}"))


def missing(component: object, base: type[Contract]) -> list[str]:
    """The members that every component of a kind has and that a class or an instance lacks, each with a near match."""
    found = []
    own = [name for name in dir(component) if not name.startswith("_")]
    for name in base.required:
        there = getattr(component, name, None)
        if there is None or getattr(there, "__isabstractmethod__", False):
            near = difflib.get_close_matches(name, [one for one in own if one not in base.required], n=1, cutoff=0.7)
            found.append(f"{name} (it has {near[0]})" if near else name)
    return found


def has_own(component: object, base: type[Contract], name: str) -> bool:
    """Whether a component brings an optional method itself, rather than the default of its base class."""
    there = getattr(type(component), name, None)
    return there is not None and there is not getattr(base, name)


def member(component: object, base: type[Contract], name: str) -> Any:
    """A member of a component, or the default of its base class where the component does not inherit and has none."""
    if hasattr(component, name):
        return getattr(component, name)
    default = getattr(base, name)
    return default.__get__(component) if callable(default) else default
