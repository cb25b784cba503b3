"""Tensors that are costly to make, kept between runs as safetensors, which carries no code."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import platformdirs
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adkit.utils.atomic import sync, whole_file

VARIABLE = "ADKIT_CACHE"
"""The environment variable that names another folder for the cache."""

logger = logging.getLogger("adkit")


def cache_folder() -> Path:
    """The folder where adkit keeps what can be computed again; it may be removed at any time."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("adkit"))


def cached(kind: str, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors that ``make`` gives, on the CPU; read from the cache where they are there and intact.

    A damaged file and a folder that cannot be written cause a warning; neither ends a run.

    Args:
        kind: what the tensors are, which is the name of their folder.
        key: digest of everything that the tensors depend on.
        make: computes the tensors where the cache does not have them.
    """
    path = cache_folder() / kind / f"{key}.safetensors"
    found = _read(path)
    if found is None:
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        try:
            with whole_file(path) as draft:  # whoever else writes the same
                draft.write_bytes(safetensors.torch.save(found, {"sha256": _digest(found)}))
                sync(draft)
        except OSError as error:
            logger.warning(
                "%s: the %s could not be kept there (%s) and will be computed again: set %s to a folder that can be "
                "written",
                path.parent,
                kind,
                error.strerror or error,
                VARIABLE,
            )
    return found


def add_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Let ``digest`` depend on a tensor: its name, dtype, shape and values."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        add_tensor(digest, name, tensors[name])
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    if not os.path.isfile(path):  # which, unlike a Path, never raises
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("sha256")
            # Copied from the mapped file, which may go away while the tensors are in use.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        reason = None if _digest(found) == stated else "its digest is another"
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error)
    if reason is None:
        return found
    logger.warning("%s: damaged (%s): computed again", path, reason)
    return None
