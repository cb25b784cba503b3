"""Changes back, and names, what a plugin changed for all others as it was loaded."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Final

from adkit.utils.text import some


@dataclass(frozen=True)
class _Setting:
    """A state that everything in the process shares."""

    name: str
    read: Callable[[], Any]
    """What it is now: a mapping of the states of its parts, or one state."""
    write: Callable[[Any], object]
    library: bool = False
    """Whether the import of a library may change it, as many do; that is then no fault of the plugin."""


def _write_environment(before: Mapping[str, str]) -> None:
    for name in _differing(before, dict(os.environ)):
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


_SIGNALS: Final = {number.name: number for number in signal.valid_signals() if isinstance(number, signal.Signals)}


def _handlers() -> dict[str, Any]:
    return {name: signal.getsignal(number) for name, number in _SIGNALS.items()}


def _write_handlers(before: Mapping[str, Any]) -> None:
    for name in _differing(before, _handlers()):
        signal.signal(_SIGNALS[name], before[name])


# scikit-learn sets KMP_DUPLICATE_LIB_OK, OpenCV LD_LIBRARY_PATH, timm TORCHINDUCTOR_CACHE_DIR; rich draws from random.
_ALWAYS: Final = (
    _Setting("os.environ", lambda: dict(os.environ), _write_environment, library=True),
    _Setting("the signal handlers", _handlers, _write_handlers),
    _Setting("the state of random", random.getstate, random.setstate, library=True),
)


def _of_numpy_random(numpy_random: Any) -> tuple[_Setting, ...]:
    def read() -> tuple[Any, ...] | None:
        state = numpy_random.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":  # no other one can be set by its state alone
            return None
        return state["state"]["key"].tobytes(), state["state"]["pos"], state["has_gauss"], state["gauss"]

    def write(before: tuple[Any, ...]) -> None:
        key, *rest = before
        numpy_random.set_state(("MT19937", memoryview(key).cast("I"), *rest))

    return (_Setting("the state of numpy.random", read, write, library=True),)


def _of_torch(torch: Any) -> tuple[_Setting, ...]:
    def device() -> Any:
        try:
            return torch.get_default_device()
        except Exception:  # noqa: BLE001  torch tries the device, which this machine may lack
            return None

    def write_device(before: Any) -> None:
        torch.set_default_device(None if before.type == "cpu" else before)  # None: each call costs nothing more

    cudnn = torch.backends.cudnn
    return (
        _Setting("torch's default device", device, write_device),
        _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
        _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        _Setting("torch's number of interop threads", torch.get_num_interop_threads, torch.set_num_interop_threads),
        _Setting(
            "torch's deterministic algorithms", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
        ),
        *(
            _Setting(f"torch.backends.cudnn.{flag}", partial(getattr, cudnn, flag), partial(setattr, cudnn, flag))
            for flag in ("deterministic", "benchmark")
        ),
        _Setting("the state of torch's generator", torch.get_rng_state, torch.set_rng_state, library=True),
    )


_BROUGHT: Final[Mapping[str, Callable[[Any], tuple[_Setting, ...]]]] = MappingProxyType(
    {"numpy.random": _of_numpy_random, "torch": _of_torch}
)
"""Module → the settings that it brings, which are read once it is imported; none of them is worth its import."""


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {**before, **now} if not _same(before.get(key), now.get(key)))


def _same(before: Any, now: Any) -> bool:
    return bool(before.equal(now) if hasattr(before, "equal") else before == now)  # tensors: equal


@contextmanager
def undoing(module: str) -> Iterator[list[str]]:
    """Change back what the loading of a plugin in the block changes for all others.

    That is: torch's default device and dtype, grad mode, numbers of threads and deterministic flags; the state of the
    generators of random, NumPy and torch; ``os.environ``; the signal handlers. Neither torch nor NumPy is imported for
    it: their settings are watched from the moment at which the plugin has imported them. What other packages do to
    ``os.environ`` and the generators as they are imported stays, and is no fault.

    Args:
        module: the plugin's; all modules of its top-level package are its own.

    Yields:
        The names of what was changed back, complete after the block.
    """
    watch = _Watch(module.partition(".")[0])
    sys.meta_path.insert(0, watch)
    try:
        yield watch.changed
    finally:
        sys.meta_path.remove(watch)
        watch.undo()


class _Watch(MetaPathFinder):
    """Compares the settings around all that a plugin does, less the first imports of other packages."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.changed: list[str] = []
        self.importing = 0  # how deep in imports of other packages
        self.before: dict[str, tuple[_Setting, Any]] = {}
        self.adopt(_ALWAYS)
        for name in _BROUGHT:
            if name in sys.modules:
                self.adopt(_BROUGHT[name](sys.modules[name]))

    def adopt(self, settings: Iterable[_Setting]) -> None:
        """Take these settings as they are now."""
        self.before |= {setting.name: (setting, setting.read()) for setting in settings}

    def undo(self) -> None:
        """Change back whatever is not as it was, and keep its name."""
        for name, (setting, before) in list(self.before.items()):
            now = setting.read()
            if _same(before, now):
                continue
            if isinstance(before, dict):
                name += f" ({some(_differing(before, now))})"
            try:
                setting.write(before)
            except Exception:  # noqa: BLE001  torch sets some things once, Python signal handlers in one thread
                name += " (which cannot be changed back)"
                self.adopt([setting])
            if name not in self.changed:
                self.changed.append(name)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find what another package is imported from, and have ``library`` called around the import."""
        own = name.partition(".")[0] == self.package
        if own or (self.importing and name not in _BROUGHT):
            return None
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Watch) and hasattr(finder, "find_spec")]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Around(spec.loader, self)
        return spec

    @contextmanager
    def library(self, name: str) -> Iterator[None]:
        """Let a block import another package: before it, the plugin's own changes are undone."""
        if not self.importing:
            self.undo()
        self.importing += 1
        try:
            yield
            if name in _BROUGHT:
                self.adopt(_BROUGHT[name](sys.modules[name]))
        finally:
            self.importing -= 1
            if not self.importing:
                self.adopt([setting for setting, _ in self.before.values() if setting.library])


class _Around(Loader):
    """Loads a module by its own loader, in ``_Watch.library``."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self.loader = loader
        self.watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # nobody shall see this one
        module.__loader__ = self.loader
        with self.watch.library(module.__name__):
            self.loader.exec_module(module)
