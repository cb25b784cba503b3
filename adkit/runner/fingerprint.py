"""What a run's result depends on: an interrupted run goes on only where all of it is as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from adkit.data.files import images_under, printable
from adkit.data.samples import Category, Dataset, Sample
from adkit.inference.assemble import Assembled
from adkit.inference.pipeline import Embedding
from adkit.recipe.reader import Recipe, resolved
from adkit.utils.environment import versions
from adkit.utils.text import some


class Fingerprint(BaseModel):
    """Two runs of equal fingerprints give equal scores."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any]
    """Dotted key → value, defaults spelled out."""
    versions: dict[str, str]
    machine: dict[str, str]
    splits: dict[str, str]
    """Category → digest of which image is in which split, with which label and mask; auxiliary ones likewise."""
    weights: list[str]
    """Digest of each extractor's tensors."""
    files: dict[str, tuple[int, int] | None]
    """Images, masks and arrays → (bytes, time of the last change in nanoseconds); None where there is no file."""

    @classmethod
    def of(cls, parts: Assembled, dataset: Dataset) -> Self:
        """Take it; every file is asked for its size and time, none is read."""
        recipe, context, auxiliary = parts.recipe, parts.context, parts.auxiliary
        splits = {category.name: _splits(category) for category in dataset.categories}
        if auxiliary:
            splits["[auxiliary]"] = {"auxiliary": auxiliary}
        samples = (sample for of_one in splits.values() for split in of_one.values() for sample in split)
        tables = resolved(recipe)
        del tables["run"]["output"]  # where the result lies, which another working directory may call otherwise
        own = cls(
            recipe=dict(_flat(tables)),
            versions=versions() | dict(_plugins(recipe)),
            machine={"device": context.device, "precision": context.precision},
            splits={name: _digest(of_one) for name, of_one in splits.items()},
            weights=[_weights(embedding) for embedding in parts.embeddings],
            files={printable(path): _stat(path) for path in dict.fromkeys(_paths(samples))},
        )
        return cls.model_validate_json(own.model_dump_json())  # as it will be read: tuples are lists in JSON

    def differences(self, now: Fingerprint) -> list[str]:
        """What is no longer as it was, a clause each; none where all is."""
        found = [
            *_changed("the recipe", self.recipe, now.recipe),
            *_changed("versions", self.versions, now.versions),
            *_changed("the machine", self.machine, now.machine),
        ]
        gone = [path for path in self.files if path not in now.files]
        new = [path for path in now.files if path not in self.files]
        changed = [path for path, stat in self.files.items() if path in now.files and now.files[path] != stat]
        for paths, verb in ((changed, "changed"), (gone, "left the data"), (new, "joined the data")):
            if paths:
                found.append(f"{len(paths):,} image{'s' * (len(paths) > 1)} {verb} ({some(paths, 3)})")
        if self.weights != now.weights:
            found.append("the extractor's weights changed")
        if not found:  # labels and splits of the same files
            moved = sorted({name for name, _ in self.splits.items() ^ now.splits.items()})
            found += [f"splits, labels or masks changed in {some(moved, 3)}"] * bool(moved)
        return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _changed(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def value(values: Mapping[str, Any], key: str) -> str:
        return f"{values[key]!r:.60}" if key in values else "absent"

    keys = [key for key in {**before, **now} if key not in before or key not in now or before[key] != now[key]]
    shown = [f"{key} was {value(before, key)} and is {value(now, key)}" for key in keys]
    return [f"{what} changed: {some(shown, 3)}"] if shown else []


def _plugins(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for _, choice in recipe.choices:
        yield choice.registered.origin.distribution, choice.registered.origin.version


def _splits(category: Category) -> dict[str, Sequence[Sample]]:
    folds = {f"fold {number}": fold for number, fold in enumerate(category.folds)}
    return {"train": category.train, "calibration": category.calibration, "test": category.test, **folds}


def _digest(splits: Mapping[str, Sequence[Sample]]) -> str:
    digest = hashlib.sha256()
    for split, samples in splits.items():
        for sample in samples:
            mask = "" if sample.mask is None else printable(sample.mask)
            digest.update("\0".join((split, sample.id, str(sample.label), sample.kind, mask, "\n")).encode())
    return digest.hexdigest()


def _paths(samples: Iterable[Sample]) -> Iterator[Path]:
    for sample in samples:
        yield sample.source if isinstance(sample.source, Path) else sample.source.path
        if sample.mask is not None:
            yield from images_under(sample.mask) if sample.mask.is_dir() else (sample.mask,)


def _weights(embedding: Embedding) -> str:
    digest = hashlib.sha256()
    extractor = embedding.extractor
    for name, tensor in extractor.state_dict().items() if isinstance(extractor, nn.Module) else ():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # the loader names it
        return None
    return found.st_size, found.st_mtime_ns
