"""Writes a detector's whole path as one file that other runtimes read, and checks it against the detector."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adkit.detector.fitted import FittedDetector
from adkit.detector.load import find_detector, load_detector
from adkit.errors import UserError
from adkit.export.formats import Format, format_named
from adkit.export.graph import INPUT, Graph
from adkit.export.parity import Parity, Run, parity
from adkit.inference.conversion import reason
from adkit.utils.atomic import whole_folder
from adkit.utils.environment import versions
from adkit.utils.text import counted, is_text

LIMIT: Final = 1e-3
"""The relative deviation from the detector above which nothing is exported."""
SCHEMA: Final = "adkit.export/3"
STATEMENT: Final = "model.json"
PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel")
"""The photographs to compare on by default; images of these names are in scikit-image's package."""


@dataclass(frozen=True)
class Export:
    """The files that an export wrote, and how closely they agree with the detector."""

    file: Path
    statement: Path
    parity: Parity
    """The deviation from the detector computing in float32, as the file does."""
    precision: str
    """The precision that the detector itself computes in."""
    precision_parity: Parity | None
    """The deviation from the detector computing in its own precision; None where that is float32."""


def export(
    detector: str | Path,
    format: str,
    output: str | Path | None = None,
    images: Sequence[Path] = (),
    device: str = "auto",
) -> Export:
    """Write a detector as a file for another runtime, with ``model.json``, which says how to use the file.

    Args:
        detector: the folder of a detector, or that of a run with one detector.
        format: ``onnx``, ``openvino`` or ``torchscript``.
        output: the folder to write, whose earlier export is replaced; default: ``export/<format>`` in the detector's.
        images: the images on which scores and maps are compared; default: photographs that come with scikit-image.
        device: the device on which the detector computes for the comparison; the file itself runs on the CPU.

    Raises:
        UserError: there is no detector, a package is missing, a component cannot be exported, or scores or maps
            deviate by more than ``LIMIT``; nothing is left behind.
    """
    wanted = format_named(format)
    images = tuple(images) or _photographs()
    folder = Path(output) if output is not None else find_detector(Path(detector)) / "export" / format
    _check_free(folder)
    own = load_detector(Path(detector), device)
    exact = _in_float32(own)
    on_cpu = own.pipeline.embeddings[0].context.device == "cpu"
    graph = Graph(exact if on_cpu else load_detector(Path(detector), "cpu"))
    with _written(folder) as partial:
        file = partial / wanted.file
        _write(wanted, graph, file)
        run = _opened(wanted, file)
        found = parity(run, exact, images)
        if not found.largest <= LIMIT:  # nan is no parity either
            raise UserError(
                f"{detector}: expected a file of format {format} whose scores and maps deviate by at most {LIMIT:g} of "
                f"their size, found {_shown(found)}: use another format, or another scorer if none does better"
            )
        precision = own.pipeline.embeddings[0].context.precision
        rounding = None if precision == "float32" else parity(run, own, images)
        del run  # some systems let no open file be renamed
        statement = _statement(own, graph, wanted, sorted(path.name for path in partial.iterdir()), found, rounding)
        (partial / STATEMENT).write_text(json.dumps(statement, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return Export(folder / wanted.file, folder / STATEMENT, found, precision, rounding)


def summary(done: Export) -> str:
    """Lines for people to read: what was written, and how closely it agrees with the detector."""
    size = sum(path.stat().st_size for path in done.file.parent.iterdir() if path.name != STATEMENT)
    batches = " and ".join(map(str, done.parity.batch_sizes))
    return (
        f"{done.file} ({size / 1e6:.1f} MB) and {done.statement.name}\n"
        f"largest relative deviation from the detector: {_shown(done.parity)} "
        f"({counted(done.parity.images, 'image')}, in batches of {batches})"
    )


def warning(done: Export) -> str | None:
    """A warning that the detector's threshold is of another precision than the file; None where it is not."""
    if done.precision_parity is None:
        return None
    return (
        f"the detector, to which the threshold belongs, computes in {done.precision} and the file in float32: they "
        f'differ by {_shown(done.precision_parity)}; a recipe with [run] precision = "float32" makes them equal'
    )


def _shown(found: Parity) -> str:
    return f"score {found.score:.1e}" + ("" if found.map is None else f", map {found.map:.1e}")


def _in_float32(own: FittedDetector) -> FittedDetector:
    exact = {embedding: embedding.by_torch("float32") for embedding in own.pipeline.embeddings}
    members = [replace(member, embedding=exact[member.embedding]) for member in own.pipeline.members]
    return replace(own, pipeline=own.pipeline.with_members(members))


def _write(wanted: Format, graph: Graph, file: Path) -> None:
    try:
        wanted.write(graph, file)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # exporters raise nearly anything
        if "Constraints violated" in str(error):
            raise UserError(
                f"format {wanted.name}: expected components that take any number of images, found one that counts "
                "or walks over them, which cannot be exported: choose another scorer, extractor or localizer"
            ) from error
        raise UserError(
            f"format {wanted.name}: expected a path that it can hold, found: {reason(error)}; choose another format"
        ) from error


def _opened(wanted: Format, file: Path) -> Run:
    run = wanted.open(file)

    def explained(images: NDArray[np.float32]) -> Sequence[NDArray[np.floating[Any]]]:
        try:
            return run(images)
        except Exception as error:  # runtimes raise nearly anything
            raise UserError(
                f"format {wanted.name}: expected a file that takes {counted(len(images), 'image')} at once, found: "
                f"{reason(error)}; choose another format"
            ) from error

    return explained


def _statement(
    own: FittedDetector, graph: Graph, wanted: Format, files: list[str], found: Parity, rounding: Parity | None
) -> dict[str, Any]:
    height, width = graph.size
    shapes = {"score": ["n"], "map": ["n", height, width]}
    return {
        "schema": SCHEMA,
        "format": wanted.name,
        "files": files,
        "runtime": wanted.runtime,
        "category": own.category,
        "input": {"name": INPUT, "shape": ["n", 3, height, width], "dtype": "float32", "values": "RGB in [0, 1]"},
        "outputs": [{"name": name, "shape": shapes[name], "dtype": "float32"} for name in graph.outputs],
        "preprocessing": asdict(own.view) | {"steps": list(_steps(own))},
        "threshold": _value(own.threshold),
        "pixel_threshold": _value(own.pixel_threshold),
        "threshold_per": None if own.threshold is None else own.threshold.per,
        "calibration": own.calibration.tolist(),
        "calibration_groups": None if own.groups is None else own.groups.tolist(),
        "precision": {"detector": own.precision, "file": "float32"},
        "parity": asdict(found),
        "precision_parity": None if rounding is None else asdict(rounding),
        "versions": versions() | {package: metadata.version(package) for package in wanted.packages},
    }


def _steps(own: FittedDetector) -> Iterator[str]:
    """How an image becomes the input, step by step, in words that suffice to do it elsewhere."""
    view = own.view
    if view.range is None:
        gray = "divide 16-bit gray values by 257"
    else:
        low, high = map(repr, view.range)
        gray = (
            f"bring gray values v of more than 8 bits to 0 to 255 as 255 · (v - {low}) / ({high} - {low}), clipped, "
            "and leave those of 8 bits"
        )
    yield (
        f"decode: apply the EXIF orientation, take the first frame, lay transparent pixels over white, {gray}, convert "
        "to RGB (gray counts three times)"
    )
    size, crop, shrink = view.image_size, view.crop, "bilinear with antialiasing, as Pillow's Image.resize"
    if view.resize == "squash":
        yield f"resize both sides to {size} ({shrink})"
    elif view.resize == "short_side":
        yield f"scale so that the shorter side becomes {size}, the longer one a fraction of pixels ({shrink})"
    else:
        yield f"scale so that the longer side becomes {size}, each side a whole number of pixels, rounded ({shrink})"
        yield (
            f"center it on a square of {size} pixels, an odd pixel to the right or below, filled with the mean color "
            "of the resized image, each channel rounded to a whole number of 255"
        )
    if crop != size or view.resize == "short_side":
        yield f"cut the central {crop} × {crop} pixels, in one resampling with the step before, at fractions of pixels"
    yield "divide by 255; channels first"


def _value(threshold: Any) -> float | None:
    return None if threshold is None else float(threshold.value)


def _photographs() -> tuple[Path, ...]:
    """The photographs of scikit-image that need no download."""
    found = importlib.util.find_spec("skimage")
    places = [] if found is None else list(found.submodule_search_locations or ())
    paths = [Path(place, "data", f"{name}.png") for place in places for name in PHOTOGRAPHS]
    there = tuple(path for path in paths if path.is_file())
    if not there:
        raise UserError("--images: expected images to compare on, found none in scikit-image either: name some")
    return there


def _check_free(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier export, or whose path other runtimes could not be given."""
    if not is_text(str(folder)):
        raise UserError(
            f"{folder}: expected a path in UTF-8, as other runtimes take, found one that is not: choose another "
            "--output"
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / STATEMENT).is_file():
        raise UserError(
            f"{folder}: expected a new folder or one with an earlier export in it, found something else: "
            "choose another --output"
        )


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes ``folder`` when the block ends well and else is gone."""
    try:
        with whole_folder(folder, replace=True) as partial:
            yield partial
    except OSError as error:
        raise UserError(
            f"{folder}: expected a folder that the export can be written to, found: {error.strerror or error}; "
            "free some space or choose another --output"
        ) from error
