"""Saving a fitted detector as ``manifest.json`` and safetensors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import adkit
from adkit.detector.fitted import FittedDetector
from adkit.detector.manifest import (
    FOLDER,
    SCHEMA,
    ComponentEntry,
    ExtractorEntry,
    FileEntry,
    Manifest,
    MemberEntry,
    Preprocessing,
    RuntimeEntry,
    write_manifest,
)
from adkit.detector.tensors import entry_of, write_tensors
from adkit.inference.assemble import Assembled
from adkit.plugin.guard import blaming
from adkit.recipe.reader import Choice
from adkit.utils.environment import versions


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


def save_detector(fitted: FittedDetector, parts: Assembled, folder: Path, beside: Path | None = None) -> None:
    """Write a detector into ``folder``, which is created.

    Args:
        parts: the components of the recipe that it was made by.
        beside: folder of a detector of the same run, whose extractors' files are shared where they are the same and the
            file system allows it.

    Raises:
        OSError: the disk is full or the folder cannot be written.
        PluginError: the extractor or scorer does not give its state.
    """
    recipe, pipeline = parts.recipe, fitted.pipeline
    folder.mkdir(parents=True)
    files: dict[str, FileEntry] = {}
    extractors = []
    shared = beside if pipeline.embeddings == parts.embeddings else None
    for index, embedding in enumerate(pipeline.embeddings):
        choice = recipe.extractors[embedding.index]
        name = _file_name("extractor", index, len(pipeline.embeddings))
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
            ExtractorEntry(
                component=_entry(choice),
                adapter=extends,
                file=name,
                levels=levels,
                runtime=RuntimeEntry(name=embedding.runtime.name, version=embedding.runtime.version),
                kept_channels=kept,
            )
        )
    members = []
    for index, (member, place) in enumerate(zip(pipeline.members, pipeline.places, strict=True)):
        name = _file_name("scorer", index, len(pipeline.members))
        files[name] = write_tensors(member.scorer.state_dict(), folder / name)
        members.append(MemberEntry(extractor=place, file=name, scale=member.scale))
    manifest = Manifest(
        schema_version=SCHEMA,
        adkit=adkit.__version__,
        category=fitted.category,
        versions=versions(),
        extractors=tuple(extractors),
        scorer=_entry(recipe.scorer),
        scorer_levels=recipe.scorer_table.levels,
        localizer=_entry(recipe.localizer),
        preprocessing=Preprocessing(**asdict(fitted.view)),
        features=recipe.features,
        precision=fitted.precision,
        seed=parts.context.seed,
        probe=fitted.probe,
        members=tuple(members),
        fuse=pipeline.fuse,
        calibration=tuple(fitted.calibration.tolist()),
        calibration_groups=None if fitted.groups is None else tuple(fitted.groups.tolist()),
        threshold=fitted.threshold,
        pixel_threshold=fitted.pixel_threshold,
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
        params=_without_places(choice.params.model_dump(mode="json", by_alias=True, exclude_none=True)),
    )


def _without_places(value: Any) -> Any:
    """Parameters with the names alone of files that they give by absolute paths: what was read there was saved, and
    where it lay on this machine is nobody's business."""
    match value:
        case str() if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name or value
        case dict():
            return {key: _without_places(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_places(inner) for inner in value]
    return value
