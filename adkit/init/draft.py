"""A first recipe for a folder: what was found there, what is doubtful, and the text of the recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adkit.data.dataset import open_dataset
from adkit.data.images import ImageError, image_size, in_threads, is_deep_file
from adkit.data.loader import BadImages
from adkit.data.samples import ArrayItem, Category, Dataset, Sample, spread_over
from adkit.errors import UserError
from adkit.inference.assemble import assemble
from adkit.inference.sources import ImageSource
from adkit.init.layout import Layout, layout_of
from adkit.recipe.reader import Recipe, read_recipe
from adkit.runner.near import look_for_near_copies
from adkit.utils.progress import Display
from adkit.utils.text import counted, some, toml_value

LOOKED_AT: Final = 200
"""Images whose headers are read, of each category."""
SMALL: Final = 64
"""Side in pixels below which images show too little for patches."""
LONG: Final = 1.5
"""How many times as long as wide an image is that squashing distorts visibly."""
RATES: Final = (0.05, 0.1, 0.2, 0.3, 0.5)
"""False-alarm rates to promise, the lowest that the images support."""

Tables = dict[str, dict[str, Any]]

_PATCHES: Final[Tables] = {
    "extractor": {"use": "timm", "backbone": "tf_efficientnet_lite0", "levels": ["blocks.2", "blocks.4"]},
    "features": {"neighborhood": 3},
    "scorer": {"use": "knn", "k": 1, "metric": "cosine", "sample": 0.1},
    "localizer": {"use": "bilinear", "smoothing": 2.0},
}
_WHOLE: Final[Tables] = {
    "extractor": {"use": "timm", "backbone": "tf_efficientnet_lite0", "levels": ["pool"]},
    "scorer": {"use": "knn", "k": 2},
}
_WHY: Final = {
    "extractor.levels": "what the network has after these modules; pool is one vector an image",
    "features.neighborhood": "each location is averaged with those around it",
    "scorer.k": "the mean distance to so many nearest normal features",
    "scorer.sample": "share of the locations of each normal image that is kept",
    "localizer.smoothing": "of the maps, in cells",
    "threshold.false_positive_rate": "chance that a new normal image is called anomalous, at most",
    "data.range": "images of more than 8 bits: what is dark and bright is taken from the training images",
    "data.group": "images that show one part, which no split separates",
}


@dataclass(frozen=True)
class Draft:
    """A recipe that ``adkit check`` passes, and what is to be said of the folder."""

    text: str
    found: list[str]
    doubts: list[str]


def draft(folder: Path, display: Display | None = None, *, copies: bool = True) -> Draft:
    """Look at a folder and write a recipe for it.

    Args:
        copies: whether to compute features and look for near copies, which takes as long as fitting does.

    Raises:
        UserError: there are no images, or they cannot be read as they lie.
    """
    layout = layout_of(folder)
    data = dict(layout.keys)
    doubts = list(layout.doubts)
    try:
        recipe, dataset = _opened(data, doubts)
    except UserError as error:
        raise UserError(f"{folder}: {problem}" for problem in error.problems) from error
    normal = [sample for one in dataset.categories for sample in one.normal]
    files = [sample.source for sample in spread_over(normal, LOOKED_AT) if isinstance(sample.source, Path)]
    sizes = _sizes(folder, normal, doubts)
    found = [layout.found, *_counts(dataset.categories)]
    if sizes:
        found.append(_told_sizes(sizes))
    if any(_deep(file) for file in files):
        data["range"] = "auto"
        found.append("gray images of more than 8 bits")
    longest = max((max(size) / min(size) for size in sizes), default=1.0)
    if longest > LONG:
        doubts.append(
            f'images up to {longest:.1f} times as long as wide become square: data.resize = "pad" keeps their shape; '
            "which is better depends on what is looked for"
        )
    if dataset.passed_over:
        others = some([f"{count:,} × {kind}" for kind, count in sorted(dataset.passed_over.items())])
        found.append(f"passed over, since they are no images: {others}")
    if copies:
        with display or Display() as shown:
            group = _group(recipe, dataset, shown, doubts)
        if group is not None:
            data["group"] = group
    if data.keys() & {"range", "group"}:  # which others may show otherwise
        recipe, dataset = _opened(data, doubts)
    doubts += [text for text in dataset.warnings if text not in doubts]
    small = bool(sizes) and max(max(size) for size in sizes) <= SMALL
    if small:
        found.append(f"images of no more than {SMALL} pixels a side: they are compared as wholes, without maps")
    rate = _rate(dataset.categories, doubts)
    tables = {"data": data, **(_WHOLE if small else _PATCHES), "threshold": {"false_positive_rate": rate}}
    if small and min(len(one.train) for one in dataset.categories) < 2:
        tables["scorer"] = tables["scorer"] | {"k": 1}
    return Draft(_text(tables, layout, small), found, doubts)


def _opened(data: dict[str, Any], doubts: list[str]) -> tuple[Recipe, Dataset]:
    """Open the data as ``data`` says, without masks where these cannot be used; raises UserError."""
    recipe = read_recipe({"data": data, **_PATCHES})
    try:
        return recipe, open_dataset(recipe.data, recipe.run.seed)
    except UserError as error:
        if "masks" not in data:
            raise
        del data["masks"]
        opened = _opened(data, doubts)
        doubts.append(f"the masks are left out: {error}")
        return opened


def _sizes(folder: Path, normal: Sequence[Sample], doubts: list[str]) -> list[tuple[int, int]]:
    """The sizes of some of the images; what cannot be read becomes a doubt, or a UserError where nothing can."""
    looked = spread_over(normal, LOOKED_AT)
    found = in_threads(_size, looked)
    bad = {sample.id: one for sample, one in zip(looked, found, strict=True) if isinstance(one, str)}
    if bad:
        named = some([f"{id}: {reason}" for id, reason in bad.items()], 3)
        if len(bad) == len(looked):
            raise UserError(f"{folder}: expected images, found none that can be read ({named}): look at the files")
        doubts.append(f"{counted(len(bad), 'image')} of {len(looked):,} that were looked at cannot be read ({named})")
    return [one for one in found if not isinstance(one, str)]


def _size(sample: Sample) -> tuple[int, int] | str:
    """The (height, width) of an image, or why it cannot be read."""
    if isinstance(sample.source, ArrayItem):
        return sample.source.pixels.shape[0], sample.source.pixels.shape[1]
    try:
        return image_size(sample.source)
    except ImageError as error:
        return error.reason


def _deep(file: Path) -> bool:
    try:
        return is_deep_file(file)
    except ImageError:
        return False


def _told_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    low, high = min(sizes, key=math.prod), max(sizes, key=math.prod)
    if low == high:
        return f"images of {low[1]:,} × {low[0]:,} pixels"
    return f"images from {low[1]:,} × {low[0]:,} to {high[1]:,} × {high[0]:,} pixels"


def _counts(categories: Sequence[Category]) -> list[str]:
    lines = []
    for one in categories[:10]:
        anomalous = [sample for sample in one.test if sample.label]
        masks = sum(sample.mask is not None for sample in anomalous)
        line = f"{one.name}: {counted(len(one.normal), 'normal image')}"
        if anomalous:
            line += (
                f", {len(anomalous):,} anomalous, {masks:,} with a mask" if masks else f", {len(anomalous):,} anomalous"
            )
        else:
            line += ", none anomalous: there is nothing to measure with"
        lines.append(line)
    return lines + ([f"and {len(categories) - 10} more"] if len(categories) > 10 else [])


def _group(recipe: Recipe, dataset: Dataset, display: Display, doubts: list[str]) -> str | None:
    """The value of ``data.group`` that near copies ask for; what cannot be said by one becomes a doubt."""
    parts = assemble(recipe)
    suggested: dict[str, list[str]] = {}
    for category in dataset.categories:
        if category.grouped or dataset.shared:
            return None
        source = ImageSource(parts.of(category), BadImages(1.0), len(category.samples))
        report = look_for_near_copies(category, source, parts.embeddings[0], display, "near-copies.png")
        if report is None:
            continue
        if report.suggestion is None:
            doubts.append(
                f"{category.name}: near copies among the normal images, as of one part or moment, which their names do "
                "not tell: adkit check --features shows them; without data.group, thresholds and figures promise more "
                "than they hold"
            )
        else:
            suggested.setdefault(report.suggestion, []).append(category.name)
    if not suggested:
        return None
    group = max(suggested, key=lambda one: len(suggested[one]))
    doubts.append(
        f"{some(suggested[group])}: near copies among the normal images, as of one part: data.group keeps together "
        "what their names have in common; look whether that is a part"
    )
    return group


def _rate(categories: Sequence[Category], doubts: list[str]) -> float:
    fewest = min(len({one.group_of(sample) for sample in one.calibration}) for one in categories)
    supported = 1 / (fewest + 1)
    rate = next((rate for rate in RATES if rate >= supported), RATES[-1])
    if rate > RATES[0]:
        doubts.append(
            f"a fifth of the normal images, {fewest}, sets the threshold, which can promise no less than "
            f"{supported:.2g} of false alarms: a promise of {RATES[0]:g} takes 95 normal images, or parts"
        )
    return rate


def _text(tables: Mapping[str, Mapping[str, Any]], layout: Layout, small: bool) -> str:
    what = "whole images" if small else "patches"
    lines = [
        f"# Distance of {what} to the nearest normal ones, in features that ImageNet taught; nothing is trained.",
        f"# By adkit init, which found {layout.found}.",
        "#   adkit check THIS       is everything there, and what does a run take?",
        "#   adkit run THIS         learn, measure, set the threshold; leaves a page and a detector",
        "# Other methods: adkit recipes",
    ]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        for key, value in table.items():
            why = _WHY.get(f"{name}.{key}")
            lines.append(f"{key} = {toml_value(value)}" + (f"  # {why}" if why else ""))
    return "\n".join(lines) + "\n"
