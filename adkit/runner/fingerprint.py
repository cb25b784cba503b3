"""What a run's result depends on: an interrupted run goes on only where all of it is as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from pydantic import RootModel

from adkit.data.files import images_under
from adkit.data.samples import Category, Dataset, Sample
from adkit.inference.assemble import Assembled
from adkit.inference.identity import code_of, weights_of
from adkit.inference.runtimes import installed
from adkit.recipe.reader import resolved
from adkit.utils.environment import versions
from adkit.utils.escapes import printable
from adkit.utils.text import some

SCHEMA: Final = "adkit.fingerprint/5"
SUBJECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "recipe.": "the recipe",
        "versions.": "versions",
        "machine.": "the machine",
        "ranges.": "the range of raw values",
    }
)
"""The beginning of keys whose values are said where they differ → what they are of."""


class Fingerprint(RootModel[dict[str, Any]]):
    """One flat map of all that scores depend on; two runs of equal maps give equal scores.

    Its keys are ``schema``, ``recipe.scorer.k`` (defaults spelled out), ``versions.torch``, ``code.adkit_plugins``
    (digest of the source of a package or module that brings a component), ``machine.device``,
    ``files.data/x.png`` (bytes and time of the last change in nanoseconds of an image, mask or array; null: there
    is no file), ``weights.0`` (digest of an extractor's tensors) and ``splits.tile`` (digest of which image of a
    category is in which split, with which label, mask and group) and, with ``data.range``, ``ranges.tile``.
    """

    @classmethod
    def of(cls, parts: Assembled, dataset: Dataset) -> Self:
        """The fingerprint of a run; every file is asked for its size and time, none is read."""
        splits = {category.name: _splits(category) for category in dataset.categories}
        if parts.auxiliary:
            splits["[auxiliary]"] = {"auxiliary": parts.auxiliary}
        samples = (sample for of_one in splits.values() for split in of_one.values() for sample in split)
        recipe = resolved(parts.recipe)
        del recipe["run"]["output"]  # where the result lies, which another working directory may call otherwise
        del recipe["log"]  # on which no score depends
        components = [choice.registered for _, choice in parts.recipe.choices]
        origins = [component.origin for component in components]
        tables = {
            "schema": SCHEMA,
            "recipe": recipe,
            "versions": versions() | {origin.distribution: origin.version for origin in origins},
            "code": dict(item for component in components for item in code_of(component)),
            "machine": {
                "device": parts.context.device,
                "precision": parts.context.precision,
                "runtimes": (
                    [str(embedding.runtime) for embedding in parts.embeddings]
                    if parts.recipe.adapter is None
                    else installed(parts.wanted)
                ),
            },
            "files": {printable(path): _stat(path) for path in dict.fromkeys(_paths(samples))},
            "weights": {
                str(number): weights_of(embedding.extractor) for number, embedding in enumerate(parts.embeddings)
            },
            "splits": {name: _digest(of_one) for name, of_one in splits.items()},
            "ranges": {one.name: list(one.range) for one in dataset.categories if one.range is not None},
        }
        return cls(dict(_flat(tables)))

    def differences(self, now: Fingerprint) -> list[str]:
        """What is no longer as it was, a clause each; none where all is."""
        schema = self.root.get("schema", "none")
        if schema != SCHEMA:
            return [f"another version of adkit began it (its fingerprint has schema {schema}, expected {SCHEMA})"]
        # The ellipsis stands for a key that is not there: no value of TOML or JSON is one.
        pairs = {key: (self.root.get(key, ...), now.root.get(key, ...)) for key in {**self.root, **now.root}}

        def changed(part: str) -> list[tuple[str, Any, Any]]:
            own = {key.removeprefix(part): pair for key, pair in pairs.items() if key.startswith(part)}
            return [(name, before, after) for name, (before, after) in own.items() if before != after]

        found: list[str] = []
        for part, subject in SUBJECTS.items():
            shown = [f"{name} was {_said(before)} and is {_said(after)}" for name, before, after in changed(part)]
            found += [f"{subject} changed: {some(shown, 3)}"] * bool(shown)
        if rewritten := [name for name, *_ in changed("code.")]:
            found.append(f"the code of {some(rewritten, 3)} changed")
        files: dict[str, list[str]] = {"changed": [], "left the data": [], "joined the data": []}
        for name, before, after in changed("files."):
            files["joined the data" if before is ... else "left the data" if after is ... else "changed"].append(name)
        for verb, names in files.items():
            found += [f"{len(names):,} image{'s' * (len(names) > 1)} {verb} ({some(names, 3)})"] * bool(names)
        if changed("weights."):
            found.append("the extractor's weights changed")
        moved = sorted(name for name, *_ in changed("splits."))
        if moved and not found:  # labels and splits of the same files
            found.append(f"splits, labels, masks or groups changed in {some(moved, 3)}")
        return found


def _said(value: Any) -> str:
    return "absent" if value is ... else f"{value!r:.60}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _splits(category: Category) -> dict[str, Sequence[Sample]]:
    folds = {f"fold {number}": fold for number, fold in enumerate(category.folds)}
    return {"train": category.train, "calibration": category.calibration, "test": category.test, **folds}


def _digest(splits: Mapping[str, Sequence[Sample]]) -> str:
    digest = hashlib.sha256()
    for split, samples in splits.items():
        for sample in samples:
            mask = "" if sample.mask is None else printable(sample.mask)
            group = "" if sample.group is None else sample.group
            digest.update("\0".join((split, sample.id, str(sample.label), sample.kind, mask, group, "\n")).encode())
    return digest.hexdigest()


def _paths(samples: Iterable[Sample]) -> Iterator[Path]:
    for sample in samples:
        yield sample.source if isinstance(sample.source, Path) else sample.source.path
        if sample.mask is not None:
            yield from images_under(sample.mask) if sample.mask.is_dir() else (sample.mask,)


def _stat(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:  # the loader names it
        return None
    return [found.st_size, found.st_mtime_ns]
