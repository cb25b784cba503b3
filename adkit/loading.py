"""``manifest.json`` and safetensors → a detector, without recipe, data or anybody's word that the files are right."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from adkit.assemble import build, inference_extractor, who
from adkit.blame import blaming
from adkit.context import Context
from adkit.contracts import Level, Localizer, Scorer
from adkit.data.view import View
from adkit.device import resolve_device
from adkit.errors import UserError
from adkit.features import FeatureTransform
from adkit.inference import Embedding, ScoringPath
from adkit.manifest import FOLDER, MANIFEST, REMEDY, ComponentEntry, Manifest, read_manifest, refusal
from adkit.plugins import Registry, discover
from adkit.problems import check
from adkit.recipe import Choice
from adkit.tensor_files import check_alike, read_tensors

logger = logging.getLogger("adkit")

Part = Literal["extractor", "scorer", "localizer"]


@dataclass(frozen=True)
class Loaded:
    """A saved detector, rebuilt."""

    manifest: Manifest
    view: View
    embedding: Embedding
    path: ScoringPath
    localizes: bool
    """Whether its scores come with maps."""


def find_detector(path: Path) -> Path:
    """The folder of the one detector at ``path``: itself, or inside of a run's folder.

    Raises:
        UserError: none there, or several.
    """
    for folder in (path, path / FOLDER):
        if (folder / MANIFEST).is_file():
            return folder
    several = sorted(file.parent for base in (path / FOLDER, path) for file in base.glob(f"*/{MANIFEST}"))
    if len(several) == 1:
        return several[0]
    if several:
        names = ", ".join(folder.name for folder in several[:5]) + ", …" * (len(several) > 5)
        raise UserError(
            f"{path}: expected one detector, found {len(several)} ({names}): name one of the folders in "
            f"{several[0].parent}"
        )
    raise refusal(
        path / MANIFEST, "the manifest of a detector", "no file", "name a run's folder or its detector folder"
    )


def load_detector(path: Path, device: str, registry: Registry | None = None) -> Loaded:
    """Rebuild a detector.

    Args:
        path: its folder, or that of a run with one detector.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        registry: the components to choose from; default: those of the installed plugins.

    Raises:
        UserError: anything about its files or the plugins here that keeps it from being what was saved.
    """
    folder = find_detector(path)
    file = folder / MANIFEST
    manifest = read_manifest(file)
    member = manifest.members[0]
    tensors = {name: read_tensors(folder, name, entry) for name, entry in manifest.files.items()}
    registry = discover() if registry is None else registry
    extracts, scores, localizes = (
        _choice(manifest, kind, registry, file) for kind in ("extractor", "scorer", "localizer")
    )
    view = View(**manifest.preprocessing.model_dump())
    context = _context(manifest, view, device)

    with _refusing(file, extracts, manifest):
        extractor = inference_extractor(extracts, context)
        with blaming(who(extracts)):
            own = cast(nn.Module, extractor).state_dict()
    check_alike(tensors[member.extractor], own, folder / member.extractor)
    with _refusing(folder / member.extractor, extracts, manifest), blaming(who(extracts)):
        cast(nn.Module, extractor).load_state_dict(tensors.pop(member.extractor))
    with _refusing(file, extracts, manifest):
        _check_levels(extractor.levels, manifest.levels)
        transform = FeatureTransform(
            manifest.features, extractor.levels, context.generator("features"), manifest.kept_channels
        )
    with _refusing(folder / member.scorer, scores, manifest):
        scorer = cast(Scorer, build(scores, context))
        with blaming(who(scores)):
            scorer.load_state_dict(tensors.pop(member.scorer))
    with _refusing(file, localizes, manifest):
        localizer = cast(Localizer, build(localizes, context))
    embedding = Embedding(extractor, transform, context, who(extracts))
    scoring = ScoringPath(scorer, localizer, who(scores), who(localizes))
    with _refusing(folder / member.scorer, scores, manifest):  # a state of another detector's shapes shows here
        tried = scoring.score(embedding(torch.zeros(1, 3, *view.size)))
        if tried.maps:
            scoring.localize(tried, view.size)
    return Loaded(manifest, view, embedding, scoring, bool(tried.maps))


def _choice(manifest: Manifest, kind: Part, registry: Registry, file: Path) -> Choice:
    entry = manifest.components[kind]
    saved = f"{kind} {entry.name} of {entry.distribution} {entry.version}"
    named = [r for r in registry.found(kind) if r.component.name == entry.name]
    found = [r for r in named if _plain(r.origin.distribution) == _plain(entry.distribution)]
    if len(found) != 1:
        broken = [str(f) for f in registry.failures if _plain(f.origin.distribution) == _plain(entry.distribution)]
        why = "; ".join(broken) or ("it is there twice" if found else "it is not installed")
        raise UserError(f"{file}: expected {saved}, found that {why}: {_install(entry)}")
    origin = found[0].origin
    params, faults = check(found[0].component.params, entry.params, entry.name)
    if params is None:
        fault = f"{'.'.join(map(str, faults[0].path)) or 'its parameters'}: {faults[0].sentence}"
        remedy = REMEDY if origin.version == entry.version else _install(entry)
        raise refusal(file, f"parameters of {saved}", f"what version {origin.version} refuses ({fault})", remedy)
    if origin.version != entry.version:
        logger.warning("%s: saved by %s, loaded by version %s", file, saved, origin.version)
    return Choice(entry.name, params, found[0])


def _context(manifest: Manifest, view: View, device: str) -> Context:
    try:
        device = resolve_device(device)
    except UserError as error:
        raise UserError(problem.removeprefix("run.") for problem in error.problems) from error
    precision = manifest.precision
    if precision == "float16" and device == "cpu":
        logger.warning("a detector of float16 computes in float32 on the CPU, which has no float16")
        precision = "float32"
    return Context(device, manifest.seed, precision, view.size, pretrained=False)


def _check_levels(found: Mapping[str, Level], stated: Mapping[str, Level]) -> None:
    if dict(found) != dict(stated) or list(found) != list(stated):
        raise ValueError(f"expected the levels {dict(stated)}, found {dict(found)}")


@contextmanager
def _refusing(file: Path, choice: Choice, manifest: Manifest) -> Iterator[None]:
    """Turn whatever a component raises over what is in ``file`` into a sentence that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        entry = manifest.component(choice.registered.component.kind)
        same = choice.registered.origin.version == entry.version
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise UserError(
            f"{file}: expected what {who(choice)} can be rebuilt from, found: {reason}; "
            f"{REMEDY if same else _install(entry)}"
        ) from error


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.lower())


def _install(entry: ComponentEntry) -> str:
    return f"pip install {entry.distribution}=={entry.version}"
