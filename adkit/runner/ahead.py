"""The stages that a run has before it, for the time that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from adkit.data.samples import Category
from adkit.inference.assemble import Assembled
from adkit.inference.synthetic import KINDS
from adkit.runner.shown import PageShare
from adkit.training.plan import SCALE_SHARE, courses_of, new_adapter, new_stopper, scheduled
from adkit.training.trace import TRACED
from adkit.utils.time_left import Ahead

WEIGHTS: Final = {
    "fit": 1.0,
    "calibrate": 1.0,
    "synthetic": 1.6,
    "evaluate": 1.6,
    "metrics": 0.1,
    "page": 0.3,
    "save": 0.05,
    "prepare": 1.2,
    "frozen blocks": 2.4,
    "members": 2.4,
    "scale": 1.0,
}
"""Stage → about how long an image takes, compared with fitting: on two cores, with ``quickstart``, ``dn2`` and
``panda``. It counts until the run has seen the stage itself."""
TAIL: Final = 0.13
"""The same for training on what frozen blocks gave."""
WHOLE: Final = 3.0
"""The same for training a whole network, there and back."""


def stages_ahead(categories: Sequence[tuple[Category, PageShare]], parts: Assembled) -> list[Ahead]:
    """List what a run will do to its categories, in order, as far as it is known before it begins."""
    plan = _Plan(parts)
    return [stage for category, share in categories for stage in plan.of_category(category, share)]


class _Plan:
    """What a recipe asks for, whatever the category."""

    def __init__(self, parts: Assembled) -> None:
        self._recipe, self._embeddings = parts.recipe, len(parts.embeddings)
        self._adapter, self._courses = new_adapter(parts), courses_of(parts)
        self._stopped = new_stopper(parts) is not None
        adapter = self._adapter
        self._traced = adapter is not None and scheduled(adapter, parts.recipe.training).snapshot_epochs is not None

    def of_category(self, category: Category, share: PageShare) -> Iterator[Ahead]:
        name, run, folds = category.name, self._recipe.run, self._recipe.threshold.parts
        split = max(folds, run.folds)
        fitted = len(category.normal if run.fold_test else category.train)
        kept_back = math.ceil(len(category.train) / folds) if folds else len(category.calibration)
        for _ in range(run.folds):
            for _ in range(max(folds, 1)):
                yield from self._fitted(name, fitted - math.ceil(fitted / split) if split > 1 else fitted, kept_back)
            yield _stage("evaluate", name, len(category.test))
            if self._traced:
                anomalous = sum(sample.label for sample in category.test)
                groups = (fitted, kept_back, len(category.test) - anomalous, anomalous)
                images = sum(min(count, TRACED) for count in groups) * self._embeddings
                yield Ahead("trace", name, images, WEIGHTS["frozen blocks"])
        if run.fold_members:
            yield _stage("calibrate", name, len(category.calibration))
            yield _stage("evaluate", name, len(category.test))
        yield _stage("metrics", name, len(category.test))
        yield _stage("page", name, share.pictures)
        yield _stage("save", name, len(category.train))

    def _fitted(self, subject: str, images: int, kept_back: int) -> Iterator[Ahead]:
        """Yield the stages of one detector, fitted on so many images and calibrated by others."""
        adapter, initial, members = self._adapter, self._recipe.scorer_table.fit == "initial", self._embeddings
        if adapter is not None:
            courses = self._courses(images)
            members = sum(course.members for course in courses)
            for course in courses:
                if adapter.needs_scorer or initial:
                    yield _stage("fit", subject, images)
                yield _stage("prepare", subject, images)
                if not course.whole:
                    yield _stage("frozen blocks", subject, images)
                yield Ahead("adapt", subject, course.images, WHOLE if course.whole else TAIL, self._stopped)
                if adapter.fuse is not None:
                    yield _stage("members", subject, min(images, TRACED))
            if adapter.fuse == "max_ratio":
                held_out = round(SCALE_SHARE * images)
                yield from [_stage("fit", subject, images - held_out)] * members
                yield _stage("scale", subject, held_out)
        if adapter is None or not initial:
            yield from [_stage("fit", subject, images)] * members
        yield _stage("calibrate", subject, kept_back)
        yield _stage("synthetic", subject, min(self._recipe.run.synthetic, len(KINDS) * kept_back))


def _stage(name: str, subject: str, images: int) -> Ahead:
    return Ahead(name, subject, images, WEIGHTS[name])
