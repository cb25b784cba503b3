"""Runs Gaussian fine-tuning on folds, for tables like 1 to 4 of Rippel et al. (2021).

    python benchmarks/gaussian_finetuning.py train --root data/textures --output figures/textures [--objectives …]
    python benchmarks/gaussian_finetuning.py train --root data/mtd --output figures/mtd
    python benchmarks/gaussian_finetuning.py tables --output figures/mtd

Every objective is trained once per fold, for all of its epochs. Every stopping rule judges the same training as it
would by itself: a rule sees the images that were left out and never stops another one. The states that the rules kept
are then measured on the test images, with the scorer as it was fitted on ψ₀ and with one fitted again. A fold that is
on disk is not trained again, so an interrupted run goes on when it is started again.

Where ``--root`` holds a ``groups.csv``, as benchmarks/mtd.py describes it, the folds are those of that file: their
parts are tested, and a fifth of the other parts is left out for the stopper. Elsewhere a fold is the images that are
left out, and all folds are tested on the same images.

Intervals are those of ``adkit.bootstrap``: 95%, of the mean over folds and categories, by resamples of whole groups of
test images; differences are in pairs. They say nothing of other trainings on other images.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from mtd import FOLDS, write_list
from torch import Tensor

from adkit.bootstrap import Tested, intervals, paired_difference
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Category, Sample
from adkit.data.splits import folded, hold_out
from adkit.inference.assemble import Assembled, assemble, build, embedding_of, for_inference
from adkit.inference.pipeline import Embedding, Member
from adkit.inference.sources import ImageSource
from adkit.plugin import Component, Context, Look, Params, Scorer, Stopper, Verdict
from adkit.plugin.registry import Origin, Registered
from adkit.recipe.reader import Choice, Recipe, read_recipe
from adkit.runner import fit as fitting
from adkit.runner.evaluate import evaluate
from adkit.runner.fit import Workspace, without
from adkit.training.plan import new_adapter, split_of
from adkit.utils.progress import Display

LEVELS: Final = [f"blocks.{number}" for number in range(7)]
GAUSSIAN: Final = {
    f"{covariance}-{aggregation}": {
        "adapter": {"use": "mahalanobis"},
        "scorer": {"use": "gaussian", "fit": "initial", "covariance": covariance, "aggregation": aggregation},
    }
    for covariance in ("global", "local", "tied")
    for aggregation in ("mean", "max")
}
OBJECTIVES: Final[Mapping[str, Mapping[str, Any]]] = {
    **GAUSSIAN,
    "svdd": {
        "adapter": {"use": "svdd"},
        "scorer": {"use": "center", "fit": "initial", "metric": "l1", "centers": "location", "aggregation": "mean"},
    },
    "fcdd": {
        "adapter": {"use": "fcdd", "augmentations": ["cutout", "confetti"]},
        "scorer": {"use": "logit", "aggregation": "mean"},
    },
}
WHOLE: Final = "tied-max"
"""The objective by which stopping rules are compared: the paper's own."""
AUGMENTATIONS: Final = ("augmix", "cutout", "confetti")
METRICS: Final = ("image_auroc", "pixel_auroc", "pixel_aupro")


def rules(options: argparse.Namespace, whole: bool) -> dict[str, dict[str, Any]]:
    """Stopping rule → its table ``[stopper]``."""
    vicinal = {"use": "vicinal", "multiple": options.multiple}
    found: dict[str, dict[str, Any]] = {"vicinal": vicinal}
    if whole:
        found["plateau"] = {"use": "plateau"}
        if options.alone:
            found |= {f"vicinal, {name}": {**vicinal, "augmentations": [name]} for name in AUGMENTATIONS}
    return found


