"""What computes the features of an extractor that is not trained any more: torch, or a faster runtime.

A runtime is taken only if, in float32, it makes of a probe what torch makes of it. What it was given is kept between
runs under a digest of all that it depends on, so that the next run, and ``predict``, convert nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Final, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from adkit.errors import UserError, exhausted
from adkit.inference.conversion import CONVERSIONS, Files, LevelsOf, Run, RuntimeName, reason
from adkit.inference.device import autocast
from adkit.inference.identity import code_of_modules, processor, source_of, weights_of
from adkit.inference.kept import BROKEN, INDEX, RUNTIMES, cache_limit, folder_of, free_bytes, opened, put, shrink
from adkit.plugin.context import Context
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.utils.atomic import whole_file
from adkit.utils.environment import DISTRIBUTION, versions
from adkit.utils.escapes import harmless
from adkit.utils.text import did_you_mean, joined

AGREE: Final = 1e-4
"""The share of its norm by which a level of the probe may differ from torch's, in float32."""
ROUNDED: Final = 2.0
"""How many times as far from float32 as torch's a level of the probe may be in a lower precision."""
TOLD: Final = 200
"""Letters of an exporter's error that are told."""
VARIABLE: Final = "ADKIT_RUNTIME"
"""The environment variable that names the runtime which ``auto`` means."""
AUTO: Final[tuple[RuntimeName, ...]] = ("openvino", "onnx")
"""The runtimes that ``auto`` tries, in this order, before it takes torch."""

logger = logging.getLogger("adkit")


@dataclass(frozen=True)
class Wanted:
    """The runtimes to try; torch is taken where none of them agrees with it."""

    names: tuple[RuntimeName, ...] = ()
    required: bool = False
    """Whether it is an error that none agrees."""
    keep: bool = True
    """Whether conversions are kept for later processes."""


TORCH: Final = Wanted()


def meant(name: Literal["auto"] | RuntimeName) -> Literal["auto"] | RuntimeName:
    """The runtime that a recipe's ``[run] runtime`` names, or the environment where the recipe says ``auto``.

    Raises:
        UserError: the environment names none.
    """
    told = os.environ.get(VARIABLE) if name == "auto" else None
    if not told:
        return name
    if told not in get_args(RuntimeName):
        names = get_args(RuntimeName)
        raise UserError(f"{VARIABLE}: expected {joined(names, 'or')}, found {told!r}{did_you_mean(told, names)}")
    return cast(RuntimeName, told)


def wanted(name: Literal["auto"] | RuntimeName, context: Context) -> Wanted:
    """The runtimes that a recipe's ``[run] runtime`` means here.

    One that the environment names for ``auto`` and that cannot compute here is told, and torch taken.

    Raises:
        UserError: the runtime is not installed, or does not compute on the device or in the precision of ``context``.
    """
    told = meant(name)
    if told == "auto":
        return Wanted(tuple(one for one in AUTO if not _hindrances(one, context)))
    if told == "torch":
        return TORCH
    if hindrance := _hindrances(told, context):
        if name != "auto":
            raise UserError(f"run.runtime: {hindrance}")
        logger.warning("%s: %s; torch computes instead", VARIABLE, hindrance)
        return TORCH
    return Wanted((told,), required=name != "auto")


def usable(name: RuntimeName, context: Context) -> Wanted:
    """The runtime of that name, of a saved detector for one, where it can be had; else torch."""
    return TORCH if name == "torch" or _hindrances(name, context) else Wanted((name,))


def installed(wanted: Wanted) -> dict[str, str]:
    """The wanted runtimes with their versions."""
    return {name: version_of(CONVERSIONS[name].packages[0]) for name in wanted.names}


