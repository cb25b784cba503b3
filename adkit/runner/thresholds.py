"""The thresholds of a run: which held-out scores they come from, what they promise, and what the test says of that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adkit.data.samples import Category
from adkit.data.splits import one_per_group
from adkit.errors import UserError
from adkit.metrics import PIXEL_METRICS, image_metrics
from adkit.recipe.reader import Recipe
from adkit.recipe.tables import Per, ThresholdTable
from adkit.report.report import ThresholdReport
from adkit.runner.evaluate import Evaluation, FloatArray
from adkit.runner.fit import Calibrated, Workspace, folds_of
from adkit.threshold import (
    Groups,
    Scores,
    Threshold,
    alike,
    by_hand,
    conformal,
    highest_per_group,
    p_values,
    promise,
    wilson_interval,
)
from adkit.utils.text import counted, some


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The scores of held-out normal images that thresholds and p-values come from, as ``[threshold]`` asks for them."""

    table: ThresholdTable
    scores: FloatArray
    """(m,) raw scores: of one image per group, the highest per group, or all."""
    peaks: FloatArray | None
    """(m,) the highest values of the maps of the same; None without maps or where no pixel threshold is asked for."""
    groups: Groups | None
    """(m,) equal numbers for images of one group; None: each score is of a group of its own."""

    @classmethod
    def of(cls, found: Evaluation, groups: Mapping[str, str], table: ThresholdTable, seed: int) -> Self:
        """Select from the scores of all calibration images.

        Args:
            groups: id → the key of the group, as ``Category.groups`` has it.
            seed: draws the image of each group.
        """
        keys = np.array(found.keys(groups))
        numbers = np.unique(keys, return_inverse=True)[1].astype(np.int64)

        def each(values: FloatArray) -> FloatArray:
            if table.per == "part":
                return highest_per_group(values, numbers)[0]
            if table.method == "split":
                return values[one_per_group(found.samples, seed, groups)]
            return values

        peaks = None if found.peaks is None else each(found.peaks)
        return cls(table, each(found.scores), peaks, numbers if table.method == "hierarchical" else None)

    @property
    def threshold(self) -> Threshold | None:
        """The threshold on scores.

        None without calibration images, and where all of them have the same score, unless a value was set.
        """
        if self.table.value is not None:
            return by_hand(self.table.value, self.scores, self.groups)
        return self._above(self.scores)

    @property
    def pixel_threshold(self) -> Threshold | None:
        """The threshold on the values of maps; None without maps or calibration images."""
        return None if self.peaks is None else self._above(self.peaks)

    @property
    def alike(self) -> bool:
        """Whether several images have all the same score: what cannot tell images apart has no threshold."""
        return alike(self.scores)

    def p_values(self, scores: Scores) -> NDArray[np.float64]:
        """Compute the p-values of ``scores`` (n,)."""
        return p_values(scores, self.scores, self.groups)

    def _above(self, values: FloatArray) -> Threshold | None:
        if not len(values) or self.alike:
            return None
        return conformal(values, self.table.false_positive_rate, self.groups)


@dataclass(frozen=True, eq=False)
class Trial:
    """A fitted detector, its thresholds, and its scores of the test images."""

    fitted: Calibrated
    held_out: HeldOut
    threshold: Threshold | None
    pixel: Threshold | None
    test: Evaluation
    fold: int | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        return image_metrics(self.test.scores, self.test.labels) | (self.test.pixel or dict.fromkeys(PIXEL_METRICS))


def require_groups(recipe: Recipe, categories: Sequence[Category]) -> None:
    """Refuse a threshold that is about parts where nobody says which images show one part, and more folds than groups.

    Raises:
        UserError: ``[threshold]`` asks for parts, and a category has no groups; or ``[run]`` asks for more folds than a
            category has.
    """
    if recipe.run.folds > 1:
        for category in categories:
            folds_of(category, recipe)
    table = recipe.threshold
    if table.per == "image" and table.method != "hierarchical":
        return
    if without := [category.name for category in categories if not category.grouped]:
        key, value = ("per", "part") if table.per == "part" else ("method", "hierarchical")
        raise UserError(
            f'threshold.{key}: expected data.group with "{value}", which is about images of one part, found none in '
            f"{some(without, 3)}: say with data.group which images show one part, or remove this key"
        )


