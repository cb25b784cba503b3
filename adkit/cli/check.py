"""``adkit check``: is the recipe right, is its data there, and what will a run need?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adkit.cli.options import RECIPE, add_set, parse_first
from adkit.cli.streams import show
from adkit.utils.text import counted, joined, some

if TYPE_CHECKING:
    from adkit.cli.options import Commands
    from adkit.data.samples import Category
    from adkit.inference.assemble import Assembled
    from adkit.plugin.adapter import Schedule
    from adkit.plugin.guard import GuardedAdapter


def add_parser(commands: Commands) -> None:
    """Add the command with its arguments."""
    parser = commands.add_parser("check", help="validate a recipe, find its data, and say what a run would need")
    parser.add_argument("recipe", metavar="RECIPE", help=RECIPE)
    add_set(parser)
    parser.add_argument(
        "--features",
        action="store_true",
        help="look at the images' features too, for near copies between the images to fit and those held out",
    )
    parser.add_argument(
        "--contact-sheet",
        metavar="PATH",
        type=Path,
        default=Path("near-copies.png"),
        help="where --features shows pairs of near copies, if it finds any (default: %(default)s)",
    )
    parser.set_defaults(command=check_recipe)


def check_recipe(options: argparse.Namespace) -> int:
    parse_first(options.recipe)
    sheet = options.contact_sheet if options.features else None
    show(check(Path(options.recipe), options.overrides, sheet))
    return 0


def check(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), contact_sheet: Path | None = None
) -> str:
    """Validate a recipe, resolve its data and build its components, and describe the run to come.

    Args:
        contact_sheet: where pairs of near copies are shown if there are any; None: features are not looked at.

    Raises:
        UserError: whatever would stop a run before its first image.
    """
    from adkit.data.dataset import open_dataset
    from adkit.inference.assemble import assemble
    from adkit.logs.logs import require_logs
    from adkit.recipe.reader import read_recipe
    from adkit.recipe.sweep import sweep_of
    from adkit.runner.sweep import points_of
    from adkit.runner.thresholds import require_groups
    from adkit.training.auxiliary import auxiliary_images
    from adkit.training.plan import new_adapter, new_stopper, read_levels, require_trainable, scheduled, unlocalized

    read = read_recipe(recipe, overrides)
    with read.document.locating():
        require_logs(read.log, reachable=False)
    with read.document.locating("data", type(read.data).model_fields):
        dataset = open_dataset(read.data, read.run.seed, read.threshold.parts)
    with read.document.locating():
        remarks: list[str] = []
        auxiliary, dataset = auxiliary_images(read, dataset, remarks.append)
        parts = assemble(read, auxiliary)
        adapter, stopper = new_adapter(parts), new_stopper(parts)
        require_groups(read, dataset.categories)
        require_trainable(parts, dataset.categories)
        if text := unlocalized(parts):
            remarks.append(text)
    lines = [f"{read.path or 'recipe'}: in order"]
    if sweep := sweep_of(read.document):
        points = points_of(read, sweep, recipe if isinstance(recipe, Mapping) else Path(recipe), overrides)
        lines.append(f"  sweep      {counted(len(points), 'point')}, by {sweep.rank_by}; below is the recipe itself")
    for kind, choice in read.choices:
        lines.append(f"  {kind:<10} {choice.name:<12} {choice.registered.origin}")
    runtimes = parts.wanted.names if adapter is None or adapter.fuse is None else ()  # snapshots are not converted
    lines.append(f"  computes   in {parts.context.precision} on {parts.context.device}{_runtimes(runtimes)}")
    if adapter is not None:
        lines += [f"  training   {line}" for line in _stages(adapter, scheduled(adapter, read.training), parts)]
        if stopper is not None and stopper.validation:
            lines.append(f"  stopping   by {stopper.validation:g} of the normal images to fit")
        if parts.auxiliary:
            lines.append(f"  auxiliary  {counted(len(parts.auxiliary), 'image')}")
    levels = read_levels(parts)
    for name, level in (entry for one in levels for entry in one.items()):
        cells = f"{level.grid[0]} × {level.grid[1]} {'cells' if level.spatial else 'cell'}"
        lines.append(f"  level      {name:<12} {cells} of {counted(level.channels, 'channel')}")
    for category in dataset.categories:
        lines.append(f"  {category.name}: {_counts(category)}")
        if category.range is not None:
            low, high = category.range
            lines.append(f"  {category.name}: raw values from {low:.10g} to {high:.10g} become 0 to 255")
    if dataset.passed_over:
        lines.append(
            f"  passed over {some([f'{n:,} × {kind}' for kind, n in sorted(dataset.passed_over.items())], 20)}"
        )
    largest = max(len(category.train) for category in dataset.categories)
    scorer = parts.new_scorer()
    folds = max(len(category.folds) for category in dataset.categories)
    fitted_on = largest * (folds - 1) // folds if folds else largest
    needs = [scorer.memory(one, fitted_on) for one in levels]
    known = [need for need in needs if need is not None]
    if len(known) == len(needs):
        each = f" for each of {folds} folds, one after the other" if folds else ""
        lines.append(f"  memory     fitting the scorer takes at most {_size(sum(known))}{each}")
    else:
        lines.append(f"  memory     {read.scorer.name} does not say how much fitting it takes")
    work = [count for one in levels if (count := scorer.operations(one, fitted_on)) is not None]
    if work:
        fits = sum(work) * max(folds, 1)
        seconds = fits / _operations_per_second(parts.context.device)
        lines.append(
            f"  work       fitting the scorer takes at most {fits:.2g} operations beside the extractor's; as matrix "
            f"products they would take this machine {seconds:,.0f} s"
        )
    for category in dataset.categories:
        if len({sample.label for sample in category.test}) < 2:
            lines.append(f"warning: {category.name}: test images of both kinds are needed for metrics")
    lines += [f"warning: {text}" for text in (*dataset.warnings, *remarks)]
    if contact_sheet is not None:
        with read.document.locating():
            lines += _near_copies(dataset.categories, parts, contact_sheet)
    return "\n".join(lines)


def _near_copies(categories: Sequence[Category], parts: Assembled, contact_sheet: Path) -> list[str]:
    """What is to be said of near copies between the images to fit and those held out, by category."""
    from adkit.data.loader import BadImages
    from adkit.inference.sources import ImageSource
    from adkit.runner.near import look_for_near_copies
    from adkit.utils.progress import Display

    lines = []
    with Display() as display:
        for category in categories:
            if category.grouped:
                lines.append(f"  {category.name}: the parts are named, so near copies were not looked for")
                continue
            sheet = contact_sheet
            if len(categories) > 1:
                name = category.name.replace("/", "_")
                sheet = contact_sheet.with_name(f"{contact_sheet.stem}-{name}{contact_sheet.suffix}")
            source = ImageSource(parts.of(category), BadImages(parts.recipe.data.max_bad_share), len(category.samples))
            found = look_for_near_copies(category, source, parts.embeddings[0], display, str(sheet))
            if found is None:
                lines.append(f"  {category.name}: no sign of near copies between the images to fit and those held out")
                continue
            found.sheet.save(sheet)
            lines += [f"warning: {text}" for text in found.warnings]
    return lines


def _stages(adapter: GuardedAdapter, schedule: Schedule, parts: Assembled) -> list[str]:
    """What each stage of the training of the first extractor takes."""
    import copy

    stages = adapter.stages(adapter.extend(copy.deepcopy(parts.trainable[0])))
    lines = []
    for stage in stages:
        own = replace(schedule, batch_size=stage.batch_size or schedule.batch_size)
        if stage.minibatches is not None:
            own = replace(own, minibatches=stage.minibatches, epochs=None)
        rates = {group.learning_rate or schedule.learning_rate: None for group in stage.groups}
        lines.append(("" if len(stages) == 1 else f"{stage.name}: ") + _schedule(own, list(rates)))
    return lines


def _schedule(schedule: Schedule, rates: Sequence[float]) -> str:
    if schedule.minibatches is not None:
        length = counted(schedule.minibatches, "minibatch", "minibatches")
    else:
        length = f"{schedule.epochs:g} {'epoch' if schedule.epochs == 1 else 'epochs'}"
    kind = "relative" if schedule.relative_steps else "learning"
    rate = f"{kind} rate{'s' * (len(rates) > 1)} {' and '.join(f'{one:g}' for one in rates)}"
    if schedule.rate_decay != "none":
        rate += f" with {schedule.rate_decay} decay"
    return f"{schedule.optimizer}, {rate}, batches of {schedule.batch_size}, at most {length}"


def _operations_per_second(device: str) -> float:
    """How many additions and multiplications matrix products do in a second."""
    import time

    import torch

    one = torch.rand(1024, 1024, device=device)
    _ = float((one @ one).sum())
    started = time.perf_counter()
    _ = float((one @ one @ one @ one @ one).sum())
    return 4 * 2 * 1024**3 / (time.perf_counter() - started)


def _runtimes(names: Sequence[str]) -> str:
    """What the extractor is computed by, as the end of a line."""
    return f" by {joined(names, 'or')} where it agrees with torch, else by torch" if names else " by torch"


def _counts(category: Category) -> str:
    anomalous = sum(sample.label for sample in category.test)
    calibrating = f"in {len(category.folds)} folds, all" if category.folds else f"{len(category.calibration):,}"
    masks = sum(sample.mask is not None for sample in category.test)
    counts = (
        f"{counted(len(category.train), 'normal image')} to fit, {calibrating} to calibrate, "
        f"{len(category.test):,} to test ({anomalous:,} anomalous, {masks:,} with a mask)"
    )
    if category.grouped:
        parts = (category.train, category.calibration, category.test)
        groups = [f"{len({category.group_of(sample) for sample in part}):,}" for part in parts]
        counts += f"; groups: {groups[0]} to fit, {groups[1]} to calibrate, {groups[2]} to test"
    return counts


def _size(count: int) -> str:
    if count < 1000:
        return counted(count, "byte")
    value = count / 1000
    for unit in ("kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
