"""One run: read the recipe, run every category of its data, and leave the run's folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.data.samples import Category, Dataset
from adkit.detector.save import detector_folders, save_detector
from adkit.detector.tensors import damage
from adkit.errors import UserError
from adkit.inference.assemble import Assembled, assemble
from adkit.inference.cache import FeatureCache
from adkit.inference.kept import cache_limit
from adkit.inference.sources import ImageSource, InitialFeatures, Kept, Source, StoredSource, extract_once
from adkit.inference.store import FeatureStore, fits
from adkit.logs.logs import Logs, opened_logs, require_logs
from adkit.plugin.types import Level
from adkit.recipe.reader import Recipe, read_recipe, resolved
from adkit.recipe.sweep import SWEEP
from adkit.report.page.page import write_page
from adkit.report.page.record import record_path
from adkit.report.report import ComponentReport, ImageCounts, Report, Unreadable, means
from adkit.runner.ahead import stages_ahead
from adkit.runner.category import COLUMNS, run_category
from adkit.runner.fingerprint import Fingerprint
from adkit.runner.fit import Workspace
from adkit.runner.folder import Interrupted, run_folder
from adkit.runner.near import NearCopyWatch
from adkit.runner.resume import Finished, Ledger, State
from adkit.runner.shown import page_shares
from adkit.runner.thresholds import require_groups
from adkit.training.auxiliary import auxiliary_images
from adkit.training.frozen import Trunks, shared_trunks
from adkit.training.plan import require_trainable, unlocalized
from adkit.utils.environment import peak_memory_bytes, versions
from adkit.utils.escapes import harmless
from adkit.utils.progress import Display
from adkit.utils.revision import revision
from adkit.utils.table import row_writer
from adkit.utils.text import counted, did_you_mean, some

logger = logging.getLogger("adkit")

NEAR_COPIES = "near-copies"
"""The contact sheet's name in a run, before the category's where there are several."""


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    display: Display | None = None,
    interrupted: Interrupted = "ask",
    only: Sequence[str] = (),
) -> Report:
    """Carry out a recipe and leave ``<output>/<name>/``.

    Args:
        recipe: a recipe's path, the name of one that ships with adkit, its tables, or a Recipe that was read before.
        overrides: ``"scorer.k=5"`` and the like, as ``--set`` takes them.
        output: folder of the runs; default: the recipe's ``[run] output``.
        display: where to show progress; default: nowhere.
        interrupted: what to do where an unfinished run of this name has finished something: ``ask`` raises a UserError
            that says what, ``resume`` goes on from there, ``fresh`` starts over.
        only: names of the categories to run; default: every one that the recipe's data has.

    Raises:
        UserError: bad input; every problem of the recipe at once.
        RunFault: a fault of a plugin or of adkit, with the path of the log that has its traceback.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides)
    if SWEEP in recipe.document.values:
        raise UserError(
            "[sweep]: expected one setting, found lists of them: use adkit run or adkit.runner.sweep, or remove it"
        )
    final = run_path(recipe, output)
    with recipe.document.locating():
        require_logs(recipe.log)
    with (
        display or Display(quiet=True) as shown,
        run_folder(final, interrupted, shown.say) as ledger,
        recipe.document.locating(),
    ):
        return _carry_out(recipe, ledger, final, shown, only)


def run_path(recipe: Recipe, output: str | Path | None = None) -> Path:
    """The folder that a run of ``recipe`` leaves."""
    return Path(output if output is not None else recipe.run.output) / recipe.run.name


