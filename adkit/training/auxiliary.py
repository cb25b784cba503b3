"""The images of ``[auxiliary]``, which are others than those of ``[data]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from adkit.data.dataset import open_dataset
from adkit.data.duplicates import foreign_images, foreign_warning
from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Dataset, Sample
from adkit.data.view import View
from adkit.recipe.reader import Recipe
from adkit.utils.text import counted, some


def auxiliary_images(recipe: Recipe, dataset: Dataset, warn: Callable[[str], None]) -> tuple[list[Sample], Dataset]:
    """Find the training images of every category of ``[auxiliary]``, each once; none without that table.

    An image that is among those of ``[data]``, too, or cannot be read is left out. All are decoded for that: which ones
    are trained on must not depend on when one is found to be broken.

    Args:
        warn: called with a sentence on the images that are left out.

    Returns:
        These images; and ``dataset``, which counts what was passed over among them, too.

    Raises:
        UserError: something is wrong with the table or its data.
    """
    table = recipe.auxiliary
    if table is None:
        return [], dataset
    with recipe.document.locating("auxiliary", type(table).model_fields):
        range = dataset.categories[0].range  # whichever it is: with one, all values can be read
        found = open_dataset(table, recipe.run.seed, seen_by=range)
        # Under ids of their own, because the same one may occur in the data.
        samples = [
            replace(sample, id=f"[auxiliary]/{sample.id}")
            for category in found.categories
            for sample in (*category.train, *category.calibration)
        ]
        samples = list({sample.id: sample for sample in samples}.values())
        own = {sample.id: sample for category in dataset.categories for sample in category.samples}
        samples, pairs = foreign_images(samples, own.values())
        bad = BadImages(table.max_bad_share)
        for _ in Loader(samples, View.of(recipe.data, range), recipe.data.batch_size, bad):
            pass
        bad.check(len(samples))
    warnings = [*found.warnings, *([foreign_warning(pairs)] if pairs else [])]
    if bad:
        named = some([f"{image}: {reason}" for image, reason in bad.reasons.items()], 3)
        images = f"{counted(len(bad), 'auxiliary image')} could not be read and {'was' if len(bad) == 1 else 'were'}"
        warnings.append(f"{images} left out: {named}")
    for text in warnings:
        warn(text)
    passed_over = Counter(dataset.passed_over) + Counter(found.passed_over)
    return [sample for sample in samples if sample.id not in bad], replace(dataset, passed_over=dict(passed_over))