class Several(Stopper):
    """A stopper that lets several stoppers judge one training, and keeps the states that they keep."""

    def __init__(self, stoppers: Mapping[str, Stopper], context: Context) -> None:
        super().__init__(Params(), context)
        self.stoppers = stoppers
        self.kept: dict[str, int] = {}
        """Rule → the minibatch at which it kept a state last."""
        self.states: dict[int, dict[str, Tensor]] = {}
        self.values: list[dict[str, float | None]] = []

    def check(self, look: Look) -> Verdict:
        state = cast(Embedding, look.extractor).extractor.state_dict()
        now = look.progress.minibatches
        self.states[now] = {name: tensor.clone() for name, tensor in state.items()}
        found = {}
        for name, stopper in self.stoppers.items():
            verdict = stopper.check(look)
            found[name] = verdict.value
            if verdict.keep:
                self.kept[name] = now
        self.values.append(found)
        self.kept["fixed"] = now
        self.kept.setdefault("frozen", now)
        self.states = {at: kept for at, kept in self.states.items() if at in self.kept.values()}
        return Verdict(keep=False, stop=False, reason=", ".join(f"{name} {value}" for name, value in found.items()))

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Trainings here are never resumed."""


def with_stopper(recipe: Recipe, stopper: Several) -> Recipe:
    def built(params: Params, context: Context) -> Several:
        return stopper

    component = Component("several", "stopper", Params, built)
    return replace(
        recipe, stopper=Choice("several", Params(), Registered(component, Origin("benchmark", "", __file__)))
    )


def tables_of(options: argparse.Namespace, objective: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": {"name": objective, "device": "cpu", "seed": options.seed},
        "data": {**data, "image_size": options.image_size, "calibration": 0.0},
        "extractor": {"levels": LEVELS},
        "training": {"learning_rate": options.learning_rate, "epochs": options.epochs},
        "stopper": {"use": "fixed"},
        "threshold": {"pixel": False},
        **OBJECTIVES[objective],
    }


@dataclass(frozen=True)
class Fold:
    """One training of an objective: its images, and those that are left out for the stopping rules."""

    category: Category
    number: int
    train: list[Sample]
    held_out: list[Sample]
    recipe: Recipe


def folds_of(options: argparse.Namespace, objective: str) -> Iterator[Fold]:
    if not (options.root / "groups.csv").exists():
        recipe = read_recipe(tables_of(options, objective, {"root": str(options.root)}))
        for category in open_dataset(recipe.data, recipe.run.seed).categories:
            folds = folded(category.train, len(FOLDS), options.seed, category.groups, "folds", category.name)
            for number, fold in enumerate(folds):
                yield Fold(category, number, without(category.train, fold), list(fold), recipe)
        return
    for number in FOLDS:
        listed = options.output / f"fold-{number}.csv"
        write_list(options.root, number, None, listed)
        data = {"format": "csv", "root": str(listed), "group": "group"}
        recipe = read_recipe(tables_of(options, objective, data))
        (category,) = open_dataset(recipe.data, recipe.run.seed).categories
        train, held_out = hold_out(category.train, 0.2, options.seed, "stopper", category.groups)
        yield Fold(category, number, list(train), list(held_out), recipe)


def train_fold(fold: Fold, options: argparse.Namespace) -> dict[str, Any]:
    recipe, category, parts = fold.recipe, fold.category, assemble(fold.recipe)
    judges = {}
    for name, table in rules(options, recipe.run.name == WHOLE).items():
        read = read_recipe({**tables_of(options, recipe.run.name, {"root": "."}), "stopper": table})
        judges[name] = cast(Stopper, build(cast(Choice, read.stopper), parts.context))
    several = Several(judges, parts.context)
    parts = replace(parts, recipe=with_stopper(recipe, several))
    source = ImageSource(parts, BadImages(0.0), len(category.samples))
    with tempfile.TemporaryDirectory() as work:
        place = Workspace(source, parts, Display(quiet=True), Path(work))
        split = split_of(category.name, fold.train, (), category.groups, parts, fold.held_out)
        fitted = fitting.fit(split, place, place.folder)
    scorer = fitted.pipeline.members[0].scorer
    states = {at: measured(state, scorer, category, fold.train, source, parts) for at, state in several.states.items()}
    return {
        "objective": recipe.run.name,
        "category": category.name,
        "kept": several.kept,
        "states": states,
        "values": several.values,
        "checks": [{"epochs": check.epochs, "loss": check.loss} for check in fitted.trainings[0].checks],
        "seconds": fitted.trainings[0].seconds,
        "settings": {name: str(value) for name, value in vars(options).items() if name != "run"},
    }


def measured(
    state: Mapping[str, Tensor],
    initial: Scorer,
    category: Category,
    train: list[Sample],
    source: ImageSource,
    parts: Assembled,
) -> dict[str, tuple[Tested, dict[str, float | None]]]:
    """What one state gives the test images, by the scorer fitted on ψ₀ and by one fitted on the state."""
    recipe = parts.recipe
    adapter = new_adapter(parts)
    assert adapter is not None
    extractor = adapter.extend(copy.deepcopy(parts.trainable[0]))
    extractor.load_state_dict(state)
    fast = for_inference(extractor, recipe.extractors[0])
    embedding = embedding_of(fast, recipe.extractors[0], recipe.features, parts.context, 0)
    scorers = {"initial": initial}
    if recipe.scorer_table.fit == "initial":
        again = parts.new_scorer()
        again.fit(source.stream(train, (embedding,), lambda count: None, targets=False))
        scorers["refitted"] = again
    found = {}
    for name, scorer in scorers.items():
        pipeline = parts.pipeline([Member(embedding, scorer)])
        test = evaluate(pipeline, category.test, source, parts, lambda count: None, targets=True, peaks=False)
        tested = Tested(test.scores, test.labels, test.keys(category.groups), test.counts)
        found[name] = (tested, {**tested.metrics(), **(test.pixel or {})})
    return found


def train(options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    for objective in options.objectives:
        for fold in folds_of(options, objective):
            path = options.output / f"{objective} {fold.category.name} {fold.number}.pickle"
            if path.exists():
                continue
            found = train_fold(fold, options)
            path.write_bytes(pickle.dumps(found))
            kept = found["kept"]
            aurocs = {
                rule: round(found["states"][at]["initial"][1]["image_auroc"], 4) for rule, at in sorted(kept.items())
            }
            losses = [check["loss"] for check in found["checks"]]
            print(objective, fold.category.name, fold.number, kept, aurocs, f"{found['seconds']:.0f} s", flush=True)
            print("   losses", losses, "values", found["values"], flush=True)


Found = list[dict[str, Any]]


def tables(options: argparse.Namespace) -> None:
    """Print the metrics of every objective, rule and scorer with their intervals, and what a rule gains over none."""
    found: dict[str, Found] = {}
    for path in sorted(options.output.glob("*.pickle")):
        one = pickle.loads(path.read_bytes())
        found.setdefault(one["objective"], []).append(one)
    for objective, folds in found.items():
        print(f"\n{objective}, {len(folds)} trainings\n")
        print(f"| rule | epochs | scorer | {' | '.join(METRICS)} | image_auroc less frozen | pixel_aupro less frozen |")
        print("|---" * 8 + "|")
        for rule in ("frozen", *(name for name in folds[0]["kept"] if name != "frozen")):
            for fit in next(iter(folds[0]["states"].values())):
                if rule == "frozen" and fit == "refitted":
                    continue
                exact = {name: _mean(folds, rule, fit, name) for name in METRICS}
                around = intervals(_tested(folds, rule, fit), exact, 0).values
                cells = [_cell(exact[name], around.get(name)) for name in METRICS]
                cells += _less(folds, (rule, fit), ("frozen", "initial"))
                print(f"| {rule} | {_epochs(folds, rule)} | {fit} | {' | '.join(cells)} |")
        if "plateau" in folds[0]["kept"]:
            for one, other in (("vicinal", "fixed"), ("fixed", "plateau"), ("vicinal", "plateau")):
                image, aupro = _less(folds, (one, "initial"), (other, "initial"))
                print(f"\n{one} less {other}: image AUROC {image}, AUPRO {aupro}")


def _tested(folds: Found, rule: str, fit: str) -> list[Tested]:
    return [fold["states"][fold["kept"][rule]][fit][0] for fold in folds]


def _mean(folds: Found, rule: str, fit: str, metric: str) -> float | None:
    values = [fold["states"][fold["kept"][rule]][fit][1].get(metric) for fold in folds]
    return None if None in values else sum(values) / len(values)


def _less(folds: Found, one: tuple[str, str], other: tuple[str, str]) -> list[str]:
    """The differences of image AUROC and AUPRO with their intervals."""
    found = paired_difference(_tested(folds, *one), _tested(folds, *other))
    cells = []
    for metric in ("image_auroc", "pixel_aupro"):
        if metric not in found:
            cells.append("")
            continue
        value, low, high = found[metric]
        cells.append(f"{value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return cells


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _epochs(folds: Found, rule: str) -> str:
    """The range of epochs at which a rule kept its states, over all folds."""
    at = sorted(fold["kept"][rule] / fold["kept"]["fixed"] * fold["checks"][-1]["epochs"] for fold in folds)
    return f"{at[0]:.3g}" if at[0] == at[-1] else f"{at[0]:.3g}–{at[-1]:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(run=train)
    training.add_argument("--root", type=Path, required=True, help="a data set in MVTec layout, or with a groups.csv")
    training.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=[WHOLE, *(o for o in OBJECTIVES if o != WHOLE)]
    )
    training.add_argument("--epochs", type=int, default=6)
    training.add_argument("--learning-rate", type=float, default=1e-4)
    training.add_argument("--image-size", type=int, default=128)
    training.add_argument("--multiple", type=int, default=4, help="draws of vicinal per held-out image")
    training.add_argument("--alone", action="store_true", help=f"with {WHOLE}, judge by each augmentation alone, too")
    training.add_argument("--seed", type=int, default=0)
    writing = commands.add_parser("tables")
    writing.set_defaults(run=tables)
    for command in (training, writing):
        command.add_argument("--output", type=Path, required=True, help="folder of the values, with one file per fold")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
