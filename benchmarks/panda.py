"""PANDA's adapters on classes of one data set, in the shape of tables 2 and 6 of Reiss et al. (2021).

    python benchmarks/panda.py choose --root data/fashion-mnist --output figures/choose --settings 3/1e-1/1e-2
    python benchmarks/panda.py judge --root data/fashion-mnist --output figures/fashion --methods dn2 early ses ewc
    python benchmarks/panda.py tables --output figures/fashion

``choose`` looks for a setting by the vicinal figure of a few normal pictures; no test picture is read. ``judge``
carries out each method's shipped recipe class by class, as ``adkit run`` does, but all methods read the same rows: what
the blocks that panda.toml does not train make of each picture is computed once, and kept in ``--output``. A class that
is on disk is not judged again, so a run that was interrupted goes on when it is started again.
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

from adkit.assemble import Assembled, assemble
from adkit.auxiliary import auxiliary_pictures
from adkit.data.datasets import open_dataset
from adkit.data.loader import BadPictures
from adkit.data.samples import Category, Dataset
from adkit.facts import peak_memory_bytes
from adkit.fitting import Workplace
from adkit.judging import judge
from adkit.metrics import mean_and_sem
from adkit.progress import Display
from adkit.recipe import read_recipe
from adkit.report import CategoryReport
from adkit.sources import PictureSource, Source, extract_once
from adkit.store import FeatureStore
from adkit.training_recipe import require_trainable
from adkit.trunks import Trunks, shared_trunks

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
"""Name → recipe and what is changed in it."""


def opened(options: argparse.Namespace, name: str, *overrides: str) -> tuple[Assembled, Dataset]:
    """A recipe on the data of ``options``, and those of its classes that are asked for."""
    data = [f"data.root={str(options.root)!r}", "data.format=arrays", "data.normal=*", "data.calibration=0"]
    recipe = read_recipe(RECIPES / name, ["run.device=cpu", *data, *overrides, *options.set])
    whole = open_dataset(recipe.data, recipe.run.seed)
    parts = assemble(recipe, auxiliary_pictures(recipe, whole, print))
    require_trainable(parts, whole.categories)
    return parts, whole


def chosen(dataset: Dataset, options: argparse.Namespace) -> Iterator[Category]:
    return (one for one in dataset.categories if not options.classes or one.name in options.classes)


@contextmanager
def workplace(source: Source, parts: Assembled) -> Iterator[Workplace]:
    with tempfile.TemporaryDirectory(dir=".") as work:
        yield Workplace(source, parts, Display(quiet=True), Path(work))


def choose(options: argparse.Namespace) -> None:
    """The vicinal figure along trainings of panda, a file a setting and class."""
    for setting in options.settings:
        blocks, rate, clip = setting.split("/")
        training = [f"training.minibatches={options.minibatches}", "training.snapshot_epochs=0"]
        training += [f"training.learning_rate={rate}", f"training.clip_norm={clip}", f"adapter.blocks={blocks}"]
        stopper = [f"stopper={{use='vicinal', multiple={options.multiple}, patience=1000}}"]
        parts, dataset = opened(options, "panda.toml", *training, *stopper)
        for category in chosen(dataset, options):
            path = options.output / f"{blocks} {rate} {clip} {category.name}.json"
            if path.exists():
                continue
            few = replace(category, train=category.train[: options.pictures], test=())
            with workplace(PictureSource(parts, BadPictures(0), len(few.train)), parts) as place:
                training = judge(few, place)[0].report.trainings[0]
            write(path, training.model_dump(mode="json"))
            figures = [f"{look.minibatches}: {look.figure:.3f}" for look in training.looks if look.figure is not None]
            print(setting, category.name, ", ".join(figures), f"({training.seconds:.0f} s)", flush=True)


def judge_methods(options: argparse.Namespace) -> None:
    adapted, dataset = opened(options, "panda.toml")
    trunks = shared_trunks(adapted)
    assert trunks is not None
    store = stored(trunks, adapted, dataset, options)
    for method in options.methods:
        name, overrides = METHODS[method]
        parts, dataset = opened(options, name, *overrides)
        same = Trunks(parts, trunks.trained, trunks.trunks, trunks.shapes)
        for category in chosen(dataset, options):
            path = options.output / f"{options.name or method} {category.name}.json"
            if path.exists():
                continue
            started = time.perf_counter()
            source = same.source(store, PictureSource(parts, BadPictures(0), len(category.samples)))
            with workplace(source, parts) as place:
                judged = judge(category, place)[0]
                timings = place.display.timings
            took = {"seconds": time.perf_counter() - started, "timings": timings, "memory": peak_memory_bytes()}
            write(path, {**took, "warnings": judged.warnings, "report": judged.report.model_dump(mode="json")})
            auroc = judged.report.metrics["image_auroc"]
            print(options.name or method, category.name, f"{auroc:.4f}, {took['seconds']:.0f} s", flush=True)
            for warning in judged.warnings:
                print("  ", warning, flush=True)


def stored(trunks: Trunks, parts: Assembled, dataset: Dataset, options: argparse.Namespace) -> FeatureStore:
    """Rows of every picture of all classes; goes on with what an earlier start left."""
    store = FeatureStore(options.output / "rows", [one.levels for one in trunks.embeddings])
    pictures = list({one.id: one for category in dataset.categories for one in category.samples}.values())
    own, left = PictureSource(parts, BadPictures(0), len(pictures)), store.missing(pictures)
    if left:
        started = time.perf_counter()
        extract_once(own.decoding(trunks.embeddings), left, store, lambda count: None)
        print(f"{len(left)} pictures through the frozen blocks: {time.perf_counter() - started:.0f} s", flush=True)
    return store


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def tables(options: argparse.Namespace) -> None:
    """Image AUROC by class and method, with mean, standard error and seconds a class."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(options.output.glob("*.json")):
        method, _, category = path.stem.partition(" ")
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
    sums = [mean_and_sem(list(aurocs[method].values())) for method in methods]
    print(f"| mean ± SEM | {' | '.join(f'{m:.3f}' + ('' if s is None else f' ± {s:.3f}') for m, s in sums)} |")
    seconds = [[one["seconds"] for one in found[method].values()] for method in methods]
    print(f"| seconds a class | {' | '.join(f'{sum(times) / len(times):.0f}' for times in seconds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    choosing, judging, writing = (commands.add_parser(name) for name in ("choose", "judge", "tables"))
    choosing.set_defaults(run=choose)
    choosing.add_argument("--settings", nargs="+", required=True, metavar="BLOCKS/RATE/CLIP")
    choosing.add_argument("--minibatches", type=int, default=100)
    choosing.add_argument("--pictures", type=int, default=1000, help="normal pictures of a class")
    choosing.add_argument("--multiple", type=int, default=2, help="draws of vicinal, in held-out pictures")
    judging.set_defaults(run=judge_methods)
    judging.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    judging.add_argument("--name", help="of the figures, where the method's own would hide what --set changes")
    writing.set_defaults(run=tables)
    for command in (choosing, judging):
        command.add_argument("--root", type=Path, required=True, help="the four idx.gz files of the data set")
        command.add_argument("--classes", nargs="+", default=[], help="default: all")
        command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    for command in (choosing, judging, writing):
        command.add_argument("--output", type=Path, required=True, help="folder of the figures, a file a class")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
