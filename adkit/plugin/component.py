"""Components, which hooks return lists of, and their five kinds."""

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
    """An extractor, scorer or localizer that has a version of itself for export.

    Only a component that does more than torch operations on tensors needs one.
    """

    def for_export(self) -> Extractor | Scorer | Localizer:
        """A component of the same kind that gives the same results up to rounding; this one is left unchanged.

        It is run once, on the CPU and in float32, while ``torch.export`` or ``torch.jit.trace`` records its torch
        operations. So it must use no others (faiss, NumPy), and which ones it uses must depend neither on the values of
        tensors nor on the number of images.

        Raises:
            adkit.errors.UserError: a component with these parameters cannot be exported.
        """
        ...


P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Component(Generic[P]):
    """A component of one of the five kinds: its name, its parameters, and the function that builds it."""

    name: str
    kind: Kind
    params: type[P]
    build: Callable[[P, Context], Any]
    """The function that makes a fresh instance; it is called once per use and must keep nothing between calls."""
