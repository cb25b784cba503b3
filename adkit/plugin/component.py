"""What a hook returns a list of, and the five kinds that there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from adkit.plugin.extractor import Extractor
from adkit.plugin.localizer import Localizer
from adkit.plugin.params import Params
from adkit.plugin.scorer import Scorer

if TYPE_CHECKING:
    from adkit.plugin.context import Context

Kind = Literal["extractor", "adapter", "scorer", "localizer", "stopper"]
KINDS: tuple[Kind, ...] = ("extractor", "adapter", "scorer", "localizer", "stopper")


@runtime_checkable
class Exportable(Protocol):
    """What an extractor, scorer or localizer may offer beside, where it is more than torch operations on tensors."""

    def for_export(self) -> Extractor | Scorer | Localizer:
        """One of the same kind that gives the same up to rounding; this one is left as it is.

        It is run once, on the CPU and in float32, while ``torch.export`` or ``torch.jit.trace`` records the torch
        operations. So it uses no others (faiss, NumPy), and which ones it uses depends neither on the values of tensors
        nor on how many images there are.

        Raises:
            adkit.errors.UserError: there is none for these parameters.
        """
        ...


P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Component(Generic[P]):
    """What a hook returns a list of: a named choice for one of the five questions."""

    name: str
    kind: Kind
    params: type[P]
    build: Callable[[P, Context], Any]
    """Makes a fresh instance; called once a use, so it must keep nothing between calls."""
