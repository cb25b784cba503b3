"""Runs PANDA's adapters on classes of one data set, for tables like 2 and 6 of Reiss et al. (2021).

    python benchmarks/panda.py choose --root data/fashion-mnist --output figures/choose --settings 1/1e-4 3/1e-4
    python benchmarks/panda.py judge --root data/fashion-mnist --output figures/fashion --methods dn2 early ses ewc
    python benchmarks/panda.py tables --output figures/fashion

``choose`` measures settings by the value of the vicinal stopper on a few normal images; it looks at no test image.
``judge`` carries out each method's shipped recipe class by class, as ``adkit run`` does. All methods share the outputs
of the blocks that panda.toml does not train: these are computed once per image, and kept in ``--output``. (``oe`` and
``joint`` train on the images themselves.) What is on disk is not computed again, so an interrupted run goes on when it
is started again; it must then ask for the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from adkit.bootstrap import Tested, paired_difference
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Category, Dataset
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.sources import ImageSource, Source, StoredSource, extract_once
from adkit.inference.store import FeatureStore
from adkit.metrics import mean_and_sem
from adkit.recipe.reader import Recipe, read_recipe, resolved
from adkit.report.report import CategoryReport
from adkit.runner.category import COLUMNS, run_category
from adkit.runner.fit import Workspace
from adkit.training.auxiliary import auxiliary_images
from adkit.training.frozen import Trunks, shared_trunks
from adkit.training.plan import require_trainable
from adkit.utils.atomic import whole_file
from adkit.utils.progress import Display
from adkit.utils.text import counted

RECIPES: Final = Path(__file__).parents[1] / "recipes"
METHODS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "dn2": ("one-class.toml", ()),
    "whitening": ("one-class.toml", ("scorer={use='whitening'}",)),
    "center": ("one-class.toml", ("scorer={use='center'}",)),
    "early": ("panda.toml", ()),
    "ses": ("panda-ses.toml", ()),
    "ewc": ("panda-ewc.toml", ()),
    "oe": ("panda-oe.toml", ()),
    "joint": ("joint.toml", ()),
}
"""Method → its recipe, and what is changed in it."""


def opened(options: argparse.Namespace, name: str, *overrides: str) -> tuple[Assembled, Dataset]:
    """A shipped recipe on the data of ``options``."""
    data = [f"data.root={str(options.root)!r}", "data.format=arrays", "data.normal=*", "data.calibration=0"]
    recipe = read_recipe(RECIPES / name, ["run.device=cpu", *data, *overrides])
    whole = open_dataset(recipe.data, recipe.run.seed)
    parts = assemble(recipe, auxiliary_images(recipe, whole, print)[0])
    require_trainable(parts, whole.categories)
    return parts, whole


def left(dataset: Dataset, title: str, recipe: Recipe, options: argparse.Namespace) -> Iterator[tuple[Category, Path]]:
    """The classes that are asked for and not on disk, and the files for their values."""
    for category in dataset.categories:
        path = options.output / f"{title} {category.name}.json"
        if options.classes and category.name not in options.classes:
            continue
        if path.exists():
            require_same(json.loads(path.read_text(encoding="utf-8"))["recipe"], recipe, path)
        else:
            yield category, path


def require_same(found: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Refuse values and rows of another recipe."""
    if found != json.loads(json.dumps(resolved(recipe))):
        raise SystemExit(f"{path} is of another recipe: remove it, or name another --output")


@contextmanager
def workspace(source: Source, parts: Assembled, options: argparse.Namespace) -> Iterator[Workspace]:
    with tempfile.TemporaryDirectory(dir=options.output) as work:
        yield Workspace(source, parts, Display(quiet=True), Path(work))


def choose(options: argparse.Namespace) -> None:
    """Write the vicinal stopper's values along trainings of panda or ewc, one file per setting and class."""
    for setting in options.settings:
        blocks, rate, *strength = setting.split("/")
        training = [f"training.minibatches={options.minibatches}", "training.snapshot_epochs=0"]
        training += [f"training.learning_rate={rate}", f"adapter.blocks={blocks}"]
        training += [f"adapter.strength={value}" for value in strength]
        stopper = [f"stopper={{use='vicinal', multiple={options.multiple}, patience=1000}}"]
        parts, dataset = opened(options, "panda-ewc.toml" if strength else "panda.toml", *training, *stopper)
        for category, path in left(dataset, setting.replace("/", " "), parts.recipe, options):
            few = replace(category, train=category.train[: options.images], test=())
            with workspace(ImageSource(parts, BadImages(0), len(few.train)), parts, options) as place:
                course = run_category(few, place)[0].report.trainings[0]
            write(path, {"recipe": resolved(parts.recipe), "training": course.model_dump(mode="json")})
            figures = [f"{check.minibatches}: {check.value:.3f}" for check in course.checks if check.value is not None]
            print(setting, category.name, ", ".join(figures), f"({course.seconds:.0f} s)", flush=True)


