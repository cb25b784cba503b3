"""Checks what plugins return against the contract, and names the plugin in every fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adkit.errors import NotFittedError, PluginError, UserError
from adkit.plugin.types import Features, Level, Scores

DISK_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Error numbers of a full or failing disk, which a stream that stores features may meet while a plugin reads it."""


@contextmanager
def blaming(who: str) -> Iterator[None]:
    """Turn whatever a plugin raises into a PluginError that names it; a UserError, which the user can fix, passes.

    The errors of a full or failing disk are not the plugin's fault and pass, too.
    """
    try:
        yield
    except (UserError, PluginError):
        raise
    except OSError as error:
        if error.errno in DISK_FAILURES:
            raise
        raise PluginError(who, f"{type(error).__name__}: {error}") from error
    except NotFittedError as error:
        raise PluginError(who, str(error)) from error
    except (Exception, SystemExit) as error:
        raise PluginError(who, f"{type(error).__name__}: {error}") from error


def check_features(features: object, levels: Mapping[str, Level], images: int, who: str) -> Features:
    """Raise PluginError unless ``features`` match the levels that the extractor states."""
    if not isinstance(features, Features):
        raise PluginError(who, f"expected adkit.plugin.Features, found {type(features).__name__}")
    if list(features) != list(levels):
        raise PluginError(who, f"expected the levels {', '.join(levels)}, found {', '.join(features)}")
    for name, level in levels.items():
        expected = (images, *level.grid, level.channels)
        if tuple(features[name].shape) != expected:
            raise PluginError(who, f"level {name}: expected shape {expected}, found {tuple(features[name].shape)}")
        if features.geometry.get(name) != level.geometry:
            raise PluginError(who, f"level {name}: expected its geometry with it, found {features.geometry.get(name)}")
    return features


def check_scores(scores: object, images: int, who: str) -> Scores:
    """Raise PluginError unless ``scores`` hold one float32 per image, and maps with their geometry."""
    if not isinstance(scores, Scores):
        raise PluginError(who, f"expected adkit.plugin.Scores, found {type(scores).__name__}")
    _check_tensor(scores.image, (images,), "scores", who)
    for name, cells in scores.maps.items():
        shape = tuple(cells.shape) if isinstance(cells, Tensor) else ()
        _check_tensor(cells, (images, *shape[1:3]) if len(shape) >= 3 else (images, 0, 0), f"map {name!r}", who)
        if name not in scores.geometry:
            raise PluginError(who, f"map {name!r}: expected its geometry in Scores.geometry, found none")
    return scores


def check_map(drawn: object, images: int, size: tuple[int, int], who: str) -> Tensor:
    """Raise PluginError unless ``drawn`` holds one float32 map of ``size`` (height, width) per image."""
    checked: Tensor = _check_tensor(drawn, (images, *size), "map", who)
    return checked


def check_finite(values: Tensor, ids: Sequence[str], what: str, advice: str) -> None:
    """Refuse values that are NaN or infinite as soon as they appear: no later step could say where they came from.

    Args:
        values: (n, …), one row per image.
        ids: the images' names.
        what: the subject of the sentence, such as ``extractor: level 'layer1'``.
        advice: the end of the sentence: what to do.

    Raises:
        UserError: a value is not finite; the sentence names its image.
    """
    finite = torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else torch.isfinite(values)  # (n,)
    if not bool(finite.all()):
        image = ids[int((~finite).nonzero()[0])]
        raise UserError(f"{what} of image {image}: expected finite values, found NaN or infinity; {advice}")


def _check_tensor(values: object, shape: tuple[int, ...], what: str, who: str) -> Any:
    if not isinstance(values, Tensor):
        raise PluginError(who, f"{what}: expected a torch tensor, found {type(values).__name__}")
    if tuple(values.shape) != shape:
        raise PluginError(who, f"{what}: expected shape {shape}, found {tuple(values.shape)}")
    if values.dtype != torch.float32:
        raise PluginError(who, f"{what}: expected float32, found {str(values.dtype).removeprefix('torch.')}")
    return values