def version_of(package: str) -> str:
    """The version of an installed package, which may come in a distribution of another name (onnxruntime-gpu)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(package, ())
        return metadata.version(owners[0]) if owners else "unknown"


def _hindrances(name: RuntimeName, context: Context) -> str:
    """Why a runtime cannot compute here, as the end of a sentence; empty where it can."""
    conversion = CONVERSIONS[name]
    missing = [package for package in conversion.packages if util.find_spec(package) is None]
    device = torch.device(context.device).type
    if missing:
        return (
            f"expected the packages {', '.join(conversion.packages)} for {name}, found no {', '.join(missing)}: "
            f"pip install '{DISTRIBUTION}[{name}]'"
        )
    if device not in conversion.devices:
        return (
            f"expected one that computes on {device}, found {name}, which computes on "
            f"{joined(conversion.devices, 'and')}: use auto"
        )
    if context.precision not in conversion.precisions:
        return (
            f"expected one that computes in {context.precision}, found {name}, which computes in "
            f"{joined(conversion.precisions, 'and')}: change run.precision, or use auto"
        )
    return ""


def probe_images(size: tuple[int, int]) -> Tensor:
    """Make three images (3, 3, height, width) in [0, 1], the same everywhere: clouds of colors with a fine grain.

    They are not as many as those that networks are recorded with, and the last one has a black border and a white spot.
    """
    drawn = torch.Generator().manual_seed(0)
    clouds = interpolate(torch.rand(3, 3, 8, 8, generator=drawn), size, mode="bilinear")
    images = 0.75 * clouds + 0.25 * torch.rand(3, 3, *size, generator=drawn)
    rows, columns = (max(1, side // 8) for side in size)
    images[2, :, :rows], images[2, :, :, :columns] = 0, 0
    images[2, :, -2 * rows : -rows, -2 * columns : -columns] = 1
    return images


@dataclass(frozen=True)
class Runtime:
    """What computes the features of one extractor."""

    name: RuntimeName
    version: str
    extractor: Extractor
    context: Context
    run: Run | None = None
    """Computes the levels of images; None: torch does, with the extractor itself."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """Compute the levels of ``images`` (n, 3, H, W), which lie on the device."""
        if self.run is None:
            return cast(Mapping[str, Tensor], self.extractor(images))
        return dict(zip(self.extractor.levels, self.run(images), strict=True))


def choose(extractor: Extractor, context: Context, wanted: Wanted) -> Runtime:
    """Choose the first of the wanted runtimes that agrees with torch about a probe, else torch.

    Raises:
        UserError: none agrees, and one is required.
    """
    for name in wanted.names:
        keep = wanted.keep and CONVERSIONS[name].keeps and cache_limit() > 0
        found = _kept_or_converted(name, extractor, context) if keep else _converted(name, extractor, context)[0]
        if isinstance(found, Runtime):
            return found
        logger.info("runtime %s is not taken: %s", name, found)
        if wanted.required:
            raise UserError(
                f"run.runtime: expected features of {name} that agree with torch's, found: {found}; use auto or torch"
            )
    return Runtime("torch", metadata.version("torch"), extractor, context)


def _kept_or_converted(name: RuntimeName, extractor: Extractor, context: Context) -> Runtime | str:
    """The runtime of that name, or why it is not taken; what is found is kept for later processes.

    What was converted in an earlier one is probed again: a key may not know all that an extractor is made of. Of what
    was not taken then it is kept that it was not, if that had to do with the network alone.
    """
    path = folder_of(RUNTIMES) / f"{_key(name, extractor, context)}.zip"
    why_not, given = _kept(path)
    if why_not:
        return why_not
    if given is not None:
        found, _, _ = _converted(name, extractor, context, given)
        if isinstance(found, Runtime):
            return found
    found, files, lasting = _converted(name, extractor, context)
    if lasting:
        _keep(path, files, found if isinstance(found, str) else "")
    return found


def _kept(path: Path) -> tuple[str, Files | None]:
    """Why a runtime was not taken, if it was not, and what it was given; None where there is nothing to read."""
    if (found := opened(path)) is None:
        return "", None
    kept, index = found
    try:
        with kept:
            return index["reason"], {file: kept.read(file) for file in index["files"]}
    except BROKEN:  # a disk may fail at any time
        return "", None


def _converted(
    name: RuntimeName, extractor: Extractor, context: Context, files: Files | None = None
) -> tuple[Runtime | str, Files, bool]:
    """The runtime of that name, or why it is not taken; what it is given; and whether it would be the same again.

    Args:
        files: what the network was converted to before; default: it is converted now.
    """
    conversion = CONVERSIONS[name]
    try:
        # What cannot be recorded as it is, its author records otherwise.
        shown = member(extractor, Extractor, "for_export")() if conversion.keeps else extractor
        network = LevelsOf(shown, context.image_size)
        files = conversion.convert(network) if files is None else files
        return _opened(name, extractor, context, network, files), files, True
    except Exception as error:  # noqa: BLE001  # exporters raise nearly anything
        lasting = not (exhausted(error) or isinstance(error, OSError | ImportError))
        return harmless(reason(error)[:TOLD]), {}, lasting


def _opened(
    name: RuntimeName, extractor: Extractor, context: Context, network: LevelsOf, files: Files
) -> Runtime | str:
    """The runtime that computes by these files, or why its features are not torch's, as the end of a sentence."""
    by_torch = Runtime("torch", "", extractor, context)
    version, conversion = version_of(CONVERSIONS[name].packages[0]), CONVERSIONS[name]

    def computing(in_context: Context) -> Runtime:
        return Runtime(name, version, extractor, in_context, conversion.open(network, files, in_context.precision))

    exact = replace(context, precision="float32")
    expected = _probed(replace(by_torch, context=exact))
    found = computing(exact)
    deviation = _deviation(_probed(found), expected)
    if not deviation <= AGREE:  # nan is no agreement either
        return f"in float32 they differ by {deviation:.1e} of their size"
    if context.precision == "float32":
        return found
    found = computing(context)
    rounding, deviation = (_deviation(_probed(one), expected) for one in (by_torch, found))
    if not deviation <= ROUNDED * rounding:
        return f"in {context.precision} they differ by {deviation:.1e} of their size, and torch's by {rounding:.1e}"
    return found


