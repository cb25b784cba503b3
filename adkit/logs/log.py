"""What each log can be told: the contract of the loggers beside this file."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from adkit.errors import UserError
from adkit.utils.environment import DISTRIBUTION

if TYPE_CHECKING:
    from ignite.handlers.base_logger import BaseLogger
    from PIL import Image

Parameter = str | int | float | bool
"""A value of a recipe as logs take it; lists are written as TOML writes them."""


class Log(ABC):
    """A log of one run, open from the moment it is made; each call may raise whatever the library raises."""

    key: ClassVar[str]
    """The key of ``[log]`` that asks for it."""
    every: ClassVar[int] = 1
    """The minibatches from one loss that is logged to the next."""
    logger: BaseLogger
    """Ignite's logger, whose handlers are attached to the engines of trainings."""

    def first_step(self) -> int:
        """The step that stands for minibatch 0 of the training that begins."""
        return 0

    def handler(self, tag: str, step: Callable[[], int], **what: Any) -> Callable[..., None]:
        """Make Ignite's handler that logs an engine's output or metrics under ``tag``; ``what`` are its arguments."""
        handlers = importlib.import_module(f"ignite.handlers.{self.key}_logger")
        made: Callable[..., None] = handlers.OutputHandler(tag, global_step_transform=lambda *_: step(), **what)
        return made

    @abstractmethod
    def parameters(self, values: Mapping[str, Parameter]) -> None:
        """Log the recipe, by dotted keys."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers, by tags."""

    @abstractmethod
    def image(self, tag: str, picture: Image.Image) -> None:
        """Log an image of mode RGB."""

    def means(self, values: Mapping[str, float]) -> None:
        """Log the means over categories, by which runs are compared."""
        self.scalars({f"mean/{name}": value for name, value in values.items()}, 0)

    @abstractmethod
    def close(self, *, whole: bool) -> None:
        """Write what is not written yet; ``whole``: the run has ended well."""


def require_package(key: str) -> None:
    """Raise UserError where the package of a log, whose name is that of its key and of its extra, is missing."""
    if importlib.util.find_spec(key) is None:
        raise UserError(f"log.{key}: expected the package {key}, found none: pip install '{DISTRIBUTION}[{key}]'")


@contextmanager
def scoped(environ: Any, values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that have no value yet, and remove them at the end."""
    absent = [name for name in values if name not in environ]
    environ.update({name: values[name] for name in absent})
    try:
        yield
    finally:
        for name in absent:
            environ.pop(name, None)
