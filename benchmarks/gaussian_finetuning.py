"""Runs Gaussian fine-tuning on folds, for tables like 1 to 4 of Rippel et al. (2021).

    python benchmarks/gaussian_finetuning.py train --root data/mtd --output figures/mtd [--objectives tied-max svdd]
    python benchmarks/gaussian_finetuning.py tables --output figures/mtd

Every objective is trained once per fold, for all of its epochs. Every stopping rule judges the same training as it
would by itself: a rule sees the fold that was left out and never stops another one. The states that the rules kept are
then measured on the test images, with the scorer as it was fitted on ψ₀ and with one fitted again. A fold that is on
disk is not trained again, so an interrupted run goes on when it is started again.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Category, Sample
from adkit.data.splits import folded
from adkit.inference.assemble import Assembled, assemble, build, embedding_of, extended, for_inference
from adkit.inference.pipeline import Embedding, Member
from adkit.inference.sources import ImageSource
from adkit.metrics import image_metrics, mean_and_sem
from adkit.plugin import Adapter, Batch, Component, Context, Features, Params, Progress, Scorer, Stopper, Verdict
from adkit.plugin.registry import Origin, Registered
from adkit.recipe.reader import Choice, Recipe, read_recipe
from adkit.runner.evaluate import evaluate
from adkit.runner.fit import Workspace, split, without
from adkit.training.plan import new_adapter
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
FIGURES: Final = ("image_auroc", "pixel_auroc", "pixel_aupro")


def rules(multiple: int, whole: bool) -> dict[str, dict[str, Any]]:
    """Stopping rule → its table ``[stopper]``."""
    found: dict[str, dict[str, Any]] = {"vicinal": {"use": "vicinal", "multiple": multiple}}
    if whole:
        found["plateau"] = {"use": "plateau"}
        for name in AUGMENTATIONS:
            found[f"vicinal, {name}"] = {"use": "vicinal", "multiple": multiple, "augmentations": [name]}
    return found


class Several:
    """A stopper that lets several stoppers judge one training, and keeps the states that they keep."""

    def __init__(self, stoppers: Mapping[str, Stopper]) -> None:
        self.stoppers = stoppers
        self.kept: dict[str, int] = {}
        """Rule → the minibatch at which it kept a state last."""
        self.states: dict[int, dict[str, Tensor]] = {}
        self.figures: list[dict[str, float | None]] = []

    def check(
        self,
        progress: Progress,
        extractor: Callable[[Tensor], Features],
        adapter: Adapter,
        held_out: Iterable[Batch],
        generator: torch.Generator,
    ) -> Verdict:
        state = cast(nn.Module, cast(Embedding, extractor).extractor).state_dict()
        now = progress.minibatches
        self.states[now] = {name: tensor.clone() for name, tensor in state.items()}
        found = {}
        for name, stopper in self.stoppers.items():
            verdict = stopper.check(progress, extractor, adapter, held_out, generator)
            found[name] = verdict.value
            if verdict.keep:
                self.kept[name] = now
        self.figures.append(found)
        self.kept["fixed"] = now
        self.kept.setdefault("frozen", now)
        self.states = {at: kept for at, kept in self.states.items() if at in self.kept.values()}
        return Verdict(keep=False, stop=False, reason=", ".join(f"{name} {figure}" for name, figure in found.items()))

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


def tables_of(options: argparse.Namespace, objective: str) -> dict[str, Any]:
    return {
        "run": {"name": objective, "device": "cpu", "seed": options.seed},
        "data": {"root": str(options.root), "image_size": options.image_size, "calibration": 0.0},
        "extractor": {"levels": LEVELS},
        "training": {"learning_rate": options.learning_rate, "epochs": options.epochs},
        "stopper": {"use": "fixed"},
        "threshold": {"pixel": False},
        **OBJECTIVES[objective],
    }


def train_fold(
    category: Category,
    train: list[Sample],
    fold: list[Sample],
    recipe: Recipe,
    parts: Assembled,
    options: argparse.Namespace,
) -> dict[str, Any]:
    objective = recipe.run.name
    tables = rules(options.multiple, objective == WHOLE)
    judges = {
        name: cast(
            Stopper,
            build(
                cast(Choice, read_recipe({**tables_of(options, objective), "stopper": table}).stopper), parts.context
            ),
        )
        for name, table in tables.items()
    }
    several = Several(judges)
    parts = replace(parts, recipe=with_stopper(recipe, several))
    source = ImageSource(parts, BadImages(0.0), len(category.samples))
    with tempfile.TemporaryDirectory() as work:
        place = Workspace(source, parts, Display(quiet=True), Path(work))
        fitted = split(category.name, train, fold, (), category.groups, place, place.folder)
    scorer = fitted.path.members[0].scorer
    states = {at: measured(state, scorer, category, train, source, parts) for at, state in several.states.items()}
    return {
        "kept": several.kept,
        "states": states,
        "figures": several.figures,
        "checks": [{"epochs": check.epochs, "loss": check.loss} for check in fitted.trainings[0].checks],
        "seconds": fitted.trainings[0].seconds,
    }


def measured(
    state: Mapping[str, Tensor],
    initial: Scorer,
    category: Category,
    train: list[Sample],
    source: ImageSource,
    parts: Assembled,
) -> dict[str, dict[str, float | None]]:
    """Metrics of one state on the test images, with the scorer fitted on ψ₀ and with one fitted on the state."""
    recipe = parts.recipe
    choice, adapter = recipe.adapter, new_adapter(parts)
    assert choice is not None and adapter is not None
    extractor = extended(copy.deepcopy(parts.trainable[0]), choice, adapter)
    cast(nn.Module, extractor).load_state_dict(state)
    fast = for_inference(extractor, recipe.extractors[0])
    embedding = embedding_of(fast, recipe.extractors[0], recipe.features, parts.context, 0)
    own = source.fresh((embedding,))
    scorers = {"initial": initial}
    if recipe.scorer_fit == "initial":
        again = parts.new_scorer()
        again.fit(own.stream(train, lambda count: None, targets=False, embedding=0))
        scorers["refitted"] = again
    found = {}
    for name, scorer in scorers.items():
        path = parts.scoring_path([Member(0, scorer)])
        test = evaluate(path, category.test, own, parts, lambda count: None, targets=True, peaks=False)
        figures = image_metrics(test.scores, test.labels) | (test.pixel or {})
        found[name] = {figure: figures.get(figure) for figure in FIGURES}
    return found


def train(options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    for objective in options.objectives:
        recipe = read_recipe(tables_of(options, objective))
        dataset = open_dataset(recipe.data, recipe.run.seed)
        parts = assemble(recipe)
        for category in dataset.categories:
            folds = folded(category.train, options.folds, options.seed, category.groups, "--folds", category.name)
            for number, fold in enumerate(folds):
                path = options.output / f"{objective} {category.name} {number}.json"
                if path.exists():
                    continue
                found = train_fold(category, without(category.train, fold), list(fold), recipe, parts, options)
                path.write_text(json.dumps({**settings(options), **found}, indent=1))
                kept = found["kept"]["vicinal"]
                auroc = [found["states"][at]["initial"]["image_auroc"] for at in (0, kept, found["kept"]["fixed"])]
                print(objective, category.name, number, "kept", kept, auroc, f"{found['seconds']:.0f} s", flush=True)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {"settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "run"}}


def tables(options: argparse.Namespace) -> None:
    """Print mean ± standard error over folds, or over categories if there are several, by objective and rule."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(options.output.glob("*.json")):
        objective, rest = path.stem.split(" ", 1)
        category = rest.rpartition(" ")[0]
        found.setdefault(objective, {}).setdefault(category, []).append(json.loads(path.read_text()))
    for objective, categories in found.items():
        print(f"\n{objective}\n\n| rule | epochs | scorer | image AUROC | pixel AUROC | AUPRO |\n|{'---|' * 6}")
        first = next(iter(categories.values()))[0]
        for rule in ("frozen", *(name for name in first["kept"] if name != "frozen")):
            for fit in next(iter(first["states"].values())):
                if rule == "frozen" and fit == "refitted":
                    continue
                print(f"| {rule} | {_epochs(categories, rule)} | {fit} | {' | '.join(_row(categories, rule, fit))} |")


