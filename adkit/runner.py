"""One run: read the recipe, judge every category of its data, and leave the run's folder."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from adkit.assemble import Assembled, assemble
from adkit.data.datasets import open_dataset
from adkit.data.loader import BadPictures
from adkit.data.samples import Dataset
from adkit.facts import git_state, peak_memory_bytes, versions
from adkit.folder import run_folder
from adkit.judging import COLUMNS, Judgement, judge
from adkit.progress import Display
from adkit.recipe import Recipe, read_recipe, resolved
from adkit.report import ComponentReport, Pictures, Report, Unreadable, means
from adkit.saving import detector_folders, save_detector
from adkit.sources import PictureSource, Source, extract_once
from adkit.store import fits

logger = logging.getLogger("adkit")


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    display: Display | None = None,
) -> Report:
    """Carry out a recipe and leave ``<output>/<name>/``.

    Args:
        recipe: a recipe's path, its tables, or a Recipe that was read before.
        overrides: ``"scorer.k=5"`` and the like, as ``--set`` takes them.
        output: folder of the runs; default: the recipe's ``[run] output``.
        display: where to show progress; default: nowhere.

    Raises:
        UserError: bad input; every problem of the recipe at once.
        RunFault: an internal fault, with the path of the log that has its traceback.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides)
    final = Path(output if output is not None else recipe.run.output) / recipe.run.name
    with display or Display(quiet=True) as shown, run_folder(final) as folder, recipe.document.locating():
        return _carry_out(recipe, folder, final, shown)


def _carry_out(recipe: Recipe, folder: Path, final: Path, display: Display) -> Report:
    logger.info("run %s", recipe.run.name)
    (folder / "recipe.toml").write_text(tomli_w.dumps(resolved(recipe)), encoding="utf-8")
    warnings: list[str] = []

    def warn(text: str) -> None:
        logger.warning("%s", text)
        warnings.append(text)
        display.say(f"warning: {text}")

    with display.stage("data", recipe.run.name), recipe.document.locating("data", type(recipe.data).model_fields):
        dataset = open_dataset(recipe.data, recipe.run.seed)
    for text in dataset.warnings:
        warn(text)
    for category in dataset.categories:
        if recipe.data.calibration and not category.calibration:
            warn(f"{category.name}: too few normal pictures to keep any back for a threshold, so there is none")
    with display.stage("weights", recipe.run.name):
        parts = assemble(recipe)

    judgements: dict[str, Judgement] = {}
    unreadable: dict[str, Unreadable] = {}
    detectors = detector_folders(folder, [category.name for category in dataset.categories])
    first: Path | None = None
    with _sources(parts, dataset, folder, display, warn) as source:
        for category in dataset.categories:
            judged, fitted = judge(category, source, parts, display)
            judgements[category.name] = judged
            with display.stage("save", category.name):
                save_detector(fitted, parts, detectors[category.name], beside=first)
            first = first or detectors[category.name]
            del fitted  # its memory is the next category's
            for text in judged.warnings:
                warn(text)
            for sample in category.samples:
                if sample.id in source.bad:
                    reason = source.bad.reasons[sample.id]
                    entry = unreadable.setdefault(
                        sample.id, Unreadable(picture=sample.id, reason=reason, categories=[])
                    )
                    entry.categories.append(category.name)
    for bad in unreadable.values():
        logger.warning("unreadable: %s: %s", bad.picture, bad.reason)
    if unreadable:
        named = ", ".join(list(unreadable)[:3])
        warn(f"{len(unreadable)} pictures could not be read and were left out: {named}{' …' * (len(unreadable) > 3)}")

    _write_scores(folder / "scores.csv", judgements)
    report = _report(parts, final, judgements, list(unreadable.values()), warnings, display)
    report.write(folder / "report.json")
    return report


@contextmanager
def _sources(
    parts: Assembled, dataset: Dataset, folder: Path, display: Display, warn: Callable[[str], None]
) -> Iterator[Source]:
    """Where features come from: classes of the same pictures share one extraction."""
    pictures = list({s.id: s for c in dataset.categories for s in c.samples}.values())
    own = PictureSource(parts, BadPictures(parts.recipe.data.max_bad_share), len(pictures))
    if not dataset.shared or len(dataset.categories) < 2:
        yield own
        return
    if not fits(folder, parts.embedding.levels, len(pictures)):
        warn(
            f"the features of {len(pictures)} pictures would take more than a quarter of the free disk space, so every "
            "class extracts its own; fewer or deeper levels would fit"
        )
        yield own
        return
    store = folder / "features"
    with display.stage("extract", parts.recipe.run.name, len(pictures)) as advance:
        source = extract_once(parts, own, pictures, store, advance)
    yield source
    shutil.rmtree(store)


def _write_scores(path: Path, judgements: Mapping[str, Judgement]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for judged in judgements.values():
            writer.writerows(judged.rows)


def _report(
    parts: Assembled,
    final: Path,
    judgements: Mapping[str, Judgement],
    unreadable: list[Unreadable],
    warnings: list[str],
    display: Display,
) -> Report:
    recipe = parts.recipe
    categories = {name: judged.report for name, judged in judgements.items()}
    chosen = {"extractor": recipe.extractor, "scorer": recipe.scorer, "localizer": recipe.localizer}
    counts = [category.pictures for category in categories.values()]
    totals = {key: sum(getattr(count, key) for count in counts) for key in Pictures.model_fields}
    return Report(
        name=recipe.run.name,
        folder=str(final),
        categories=categories,
        mean=means(categories),
        timings={stage: round(seconds, 3) for stage, seconds in display.timings.items()},
        peak_memory_bytes=peak_memory_bytes(),
        versions=versions(),
        git=git_state(),
        seed=recipe.run.seed,
        device=parts.context.device,
        precision=parts.context.precision,
        components=[
            ComponentReport(kind=kind, name=choice.name, origin=str(choice.registered.origin))
            for kind, choice in chosen.items()
        ],
        pictures=Pictures(**(totals | {"unreadable": len(unreadable)})),
        unreadable=unreadable,
        warnings=warnings,
    )