def _carry_out(recipe: Recipe, ledger: Ledger, final: Path, display: Display, only: Sequence[str]) -> Report:
    logger.info("run %s", recipe.run.name)
    warnings: list[str] = []

    def warn(text: str) -> None:
        text = harmless(text)
        logger.warning("%s", text)
        warnings.append(text)
        display.say(f"warning: {text}")

    with display.stage("data", recipe.run.name), recipe.document.locating("data", type(recipe.data).model_fields):
        whole = open_dataset(recipe.data, recipe.run.seed, recipe.threshold.parts)
        dataset = _chosen(whole, only)
    for text in dataset.warnings:
        warn(text)
    with display.stage("weights", recipe.run.name):
        auxiliary, whole = auxiliary_images(recipe, whole, warn)
        parts = assemble(recipe, auxiliary)
        require_groups(recipe, dataset.categories)
        require_trainable(parts, dataset.categories)
        if (pointless := unlocalized(parts)) is not None:
            warn(pointless)
        # Also where one class alone is chosen: it goes the way that it goes in the whole run.
        shared = whole.shared and len(whole.categories) > 1
        kept = (shared_trunks(parts) if shared else None) or InitialFeatures(parts.embeddings)
        if isinstance(kept, Trunks):
            parts = kept.parts
        elif parts.recipe.adapter is None:
            for embedding in parts.embeddings:
                logger.info("%s computes by %s", embedding.who, embedding.runtime)
    earlier = ledger.summary()
    state = ledger.open(Fingerprint.of(parts, dataset), _planned(kept, dataset, shared, ledger))
    if earlier is not None:
        display.say(f"{final}: going on after {earlier}")
    (ledger.run / "recipe.toml").write_text(tomli_w.dumps(resolved(recipe)), encoding="utf-8")
    if shared and not state.stored:
        warn(
            f"the features of {counted(state.images, 'image')} would take more than a quarter of the free disk space, "
            "so every class extracts its own; fewer or deeper levels would fit"
        )

    finished = {record.category: record for record in _intact(ledger, dataset, warn)}
    for record in finished.values():
        logger.info("%s was finished before the interruption", record.category)
        for text in record.warnings:
            warn(text)
    if finished:
        _add_timings(display, list(finished.values())[-1].timings)
    with opened_logs(recipe, ledger.run, ledger.folder, display.say) as logs:
        if len(finished) < len(dataset.categories):
            with _sources(parts, kept, dataset, ledger, state, finished.values(), display) as source:
                for record in _run_categories(dataset, set(finished), source, parts, ledger, display, logs):
                    finished[record.category] = record
                    for text in record.warnings:
                        warn(text)
        records = [finished[category.name] for category in dataset.categories]
        warnings += map(harmless, logs.finish(means({record.category: record.report for record in records})))

    unreadable = _unreadable(records)
    for bad in unreadable:
        logger.warning("unreadable: %s: %s", bad.image, bad.reason)
    if unreadable:
        named = some([bad.image for bad in unreadable], 3)
        left_out = "was left out" if len(unreadable) == 1 else "were left out"
        warn(f"{counted(len(unreadable), 'image')} could not be read and {left_out}: {named}")
    _write_scores(ledger.run / "scores.csv", records)
    report = _report(parts, final, records, unreadable, warnings, display.timings, state.resumed)
    report.passed_over.update(whole.passed_over)
    report.write(ledger.run / "report.json")
    write_page(ledger.run, report)
    return report


def _chosen(dataset: Dataset, only: Sequence[str]) -> Dataset:
    """``dataset`` with those of its categories that ``only`` names, in its own order.

    Raises:
        UserError: a name is not that of a category.
    """
    names = [category.name for category in dataset.categories]
    for name in only:
        if name not in names:
            raise UserError(
                f"--only: expected a category of the data, found {name!r}{did_you_mean(name, names)}: name some of "
                f"{some(names, 20)}"
            )
    chosen = tuple(category for category in dataset.categories if not only or category.name in only)
    return replace(dataset, categories=chosen)


def _planned(kept: Kept, dataset: Dataset, shared: bool, ledger: Ledger) -> State:
    """The state of a run that begins: its categories, and whether features are stored for all of them at once."""
    images = len({sample.id for category in dataset.categories for sample in category.samples})
    return State(
        categories=[category.name for category in dataset.categories],
        images=images,
        stored=shared and fits(ledger.folder, _levels(kept), images),
    )


def _levels(kept: Kept) -> list[Mapping[str, Level]]:
    return [embedding.levels for embedding in kept.embeddings]


def _intact(ledger: Ledger, dataset: Dataset, warn: Callable[[str], None]) -> Iterator[Finished]:
    """The records of what was finished, as far as its detectors and what the page takes are still there as saved."""
    names = [category.name for category in dataset.categories]
    folders = detector_folders(ledger.run, names)
    for record in ledger.finished().values():
        page = record_path(ledger.run, names.index(record.category))
        if found := damage(folders[record.category]) or ("" if page.exists() else f"{page.name} is gone"):
            warn(f"{record.category}: finished before the interruption and damaged since, so it is done again: {found}")
        else:
            yield record


def _run_categories(
    dataset: Dataset,
    done: Container[str],
    source: Source,
    parts: Assembled,
    ledger: Ledger,
    display: Display,
    logs: Logs,
) -> Iterator[Finished]:
    """Run every category that is not done yet, and save its detector and its record."""
    detectors = detector_folders(ledger.run, [category.name for category in dataset.categories])
    shares = page_shares(dataset, parts)
    todo = [pair for pair in zip(dataset.categories, shares, strict=True) if pair[0].name not in done]
    display.expect(stages_ahead(todo, parts))
    first: Path | None = None
    for number, category in enumerate(dataset.categories):
        folder = detectors[category.name]
        if category.name not in done:
            shutil.rmtree(folder, ignore_errors=True)  # what an attempt that was killed left of it
            with _remarks() as remarks:
                watch = _watch(category, parts, folder, len(dataset.categories) == 1)
                own = parts.of(category)
                work = ledger.workspace(number)
                place = Workspace(source.of(own), own, display, work, watch, shares[number], logs)
                result, fitted = run_category(category, place)
            with display.stage("save", category.name):
                save_detector(fitted, parts, folder, beside=first)
            if watch is not None and result.sheet is not None:
                result.sheet.save(ledger.run / watch.sheet)
            if result.page is not None:
                result.page.save(ledger.run, number)
            logs.category(category.name, result.report, result.page)
            del fitted  # its memory is the next category's
            record = Finished(
                category=category.name,
                report=result.report,
                rows=result.rows,
                warnings=[*(f"{category.name}: {text}" for text in remarks), *result.warnings],
                unreadable={s.id: source.bad.reasons[s.id] for s in category.samples if s.id in source.bad},
                timings=display.timings,
            )
            ledger.finish(number, record, folder)
            yield record
        first = first or folder