def _epochs(categories: Mapping[str, list[dict[str, Any]]], rule: str) -> str:
    """The range of epochs at which a rule kept its states, over all folds."""
    all_folds = [fold for folds in categories.values() for fold in folds]
    per = [fold["kept"]["fixed"] / fold["checks"][-1]["epochs"] for fold in all_folds]
    at = sorted(fold["kept"][rule] / minibatches for fold, minibatches in zip(all_folds, per, strict=True))
    return f"{at[0]:.3g}" if at[0] == at[-1] else f"{at[0]:.3g}–{at[-1]:.3g}"


def _row(categories: Mapping[str, list[dict[str, Any]]], rule: str, fit: str) -> list[str]:
    cells = []
    for figure in FIGURES:
        means = []
        for folds in categories.values():
            values = [fold["states"][str(fold["kept"][rule])][fit][figure] for fold in folds]
            means.append(values)
        if any(value is None for values in means for value in values):
            cells.append("")
            continue
        # Over categories if there are several, of the mean of each over its folds; else over folds.
        several = [sum(values) / len(values) for values in means]
        mean, sem = mean_and_sem(several if len(several) > 1 else means[0])
        cells.append(f"{mean:.3f}" if sem is None else f"{mean:.3f} ± {sem:.3f}")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(run=train)
    training.add_argument("--root", type=Path, required=True, help="a data set in MVTec layout")
    training.add_argument(
        "--objectives", nargs="+", choices=OBJECTIVES, default=[WHOLE, *(o for o in OBJECTIVES if o != WHOLE)]
    )
    training.add_argument("--folds", type=int, default=5)
    training.add_argument("--epochs", type=int, default=6)
    training.add_argument("--learning-rate", type=float, default=1e-4)
    training.add_argument("--image-size", type=int, default=128)
    training.add_argument("--multiple", type=int, default=4, help="draws of vicinal per held-out image")
    training.add_argument("--seed", type=int, default=0)
    writing = commands.add_parser("tables")
    writing.set_defaults(run=tables)
    for command in (training, writing):
        command.add_argument("--output", type=Path, required=True, help="folder of the values, with one file per fold")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
