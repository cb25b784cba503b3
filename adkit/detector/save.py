"""Saving a fitted detector as ``manifest.json`` and safetensors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import adkit
from adkit.detector.manifest import (
    FOLDER,
    SCHEMA,
    ComponentEntry,
    ExtractorEntry,
    FileEntry,
    Manifest,
    MemberEntry,
    Preprocessing,
    ThresholdEntry,
    write_manifest,
)
from adkit.detector.tensors import entry_of, write_tensors
from adkit.inference.assemble import Assembled
from adkit.inference.pipeline import Embedding, ScoringPath
from adkit.plugin.guard import blaming
from adkit.recipe.reader import Choice, Recipe
from adkit.threshold import Groups, Threshold
from adkit.utils.environment import versions

FloatArray = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Fitted:
    """A detector that was fitted on the images of one category."""

    category: str
    embeddings: tuple[Embedding, ...]
    path: ScoringPath
    calibration: FloatArray
    """(m,) raw scores of held-out normal images that thresholds and p-values come from."""
    groups: Groups | None
    """(m,) equal numbers for images of one group; None: each is of a group of its own."""
    threshold: Threshold | None
    pixel_threshold: Threshold | None


def detector_folders(run: Path, categories: Iterable[str]) -> dict[str, Path]:
    """Map each category to the folder of its detector in a run: a folder of its own where there are several."""
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
    """Write a detector into ``folder``, which is created.

    Args:
        beside: folder of a detector of the same run, whose extractors' files are shared where they are the same and the
            file system allows it.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        PluginError: the extractor or scorer does not give its state.
    """
    recipe = parts.recipe
    folder.mkdir(parents=True)
    files: dict[str, FileEntry] = {}
    extractors = []
    shared = beside if fitted.embeddings is parts.embeddings else None
    for index, embedding in enumerate(fitted.embeddings):
        choice = recipe.extractors[embedding.index]
        name = _file_name("extractor", index, len(fitted.embeddings))
        if shared is None:
            with blaming(embedding.who):
                state = embedding.extractor.state_dict()
            files[name] = write_tensors(state, folder / name)
        else:
            _share(shared / name, folder / name)
            files[name] = entry_of(folder / name)
        levels, kept = dict(embedding.extractor.levels), embedding.transform.kept
        extends = None if recipe.adapter is None else _entry(recipe.adapter)
        extractors.append(
            ExtractorEntry(component=_entry(choice), adapter=extends, file=name, levels=levels, kept_channels=kept)
        )
    members = []
    for index, member in enumerate(fitted.path.members):
        name = _file_name("scorer", index, len(fitted.path.members))
        files[name] = write_tensors(member.scorer.state_dict(), folder / name)
        members.append(MemberEntry(extractor=member.embedding, file=name, scale=member.scale))
    manifest = Manifest(
        schema_version=SCHEMA,
        adkit=adkit.__version__,
        category=fitted.category,
        versions=versions(),
        extractors=tuple(extractors),
        scorer=_entry(recipe.scorer),
        scorer_levels=recipe.scorer_table.levels,
        localizer=_entry(recipe.localizer),
        preprocessing=Preprocessing(resize=parts.view.resize, image_size=parts.view.image_size, crop=parts.view.crop),
        features=recipe.features,
        precision=parts.context.precision,
        seed=parts.context.seed,
        members=tuple(members),
        fuse=fitted.path.fuse,
        calibration=tuple(fitted.calibration.tolist()),
        calibration_groups=None if fitted.groups is None else tuple(fitted.groups.tolist()),
        threshold=_threshold_entry(fitted.threshold, recipe),
        pixel_threshold=_threshold_entry(fitted.pixel_threshold, recipe),
        files=files,
    )
    write_manifest(manifest, folder)


def _file_name(what: str, index: int, count: int) -> str:
    return f"{what}.safetensors" if count == 1 else f"{what}-{index}.safetensors"


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


def _threshold_entry(threshold: Threshold | None, recipe: Recipe) -> ThresholdEntry | None:
    if threshold is None:
        return None
    return ThresholdEntry(
        value=threshold.value,
        method=recipe.threshold.method,
        per=recipe.threshold.per,
        asked=threshold.asked,
        supported=threshold.supported,
    )
