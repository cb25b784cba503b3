"""Loading a detector from ``manifest.json`` and safetensors, without recipe or data and without trusting the files."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import numpy as np
from torch import Tensor

from adkit.data.view import View
from adkit.detector.fitted import FittedDetector
from adkit.detector.limits import check_files, check_image, no_larger_than
from adkit.detector.manifest import (
    FOLDER,
    MANIFEST,
    REMEDY,
    ComponentEntry,
    ExtractorEntry,
    Manifest,
    one_line,
    read_manifest,
    refusal,
)
from adkit.detector.tensors import check_alike, read_tensors
from adkit.errors import UserError, exhausted, out_of_memory
from adkit.inference.assemble import build, inference_extractor, new_scorer, who
from adkit.inference.device import resolve_device
from adkit.inference.pipeline import Embedding, Fused, Member, Pipeline, embed, fused
from adkit.inference.runtimes import TORCH, probe_images, usable
from adkit.plugin.component import Kind
from adkit.plugin.context import Context
from adkit.plugin.guard import blaming
from adkit.plugin.localizer import Localizer
from adkit.plugin.registry import Registry, discover, normalized
from adkit.plugin.types import Level
from adkit.recipe.problems import check
from adkit.recipe.reader import Choice
from adkit.toolkit.features import FeatureTransform

logger = logging.getLogger("adkit")

ALIKE: Final = {"float32": 1e-3, "bfloat16": 0.03, "float16": 0.01}
"""Precision → the share of its size by which the score of the probe image may differ from that where it was made."""


def find_detector(path: Path) -> Path:
    """Find the folder of the one detector at ``path``: the folder itself, or one inside a run's folder.

    Raises:
        UserError: there is no detector, or there are several.
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


def load_detector(path: Path, device: str, registry: Registry | None = None) -> FittedDetector:
    """Load a detector.

    Args:
        path: the folder of the detector, or that of a run with one detector.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        registry: the components to choose from; default: those of the installed plugins.

    Raises:
        UserError: something about the files or the installed plugins keeps the detector from being what was saved.
    """
    folder = find_detector(path)
    file = folder / MANIFEST
    manifest = read_manifest(file)
    check_image(file, manifest.preprocessing.image_size)
    check_files(folder, (entry.bytes for entry in manifest.files.values()))
    tensors = {name: read_tensors(folder, name, entry) for name, entry in manifest.files.items()}
    registry = discover() if registry is None else registry
    extracts = [_choice(entry.component, "extractor", registry, file) for entry in manifest.extractors]
    adapters = [
        None if entry.adapter is None else _choice(entry.adapter, "adapter", registry, file)
        for entry in manifest.extractors
    ]
    scores = _choice(manifest.scorer, "scorer", registry, file)
    localizes = _choice(manifest.localizer, "localizer", registry, file)
    view = View(**manifest.preprocessing.model_dump())
    context = _context(manifest, view, device)

    embeddings = tuple(
        _embedding(choice, adapts, entry, tensors.pop(entry.file), context, manifest, file)
        for choice, adapts, entry in zip(extracts, adapters, manifest.extractors, strict=True)
    )
    members = []
    for member in manifest.members:
        with _refusing(folder / member.file, scores, manifest.scorer):
            scorer = new_scorer(scores, manifest.scorer_levels, context)
            scorer.load_state_dict(tensors.pop(member.file))
        members.append(Member(embeddings[member.extractor], scorer, member.scale))
    with _refusing(file, localizes, manifest.localizer):
        localizer = cast(Localizer, build(localizes, context))
    pipeline = Pipeline(members, localizer, manifest.fuse)
    features = embed(pipeline.embeddings, probe_images(view.size)[:1])
    probed, localized = [], []
    for entry, one, place in zip(manifest.members, members, pipeline.places, strict=True):
        with _refusing(folder / entry.file, scores, manifest.scorer):  # a state of other features' shapes shows here
            alone = pipeline.with_members([one])
            found = alone.score([features[place]])
            if found.localizes:
                alone.localize(found, view.size)
            probed.append(found.members[0].image)
            localized.append(found.localizes)
    score = fused(probed, [member.scale for member in members], manifest.fuse)
    _compare_with_origin(file, manifest, embeddings, Fused(score, ()).first)
    groups = manifest.calibration_groups
    return FittedDetector(
        category=manifest.category,
        view=view,
        pipeline=pipeline,
        precision=manifest.precision,
        calibration=np.array(manifest.calibration, np.float32),
        groups=None if groups is None else np.array(groups, np.int64),
        threshold=manifest.threshold,
        pixel_threshold=manifest.pixel_threshold,
        localizes=all(localized),
        probe=manifest.probe,
    )


