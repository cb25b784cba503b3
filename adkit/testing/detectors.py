"""Checks of a component inside a whole detector: run, saved, loaded, predicted from and exported."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adkit.data.loader import BadImages
from adkit.data.samples import Category, Sample
from adkit.data.view import to_planes
from adkit.detector.detector import Detector
from adkit.detector.fitted import FittedDetector
from adkit.detector.inputs import ImageLike
from adkit.detector.load import load_detector
from adkit.detector.save import save_detector
from adkit.errors import UserError
from adkit.export.graph import Graph
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.conversion import recorded
from adkit.inference.sources import ImageSource
from adkit.plugin.component import Component, Kind, base_class
from adkit.plugin.context import Context
from adkit.plugin.contract import has_own
from adkit.plugin.guard import unguarded
from adkit.plugin.params import Params
from adkit.plugin.registry import Origin, Registered, Registry
from adkit.plugin.types import Geometry, Level
from adkit.recipe.reader import read_recipe
from adkit.runner.category import run_category
from adkit.runner.fit import Workspace
from adkit.testing.asserts import require_close, run_checks, running
from adkit.testing.samples import SIZE, feature_stream
from adkit.testing.tiny import TinyLevels, TinyLocalizer, TinyScorer
from adkit.utils.progress import Display
from adkit.utils.text import counted

TRAIN, CALIBRATION, TEST = 24, 4, 7
"""The number of images of each split."""
BATCH = 5
EXPORTED = 1e-4
"""The share of the largest value by which the results of an exported component may differ."""
EVERY_NUMBER = (1, 3, TEST)
"""The batch sizes that a component which was recorded with a batch of two must take."""


def check_detector(
    component: Component[Any],
    params: Mapping[str, object] | None = None,
    *,
    context: Context | None = None,
    levels: Mapping[str, Level] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Check that an extractor, scorer or localizer keeps its scores and maps on every way through a detector.

    A small detector is made of it and of tiny components of the other kinds. It is fitted and evaluated as in a run,
    saved to a temporary folder, and loaded with ``Context.pretrained`` False. Then it predicts files, arrays and
    tensors and, where the component has ``for_export``, is recorded by ``torch.export`` for any number of images.

    Args:
        component: a component as the list of a hook has it.
        params: its parameters as a recipe writes them; default: their defaults.
        context: the context to build it with, whose images are made square, as in a run, with the larger side of
            ``image_size``; default: the CPU, seed 0 and ``SIZE``.
        levels: the levels that a scorer or localizer is given; default: those of ``feature_stream()``.
        tolerance: share of the largest value by which the ways may differ; a saved detector may not differ at all.
    """
    context = context or Context(image_size=SIZE)
    side = max(context.image_size)
    with tempfile.TemporaryDirectory(prefix="adkit-testing-") as work:
        whole = _Whole.make(component, params or {}, replace(context, image_size=(side, side)), levels, Path(work))
        expected = whole.evaluated()
        with running("save_detector(fitted)", inside=True):
            whole.save()
        loaded = whole.load(context.device)
        run_checks(
            lambda: _check_saving(loaded, whole, expected),
            lambda: _check_ways(Detector(loaded), whole.paths, tolerance),
            lambda: _check_export(component.kind, loaded, whole),
        )


@dataclass(frozen=True)
class _Whole:
    """A fitted detector with everything that made it."""

    registry: Registry
    parts: Assembled
    fitted: FittedDetector
    source: ImageSource
    test: Sequence[Sample]
    folder: Path

    @classmethod
    def make(
        cls,
        component: Component[Any],
        params: Mapping[str, object],
        context: Context,
        levels: Mapping[str, Level] | None,
        work: Path,
    ) -> _Whole:
        chosen = {one.kind: one for one in (*_stand_ins(levels, context.image_size), component)}
        registry = Registry(Registered(one, Origin("adkit-testing", "0", "adkit.testing")) for one in chosen.values())
        tables: dict[str, Any] = {kind: {"use": one.name} for kind, one in chosen.items()}
        tables[component.kind] |= params
        run = {"name": "testing", "device": context.device, "seed": context.seed, "precision": "float32"}
        data = {"root": str(work), "image_size": context.image_size[0], "batch_size": BATCH}
        with running("read_recipe(tables)", inside=True):
            recipe = read_recipe(tables | {"run": run, "data": data}, registry=registry)
        samples = _samples(work, context.image_size[0])
        test = samples[TRAIN + CALIBRATION :]
        category = Category("testing", samples[:TRAIN], samples[TRAIN : TRAIN + CALIBRATION], ())
        with running("run(recipe)", inside=True), Display(quiet=True) as display:
            parts = assemble(recipe)
            source = ImageSource(parts, BadImages(0.0), len(samples))
            _, fitted = run_category(category, Workspace(source, parts, display, work))
        return cls(registry, parts, fitted, source, test, work / "detector")

    @property
    def paths(self) -> list[Path]:
        return [sample.source for sample in self.test if isinstance(sample.source, Path)]

    def evaluated(self) -> dict[str, Tensor]:
        """The run's own scores and maps of the test images."""
        found: dict[str, list[Tensor]] = {}
        with running("run(recipe)", inside=True):
            pipeline = self.fitted.pipeline
            for item in self.source.embedded(self.test, pipeline.embeddings, lambda images: None):
                scores = pipeline.score(item.features)
                found.setdefault("score", []).append(scores.image.cpu())
                if scores.localizes:
                    maps = pipeline.localize(scores, self.parts.view.size)
                    found.setdefault("map", []).append(maps.cpu())
        return {name: torch.cat(values) for name, values in found.items()}

    def save(self) -> None:
        save_detector(self.fitted, self.parts, self.folder)

    def load(self, device: str) -> FittedDetector:
        with running("load_detector(folder)", inside=True):
            return load_detector(self.folder, device, self.registry)