def _watch(category: Category, parts: Assembled, folder: Path, alone: bool) -> NearCopyWatch | None:
    """A watch for near copies, where nobody says which part an image shows and features are not adapted to images."""
    if category.grouped or parts.recipe.adapter is not None:
        return None
    return NearCopyWatch(category, f"{NEAR_COPIES}{'' if alone else f'-{folder.name}'}.png")


class _Collector(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(harmless(record.getMessage()))


@contextmanager
def _remarks() -> Iterator[list[str]]:
    """Collect what components warn of through adkit's logger, for the report."""
    found: list[str] = []
    handler = _Collector(found)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@contextmanager
def _sources(
    parts: Assembled,
    kept: Kept,
    dataset: Dataset,
    ledger: Ledger,
    state: State,
    finished: Collection[Finished],
    display: Display,
) -> Iterator[Source]:
    """Open the source of features: classes of the same images share one extraction."""
    parts = parts.of(dataset.categories[0])  # of several that share a store, each has its range
    cache = FeatureCache(parts.recipe, parts.embeddings) if parts.recipe.adapter is None and cache_limit() else None
    own = ImageSource(parts, BadImages(parts.recipe.data.max_bad_share), state.images, cache)
    for record in finished:
        for image, reason in record.unreadable.items():
            own.bad.add(image, reason)
    if not state.stored:
        yield own
        return
    store = FeatureStore(ledger.features, _levels(kept))
    if not finished:  # whose timings have it
        _add_timings(display, {"extract": store.seconds})
    images = list({s.id: s for category in dataset.categories for s in category.samples}.values())
    left = store.missing(images)
    with display.stage("extract", parts.recipe.run.name, len(left)) as advance:
        extract_once(own, left, kept.embeddings, store, advance)
    yield StoredSource(parts, kept, store, own)
    shutil.rmtree(ledger.features)


def _add_timings(display: Display, timings: Mapping[str, float]) -> None:
    """Add the seconds that earlier attempts took."""
    for stage, seconds in timings.items():
        display.timings[stage] = display.timings.get(stage, 0.0) + seconds


def _unreadable(records: Iterable[Finished]) -> list[Unreadable]:
    """Every unreadable image once, with all of its categories."""
    found: dict[str, Unreadable] = {}
    for record in records:
        for image, reason in record.unreadable.items():
            entry = found.setdefault(image, Unreadable(image=image, reason=reason, categories=[]))
            entry.categories.append(record.category)
    return list(found.values())


def _write_scores(path: Path, records: Iterable[Finished]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write = row_writer(file)
        write(COLUMNS)
        for record in records:
            for row in record.rows:
                write(row)


def _report(
    parts: Assembled,
    final: Path,
    records: Iterable[Finished],
    unreadable: list[Unreadable],
    warnings: list[str],
    timings: Mapping[str, float],
    resumed: int,
) -> Report:
    recipe = parts.recipe
    categories = {record.category: record.report for record in records}
    counts = [category.images for category in categories.values()]
    totals = {key: sum(getattr(count, key) for count in counts) for key in ImageCounts.model_fields if key != "groups"}
    return Report(
        name=recipe.run.name,
        folder=str(final),
        categories=categories,
        mean=means(categories),
        resumed=resumed,
        timings={stage: round(seconds, 3) for stage, seconds in timings.items()},
        peak_memory_bytes=peak_memory_bytes(),
        versions=versions(),
        git=revision(Path()),
        seed=recipe.run.seed,
        device=parts.context.device,
        precision=parts.context.precision,
        runtimes=list(dict.fromkeys(runtime for category in categories.values() for runtime in category.runtimes)),
        components=[
            ComponentReport(kind=kind, name=choice.name, origin=str(choice.registered.origin))
            for kind, choice in recipe.choices
        ],
        images=ImageCounts(**(totals | {"unreadable": len(unreadable)})),
        unreadable=unreadable,
        warnings=warnings,
    )