def _embedding(
    choice: Choice,
    adapts: Choice | None,
    entry: ExtractorEntry,
    tensors: Mapping[str, Tensor],
    context: Context,
    manifest: Manifest,
    file: Path,
) -> Embedding:
    path = file.parent / entry.file
    size = sum(tensor.nbytes for tensor in tensors.values())
    with _refusing(file, choice, entry.component), no_larger_than(size):
        extractor = inference_extractor(choice, adapts, context)
        with blaming(who(choice)):
            own = extractor.state_dict()
    check_alike(tensors, own, path)
    with _refusing(path, choice, entry.component), blaming(who(choice)):
        extractor.load_state_dict(tensors)
    with _refusing(file, choice, entry.component):
        _check_levels(extractor.levels, entry.levels)
        transform = FeatureTransform(
            manifest.features, extractor.levels, context.generator("features"), entry.kept_channels
        )
    runtime = TORCH if entry.runtime is None else usable(entry.runtime.name, context)
    return Embedding(extractor, transform, context, who(choice), wanted=runtime)


def _compare_with_origin(file: Path, manifest: Manifest, embeddings: Sequence[Embedding], probe: float | None) -> None:
    """Warn where the extractors are computed by something else, or otherwise, than where the detector was made.

    Args:
        probe: the score of the probe image here.
    """
    if manifest.probe is None or probe is None:
        return
    there = [str(entry.runtime) for entry in manifest.extractors]
    here = [str(embedding.runtime) for embedding in embeddings]
    if math.isclose(probe, manifest.probe, rel_tol=ALIKE[manifest.precision]) and (
        [name.split()[0] for name in there] == [name.split()[0] for name in here]
    ):
        return
    logger.warning(
        "%s: features were made by %s there and are by %s here; the score of a probe image was %.6g and is %.6g; "
        "those of other images may differ by more",
        file,
        ", ".join(dict.fromkeys(there)),
        ", ".join(dict.fromkeys(here)),
        manifest.probe,
        probe,
    )


def _choice(entry: ComponentEntry, kind: Kind, registry: Registry, file: Path) -> Choice:
    saved = f"{kind} {entry.name} of {entry.distribution} {entry.version}"
    named = [r for r in registry.found(kind) if r.component.name == entry.name]
    found = [r for r in named if normalized(r.origin.distribution) == normalized(entry.distribution)]
    if len(found) != 1:
        failures = [f for f in registry.failures if normalized(f.origin.distribution) == normalized(entry.distribution)]
        broken = [str(failure) for failure in failures]
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
    return Choice(found[0].use, params, found[0])


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
def _refusing(file: Path, choice: Choice, entry: ComponentEntry) -> Iterator[None]:
    """Turn whatever a component raises about the contents of ``file`` into an error that names the file."""
    try:
        yield
    except Exception as error:
        if exhausted(error):  # the files may be as they were saved
            raise out_of_memory(who(choice), error) from error
        same = choice.registered.origin.version == entry.version
        reason = one_line((str(error) or type(error).__name__).partition("\n")[0])
        raise UserError(
            f"{file}: expected what {who(choice)} can be rebuilt from, found: {reason}; "
            f"{REMEDY if same else _install(entry)}"
        ) from error


def _install(entry: ComponentEntry) -> str:
    return f"pip install {entry.distribution}=={entry.version}"
