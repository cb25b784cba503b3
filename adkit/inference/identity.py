"""What features depend on beside the images: the code and the weights of components, as digests."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adkit.inference.pipeline import Embedding
from adkit.plugin.registry import Registered
from adkit.toolkit.cache import add_tensor


def code_of(component: Registered) -> Iterator[tuple[str, str]]:
    """The packages or modules that a component is written in, each with a digest of its source files.

    A version does not tell: a plugin that is being written keeps its own.
    """
    for module in (component.origin.module, getattr(component.component.build, "__module__", "")):
        parts = module.partition(":")[0].split(".")
        names = (".".join(parts[: number + 1]) for number in range(len(parts)))
        # A namespace package has no file, and belongs to several distributions.
        home = next((name for name in names if getattr(sys.modules.get(name), "__file__", None)), None)
        if home is not None:
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


def weights_of(embedding: Embedding) -> str:
    """A digest of the tensors of an extractor: parameters, buffers of any kind, and tensors and arrays beside them."""
    digest = hashlib.sha256()
    extractor = embedding.extractor
    for name, module in extractor.named_modules() if isinstance(extractor, nn.Module) else ():
        held = {**module._parameters, **module._buffers, **vars(module)}
        for key, value in sorted(held.items()):
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                value = torch.from_numpy(np.ascontiguousarray(value))
            if isinstance(value, Tensor):
                add_tensor(digest, f"{name}.{key}", value)
    return digest.hexdigest()