def _stand_ins(levels: Mapping[str, Level] | None, size: tuple[int, int]) -> list[Component[Any]]:
    """Tiny components to take the place of the kinds that are not checked."""

    def extractor(params: Params, context: Context) -> Any:
        given = levels or feature_stream().levels
        over = {n: Level(one.channels, one.grid, Geometry.covering(one.grid, size)) for n, one in given.items()}
        return TinyLevels(over).to(context.device)

    return [
        Component("tiny", "extractor", Params, extractor),
        Component("tiny", "scorer", Params, lambda params, context: TinyScorer(context.device)),
        Component("tiny", "localizer", Params, lambda params, context: TinyLocalizer()),
    ]


def _samples(folder: Path, side: int) -> tuple[Sample, ...]:
    """Samples of soft random patches on disk, of exactly the size of the detector's input."""
    random = np.random.default_rng(0)
    samples = []
    for number in range(TRAIN + CALIBRATION + TEST):
        patches = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
        path = folder / f"{number:02}.png"
        patches.resize((side, side), Image.Resampling.BICUBIC).save(path)
        samples.append(Sample(path.name, path, 0, "good"))
    return tuple(samples)


def _arrays(paths: Sequence[Path]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)) for path in paths])  # (n, h, w, 3)


def _images(arrays: NDArray[np.uint8]) -> Tensor:
    """(n, 3, h, w) float32: the inputs that files of ``arrays`` become, to the last bit."""
    images = np.empty((len(arrays), 3, *arrays.shape[1:3]), np.float32)
    for pixels, image in zip(arrays, images, strict=True):
        to_planes(pixels, image)
    return torch.from_numpy(images)


def _predicted(detector: Detector, images: ImageLike | Sequence[ImageLike], batch_size: int = 32) -> dict[str, Tensor]:
    with running("predict(images)", inside=True):
        found = detector.predict(images, batch_size)
    maps = {} if found.maps is None else {"map": torch.from_numpy(found.maps)}
    return {"score": torch.from_numpy(found.scores)} | maps


def _check_saving(loaded: FittedDetector, whole: _Whole, expected: Mapping[str, Tensor]) -> None:
    again = _predicted(Detector(loaded), whole.paths, BATCH)
    wanted = "a detector that was saved and loaded to give exactly the run's scores and maps"
    require_close("saving", wanted, expected, again, 0.0)


def _check_ways(detector: Detector, paths: Sequence[Path], tolerance: float) -> None:
    """Require that each way gives what files in the run's batches give, which ``saving`` compares with the run."""
    expected = _predicted(detector, paths, BATCH)
    arrays = _arrays(paths)
    singly = [_predicted(detector, path) for path in paths]
    ways = {
        "files one at a time": {name: torch.cat([one[name] for one in singly]) for name in singly[0]},
        "files by threes": _predicted(detector, list(paths), 3),
        "arrays": _predicted(detector, arrays),
        "tensors": _predicted(detector, _images(arrays)),
    }
    for name, found in ways.items():
        require_close(
            "parity", f"{name} to give the scores and maps of batches of {BATCH} files", expected, found, tolerance
        )


def _instances(loaded: FittedDetector) -> dict[str, Any]:
    return {
        "extractor": loaded.pipeline.embeddings[0].extractor,
        "scorer": loaded.pipeline.members[0].scorer,
        "localizer": loaded.pipeline.localizer,
    }


def _check_export(kind: Kind, original: FittedDetector, whole: _Whole) -> None:
    """Require of a component with ``for_export`` that what is recorded gives the same; no other need be exportable."""
    if not has_own(unguarded(_instances(original)[kind]), base_class(kind), "for_export"):
        return
    expected = _predicted(Detector(original), whole.paths, BATCH)
    loaded = whole.load("cpu")
    try:
        with running("for_export()", inside=True):
            graph = Graph(loaded)
    except AssertionError as error:
        if isinstance(error.__cause__, UserError):  # it says that there is none for these parameters
            return
        raise
    images = _images(_arrays(whole.paths))
    with running("for_export()", inside=True), torch.no_grad():
        found = dict(zip(graph.outputs, graph(images), strict=True))
    require_close("for_export", "what for_export gives to score and draw alike", expected, found, EXPORTED)
    again = _predicted(Detector(loaded), whole.paths, BATCH)
    exactly = 0.0 if str(loaded.pipeline.embeddings[0].context.device) == whole.parts.context.device else EXPORTED
    require_close("for_export", "the original left as it was", expected, again, exactly)
    with running("export(for_export())", inside=True), torch.no_grad():
        module = recorded(graph, graph.size).module()
        batches = {count: module(images[:count]) for count in EVERY_NUMBER}
    for count, outputs in batches.items():
        part = {name: values[:count] for name, values in expected.items()}
        found = dict(zip(graph.outputs, outputs, strict=True))
        wanted = f"{counted(count, 'image')} to score and draw alike once recorded"
        require_close("export", wanted, part, found, EXPORTED)