def _probed(runtime: Runtime) -> list[Tensor]:
    probe = probe_images(runtime.context.image_size).to(runtime.context.device)
    with torch.inference_mode(), autocast(runtime.context):
        return [level.float() for level in runtime(probe).values()]


def _deviation(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of a level of an image, as a share of its norm."""
    shares = []
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        size = other.flatten(1).norm(dim=1)
        shares.append(((one - other).flatten(1).norm(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    return float(torch.stack(shares).max())  # nan where one is


def _key(name: RuntimeName, extractor: Extractor, context: Context) -> str:
    """The digest of what a conversion, and whether it agrees with torch, depend on, as far as can be told."""
    about = {
        "versions": versions() | {package: version_of(package) for package in CONVERSIONS[name].packages},
        "code": {"adkit": source_of("adkit"), **dict(code_of_modules(extractor))},
        "network": [repr(extractor), repr(dict(extractor.levels)), repr(getattr(extractor, "params", None))],
        "weights": weights_of(extractor),
        "context": [context.precision, *context.image_size],
        "processor": processor(context.device),
        "agree": [AGREE, ROUNDED],
    }
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(f"{name}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _keep(path: Path, files: Files, why_not: str) -> None:
    """Keep what was found for later processes; where that is not possible they find it anew."""
    size = sum(map(len, files.values()))
    if size > min(cache_limit() / 10, free_bytes(path.parent) / 4):
        return
    try:
        with whole_file(path) as draft, zipfile.ZipFile(draft, "w") as written:
            for name, contents in files.items():
                put(written, name, contents)
            put(written, INDEX, json.dumps({"files": list(files), "reason": why_not}))
        shrink(path)
    except OSError as error:
        logger.info("%s: what a runtime was given could not be kept (%s)", path, error.strerror or error)