def threshold_report(
    category: Category, kept: Trial, tested: Sequence[Trial], place: Workspace, *, pixel: bool
) -> ThresholdReport | None:
    """The threshold of the kept detector, with what was above it among test images.

    Args:
        tested: the detectors whose test images count, each by its own threshold.
        pixel: whether it is the threshold on maps, which the highest value of each map is compared with.
    """
    threshold, table = (kept.pixel if pixel else kept.threshold), place.parts.recipe.threshold
    if threshold is None:
        return None
    normal = [share for trial in tested for share in _shares(category, trial, table.per, pixel=pixel, label=0)]
    # Anomalous images are tested by every detector of several; they count by that of the kept one.
    anomalous = _shares(category, kept, table.per, pixel=pixel, label=1)
    calibrated = kept.fitted.calibration.samples
    groups = len({category.group_of(sample) for sample in calibrated})
    approximate = table.method == "cross" or (table.method == "pooled" and groups < len(calibrated))
    return ThresholdReport(
        value=threshold.value,
        method=table.method,
        per=table.per,
        promise=promise(threshold, table.per, approximate=approximate, grouped=category.grouped, pixel=pixel),
        approximate=approximate,
        folds=table.parts or None,
        calibration_images=len(calibrated),
        calibration_groups=groups,
        false_positive_rate_asked=threshold.asked,
        false_positive_rate_supported=threshold.supported,
        false_positive_rate_smallest=1 / (groups + 1),
        test_false_positive_rate=sum(normal) / len(normal) if normal else None,
        test_false_positive_interval=wilson_interval(sum(normal), len(normal)) if normal else None,
        test_normal_groups=len(normal),
        test_recall=sum(anomalous) / len(anomalous) if anomalous else None,
    )


def _shares(category: Category, trial: Trial, per: Per, *, pixel: bool, label: int) -> list[float]:
    """The share of images above the threshold, for each normal group or anomalous image; per part 0 or 1 for each."""
    threshold = trial.pixel if pixel else trial.threshold
    values = trial.test.peaks if pixel else trial.test.scores
    if threshold is None or values is None:
        return []
    keys, labels = np.array(trial.test.keys(category.groups)), trial.test.labels
    above = values > threshold.value
    if per == "image" and label:
        return [float(one) for one in above[labels == 1]]
    found = []
    for key in dict.fromkeys(keys.tolist()):
        of_group = keys == key
        if per == "image":
            of_group &= labels == 0
        elif bool(labels[of_group].any()) != bool(label):
            continue  # a part with a defect is no false alarm, whichever of its images is called
        if of_group.any():
            found.append(float(above[of_group].any() if per == "part" else above[of_group].mean()))
    return found


def too_few(category: Category, kept: Trial, recipe: Recipe) -> Iterator[str]:
    """The sentence on a threshold that rests on fewer groups than the rate asked for takes."""
    threshold = kept.threshold
    if threshold is None or threshold.asked is None:
        return
    groups = len({category.group_of(sample) for sample in kept.fitted.calibration.samples})
    smallest = 1 / (groups + 1)
    if smallest <= threshold.asked:
        return
    needed = math.ceil(1 / threshold.asked) - 1
    unit = "group" if category.grouped else "image"
    found = counted(groups, f"calibration {unit}")
    remedy = f"add normal {'parts' if category.grouped else 'images'}"
    if not recipe.threshold.parts:
        cross = "" if recipe.run.folds > 1 else ' or set threshold.method = "cross"'
        remedy += f", raise data.calibration{cross}"
    if threshold.groups > groups:  # pooled images, which are more than their groups
        yield (
            f"{found} cannot support a false-positive rate of {threshold.asked:g}, only {smallest:.3g}; the threshold "
            f"counts images of one part as if they were not alike. It takes {counted(needed, unit)}: {remedy}"
        )
    else:
        yield (
            f"{found} cannot promise a false-positive rate of {threshold.asked:g}; the threshold keeps "
            f"{threshold.supported:.3g}, the smallest that so few support. It takes {counted(needed, unit)}: {remedy}"
        )
