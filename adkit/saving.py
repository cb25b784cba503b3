"""A fitted detector → ``manifest.json`` and safetensors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

import adkit
from adkit.assemble import Assembled, who
from adkit.blame import blaming
from adkit.contracts import Scorer
from adkit.errors import PluginError
from adkit.manifest import (
    FOLDER,
    SCHEMA,
    ComponentEntry,
    Manifest,
    Member,
    Preprocessing,
    ThresholdEntry,
    write_manifest,
)
from adkit.recipe import Choice
from adkit.tensor_files import entry_of, write_tensors
from adkit.threshold import Threshold

EXTRACTOR_FILE: Final = "extractor.safetensors"
SCORER_FILE: Final = "scorer.safetensors"

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Fitted:
    """What one category's pictures have made of a recipe."""

    category: str
    scorer: Scorer
    calibration: FloatArray
    """(m,) raw scores of the held-out normal pictures."""
    threshold: Threshold | None


def detector_folders(run: Path, categories: Iterable[str]) -> dict[str, Path]:
    """Category → where a run keeps its detector: a folder of its own where there are several."""
    categories = list(categories)
    if len(categories) == 1:
        return {categories[0]: run / FOLDER}
    folders: dict[str, Path] = {}
    taken: set[str] = set()
    for category in categories:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", category).strip(".")[:100] or "category"
        name, number = plain, 1
        while name.lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        folders[category] = run / FOLDER / name
    return folders


def save_detector(fitted: Fitted, parts: Assembled, folder: Path, beside: Path | None = None) -> None:
    """Write a detector into ``folder``, which is made.

    Args:
        beside: folder of a detector of the same run, whose extractor's file is shared where the file system can.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        PluginError: the extractor or scorer does not give its state.
    """
    recipe = parts.recipe
    folder.mkdir(parents=True)
    if beside is None:
        extractor = parts.embedding.extractor
        with blaming(who(recipe.extractor)):
            if not isinstance(extractor, nn.Module):
                raise PluginError(who(recipe.extractor), f"expected an nn.Module, found {type(extractor).__name__}")
            state = extractor.state_dict()
        extractor_entry = write_tensors(state, folder / EXTRACTOR_FILE)
    else:
        _share(beside / EXTRACTOR_FILE, folder / EXTRACTOR_FILE)
        extractor_entry = entry_of(folder / EXTRACTOR_FILE)
    with blaming(who(recipe.scorer)):
        fitted_state = fitted.scorer.state_dict()
    scorer_entry = write_tensors(fitted_state, folder / SCORER_FILE)
    scores = fitted.calibration
    scale = float(np.median(scores)) if len(scores) else None
    manifest = Manifest(
        schema_version=SCHEMA,
        adkit=adkit.__version__,
        category=fitted.category,
        components={
            "extractor": _entry(recipe.extractor),
            "scorer": _entry(recipe.scorer),
            "localizer": _entry(recipe.localizer),
        },
        preprocessing=Preprocessing(resize=parts.view.resize, image_size=parts.view.image_size, crop=parts.view.crop),
        features=recipe.features,
        kept_channels=parts.embedding.transform.kept,
        precision=parts.context.precision,
        seed=parts.context.seed,
        levels=dict(parts.embedding.extractor.levels),
        members=(Member(extractor=EXTRACTOR_FILE, scorer=SCORER_FILE, scale=scale),),
        fuse="mean",
        calibration=tuple(scores.tolist()),
        threshold=_threshold_entry(fitted.threshold),
        files={EXTRACTOR_FILE: extractor_entry, SCORER_FILE: scorer_entry},
    )
    write_manifest(manifest, folder)


def _share(there: Path, here: Path) -> None:
    try:
        os.link(there, here)
    except OSError:  # file systems without hard links
        shutil.copyfile(there, here)


def _entry(choice: Choice) -> ComponentEntry:
    origin = choice.registered.origin
    return ComponentEntry(
        name=choice.name,
        distribution=origin.distribution,
        version=origin.version,
        params=choice.params.model_dump(mode="json", by_alias=True, exclude_none=True),
    )


def _threshold_entry(threshold: Threshold | None) -> ThresholdEntry | None:
    if threshold is None:
        return None
    return ThresholdEntry(value=threshold.value, asked=threshold.asked, supported=threshold.supported)
