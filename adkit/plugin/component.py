"""Components, which hooks return lists of, and their five kinds.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal

from adkit.plugin.contract import Contract, P

if TYPE_CHECKING:
    from adkit.plugin.adapter import Adapter
    from adkit.plugin.context import Context
    from adkit.plugin.extractor import Extractor
    from adkit.plugin.localizer import Localizer
    from adkit.plugin.scorer import Scorer
    from adkit.plugin.stopper import Stopper

Kind = Literal["extractor", "adapter", "scorer", "localizer", "stopper"]
KINDS: tuple[Kind, ...] = ("extractor", "adapter", "scorer", "localizer", "stopper")


@dataclass(frozen=True)
class Component(Generic[P]):
    """A component of one of the five kinds: its name, its parameters, and the class that makes it.

    Make one by the function of its kind, ``Component.scorer("knn", KnnParams, Knn)``: a type checker then finds a class
    that lacks a member of its kind or takes other parameters. The class is called with ``(params, context)`` once per
    use and must keep nothing between calls. A class that inherits from no base class, or a function, works as well.
    """

    name: str
    kind: Kind
    params: type[P]
    build: Callable[[P, Context], Any]

    @staticmethod
    def extractor(name: str, params: type[P], build: type[Extractor[P]]) -> Component[P]:
        """An extractor for ``adkit_extractors``."""
        return Component(name, "extractor", params, build)

    @staticmethod
    def adapter(name: str, params: type[P], build: type[Adapter[P]]) -> Component[P]:
        """An adapter for ``adkit_adapters``."""
        return Component(name, "adapter", params, build)

    @staticmethod
    def scorer(name: str, params: type[P], build: type[Scorer[P]]) -> Component[P]:
        """A scorer for ``adkit_scorers``."""
        return Component(name, "scorer", params, build)

    @staticmethod
    def localizer(name: str, params: type[P], build: type[Localizer[P]]) -> Component[P]:
        """A localizer for ``adkit_localizers``."""
        return Component(name, "localizer", params, build)

    @staticmethod
    def stopper(name: str, params: type[P], build: type[Stopper[P]]) -> Component[P]:
        """A stopper for ``adkit_stoppers``."""
        return Component(name, "stopper", params, build)


def base_class(kind: Kind) -> type[Contract]:
    """The base class of a kind; that of extractors imports torch."""
    if kind == "extractor":
        from adkit.plugin.extractor import Extractor

        return Extractor
    if kind == "adapter":
        from adkit.plugin.adapter import Adapter

        return Adapter
    if kind == "scorer":
        from adkit.plugin.scorer import Scorer

        return Scorer
    if kind == "localizer":
        from adkit.plugin.localizer import Localizer

        return Localizer
    from adkit.plugin.stopper import Stopper

    return Stopper
