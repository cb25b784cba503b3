"""What features depend on beside the images: the code and the weights of components, as digests."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from adkit.plugin.extractor import Extractor
from adkit.plugin.registry import Registered
from adkit.toolkit.cache import add_tensor

_TOLD_BY_VERSION: Final = ("torch", "timm")
"""Large packages whose code is that of their version."""


def code_of(component: Registered) -> Iterator[tuple[str, str]]:
    """The packages or modules that a component is written in, each with a digest of its source files.

    A version does not tell: a plugin that is being written keeps its own.
    """
    yield from _sources((component.origin.module, getattr(component.component.build, "__module__", "")))


def code_of_modules(network: object) -> Iterator[tuple[str, str]]:
    """The packages or modules that a network is written in, each with a digest of its source files.

    Those of torch and timm are not among them: their versions tell.
    """
    parts = network.modules() if isinstance(network, nn.Module) else (network,)
    yield from _sources(sorted({type(part).__module__ for part in parts}))


def _sources(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    found: set[str] = set()
    for module in modules:
        parts = module.partition(":")[0].split(".")
        names = (".".join(parts[: number + 1]) for number in range(len(parts)))
        # A namespace package has no file, and belongs to several distributions.
        home = next((name for name in names if getattr(sys.modules.get(name), "__file__", None)), None)
        if home is not None and home not in (*_TOLD_BY_VERSION, *found):
            found.add(home)
            yield home, source_of(home)


def source_of(home: str) -> str:
    """A digest of the source files of an imported package or module."""
    path = Path(str(sys.modules[home].__file__))
    folder = path.parent
    files = sorted(folder.rglob("*.py")) if hasattr(sys.modules[home], "__path__") else [path]
    digest = hashlib.sha256()
    for file in files:
        source = file.read_bytes() if file.is_file() else b""
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


def processor(device: str) -> str:
    """What computes on a device: another kind rounds otherwise."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def weights_of(extractor: Extractor) -> str:
    """A digest of the tensors of an extractor: parameters, buffers of any kind, and tensors and arrays beside them."""
    digest = hashlib.sha256()
    for name, module in extractor.named_modules() if isinstance(extractor, nn.Module) else ():
        held = {**module._parameters, **module._buffers, **vars(module)}
        for key, value in sorted(held.items()):
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                value = torch.from_numpy(np.ascontiguousarray(value))
            if isinstance(value, Tensor):
                add_tensor(digest, f"{name}.{key}", value)
    return digest.hexdigest()