def judge_methods(options: argparse.Namespace) -> None:
    if options.name and len(options.methods) > 1:
        raise SystemExit(f"--name: expected one of --methods, found {len(options.methods)}")
    adapted, dataset = opened(options, "panda.toml")
    trunks = shared_trunks(adapted)
    assert trunks is not None
    store = stored(trunks, adapted, dataset, options)
    for method in options.methods:
        name, overrides = METHODS[method]
        parts, dataset = opened(options, name, *overrides, *options.set)
        same = Trunks(parts, trunks.trained, trunks.cuts)
        for category, path in left(dataset, options.name or method, parts.recipe, options):
            started = time.perf_counter()
            source = StoredSource(parts, same, store, ImageSource(parts, BadImages(0), len(category.samples)))
            with workspace(source, parts, options) as place:
                result = run_category(category, place)[0]
                timings = place.display.timings
            seconds = time.perf_counter() - started
            found = {"recipe": resolved(parts.recipe), "seconds": seconds, "timings": timings}
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in result.rows]
            found["scores"] = {row["id"]: [row["label"], float(row["score"])] for row in rows if row["split"] == "test"}
            write(path, {**found, "warnings": result.warnings, "report": result.report.model_dump(mode="json")})
            auroc = result.report.metrics["image_auroc"]
            print(options.name or method, category.name, f"{auroc:.4f}, {seconds:.0f} s", flush=True)
            for warning in result.warnings:
                print("  ", warning, flush=True)


def stored(trunks: Trunks, parts: Assembled, dataset: Dataset, options: argparse.Namespace) -> FeatureStore:
    """The store of the rows of every image of all classes; what an earlier start left is not computed again."""
    described = options.output / "rows" / "recipe.json"
    if described.exists():
        require_same(json.loads(described.read_text(encoding="utf-8")), parts.recipe, described)
    else:
        write(described, resolved(parts.recipe))
    store = FeatureStore(described.parent, [one.levels for one in trunks.embeddings])
    images = list({one.id: one for category in dataset.categories for one in category.samples}.values())
    own, left = ImageSource(parts, BadImages(0), len(images)), store.missing(images)
    if left:
        started = time.perf_counter()
        extract_once(own, left, trunks.embeddings, store, lambda count: None)
        seconds = time.perf_counter() - started
        print(f"{counted(len(left), 'image')} through the frozen blocks: {seconds:.0f} s", flush=True)
    return store


def write(path: Path, found: dict[str, Any]) -> None:
    with whole_file(path) as draft:
        draft.write_text(json.dumps(found, indent=1), encoding="utf-8")


def tables(options: argparse.Namespace) -> None:
    """Print image AUROC by class and method, with differences in pairs from the first, by 2,000 resamples of images."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(options.output.glob("*.json")):
        method, _, category = path.stem.rpartition(" ")
        if options.classes and category not in options.classes:
            continue
        found.setdefault(method, {})[category] = json.loads(path.read_text(encoding="utf-8"))
    methods = [name for name in METHODS if name in found] + sorted(found.keys() - METHODS.keys())
    classes = sorted({category for one in found.values() for category in one})
    print(f"| class | {' | '.join(methods)} |\n|{'---|' * (len(methods) + 1)}")
    aurocs = {
        method: {c: CategoryReport(**one["report"]).metrics["image_auroc"] for c, one in found[method].items()}
        for method in methods
    }
    for name in classes:
        cells = [aurocs[method].get(name) for method in methods]
        print(f"| {name} | {' | '.join('' if cell is None else f'{cell:.3f}' for cell in cells)} |")
    whole = [list(aurocs[method].values()) if len(aurocs[method]) == len(classes) else [] for method in methods]
    sums = [mean_and_sem(values) for values in whole]  # of methods that have all classes
    print(f"| mean ± SEM | {' | '.join('' if s is None else f'{m:.3f} ± {s:.3f}' for m, s in sums)} |")
    tests = {method: [tested(found[method][c]) for c in classes if c in found[method]] for method in methods}
    first = tests[methods[0]]
    for method in methods[1:]:
        if len(tests[method]) == len(first) == len(classes):
            pairs = zip(classes, tests[method], first, strict=True)
            each = (f"{name} {less([one], [other])}" for name, one, other in pairs)
            print(f"{method} less {methods[0]}: mean {less(tests[method], first)}, {', '.join(each)}")
    seconds = [[one["seconds"] for one in found[method].values()] for method in methods]
    print(f"| seconds per class | {' | '.join(f'{sum(times) / len(times):.0f}' for times in seconds)} |")


def tested(one: dict[str, Any]) -> Tested:
    """The test scores of one class; the same image may be tested in several, and is then drawn for all of them."""
    labels, scores = zip(*one["scores"].values(), strict=True)
    return Tested(np.array(scores, np.float32), np.array(labels, np.int64), list(one["scores"]))


def less(ones: list[Tested], others: list[Tested]) -> str:
    """The difference in pairs of the mean image AUROC, with its interval."""
    difference, low, high = paired_difference(ones, others)["image_auroc"]
    return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    choosing, judging, writing = (commands.add_parser(name) for name in ("choose", "judge", "tables"))
    choosing.set_defaults(run=choose)
    choosing.add_argument("--settings", nargs="+", required=True, metavar="BLOCKS/RATE[/STRENGTH]")
    choosing.add_argument("--minibatches", type=int, default=100)
    choosing.add_argument("--images", type=int, default=1000, help="normal images per class")
    choosing.add_argument("--multiple", type=int, default=2, help="draws of vicinal per held-out image")
    judging.set_defaults(run=judge_methods)
    judging.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    judging.add_argument("--name", help="name of the files, where the method's own would hide what --set changes")
    judging.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the methods' recipes")
    writing.set_defaults(run=tables)
    for command in (choosing, judging):
        command.add_argument(
            "--root", type=Path, required=True, help="the four idx.gz files of the data set, or an npz file"
        )
    for command in (choosing, judging, writing):
        command.add_argument("--classes", nargs="+", default=[], help="default: all")
        command.add_argument("--output", type=Path, required=True, help="folder of the values, with one file per class")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    options.run(options)


if __name__ == "__main__":
    main()
