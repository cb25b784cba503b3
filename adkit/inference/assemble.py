"""From a recipe to the components that it names, built and ready to use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from adkit.data.loader import BadImages, Loader
from adkit.data.samples import Category, Sample
from adkit.data.view import View
from adkit.errors import UserError
from adkit.inference.conversion import precisions_of
from adkit.inference.device import resolve_device, resolve_precision
from adkit.inference.levels import ScorerOfLevels, require_levels
from adkit.inference.pipeline import Embedding, Member, Pipeline
from adkit.inference.runtimes import TORCH, Wanted, meant, wanted
from adkit.plugin.context import Context
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.plugin.guard import blaming, check_extractor, drawing_nothing, guarded
from adkit.plugin.localizer import Localizer
from adkit.plugin.scorer import Scorer
from adkit.plugin.types import Fuse
from adkit.recipe.reader import Choice, Recipe
from adkit.toolkit.features import FeaturesTable, FeatureTransform


def who(choice: Choice) -> str:
    """Name a component for messages: ``scorer knn of adkit-ignite 0.1.0 (adkit_plugins.scorers.knn)``."""
    return f"{choice.registered.component.kind} {choice.name} of {choice.registered.origin}"


def build(choice: Choice, context: Context) -> Any:
    """Build a new instance of a chosen component, under its guard.

    Raises:
        UserError: what the component refuses.
        PluginError: it failed inside.
    """
    component = choice.registered.component
    with blaming(who(choice)), drawing_nothing(who(choice), "build"):
        built = component.build(choice.params, context)
    return guarded(component.kind, built, who(choice), context.device)


def new_scorer(choice: Choice, levels: Sequence[str] | None, context: Context) -> Scorer:
    """Build a scorer that is not fitted, which reads ``levels`` alone; None: all."""
    scorer = cast(Scorer, build(choice, context))
    return scorer if levels is None else ScorerOfLevels(scorer, levels)


def inference_extractor(choice: Choice, adapts: Choice | None, context: Context) -> Extractor:
    """Build an extractor that will not be trained, with the levels that the adapter ``adapts`` gave it."""
    extractor = cast(Extractor, build(choice, context))
    if adapts is not None:
        extractor = build(adapts, context).extend(extractor)
    return for_inference(extractor, choice)


def for_inference(extractor: Extractor, choice: Choice) -> Extractor:
    """Return an extractor of the same features that will not be trained any more; ``choice`` names it in errors."""
    with blaming(who(choice), "for_inference"):
        found = member(extractor, Extractor, "for_inference")()
    check_extractor(found, who(choice), "for_inference")
    return cast(Extractor, found)


@dataclass(frozen=True)
class Assembled:
    """The components that all categories of a run share, none of which is fitted; ``of`` gives those of a category."""

    recipe: Recipe
    context: Context
    view: View
    embeddings: tuple[Embedding, ...]
    """The ways from images to features: one, or one per backbone of an ensemble."""
    localizer: Localizer
    wanted: Wanted
    """What may compute extractors that are not trained any more."""
    trainable: tuple[Extractor, ...] = ()
    """The extractors of ``embeddings`` before ``for_inference``, to train copies of; empty without an adapter."""
    auxiliary: tuple[Sample, ...] = ()
    """The images of ``[auxiliary]``; empty without that table."""

    @property
    def metric_size(self) -> int:
        """The side of the square grid on which pixel metrics are computed."""
        return self.recipe.data.metric_size or self.view.size[0]

    def by_torch(self) -> Assembled:
        """The same, computed by torch alone.

        Raises:
            UserError: the recipe names another runtime.
        """
        self.require_torch("where classes share what frozen blocks give")
        return replace(self, wanted=TORCH, embeddings=tuple(one.by_torch() for one in self.embeddings))

    def require_torch(self, where: str) -> None:
        """Refuse another runtime that the recipe names; ``where`` says why torch computes, after "expected torch".

        Raises:
            UserError: the recipe names another one.
        """
        if self.wanted.required:
            raise UserError(f"run.runtime: expected auto or torch {where}, found {self.recipe.run.runtime}: change it")

    def of(self, category: Category) -> Assembled:
        """The same for the images of one category, which have a range of values of their own."""
        return replace(self, view=View.of(self.recipe.data, category.range))

    def pipeline(self, members: Iterable[Member], fuse: Fuse = "mean") -> Pipeline:
        """Make the way from images to scores and maps of fitted members."""
        return Pipeline(members, self.localizer, fuse)

    def loader(self, samples: Sequence[Sample], bad: BadImages, batch_size: int, targets: bool) -> Loader:
        """Load ``samples`` in batches as the extractor takes them; with labels and masks if ``targets``."""
        size = self.metric_size if targets else None
        data = self.recipe.data
        return Loader(
            samples,
            self.view,
            batch_size,
            bad,
            targets=targets,
            metric_size=size,
            mask_resize=data.mask_resize,
            mask_threshold=data.mask_threshold or 0,
            pinned=torch.device(self.context.device).type == "cuda",
        )

    def new_scorer(self) -> Scorer:
        """Build a scorer that is not fitted."""
        return new_scorer(self.recipe.scorer, self.recipe.scorer_table.levels, self.context)


def assemble(recipe: Recipe, auxiliary: Sequence[Sample] = ()) -> Assembled:
    """Build the components that a recipe names.

    Args:
        auxiliary: the images of its ``[auxiliary]``.

    Raises:
        UserError: what a component refuses.
    """
    view = View.of(recipe.data)
    device = resolve_device(recipe.run.device)
    context = Context(
        device=device,
        seed=recipe.run.seed,
        precision=resolve_precision(recipe.run.precision, device, precisions_of(meant(recipe.run.runtime))),
        image_size=view.size,
    )
    runtimes = wanted(recipe.run.runtime, context)
    extractors = tuple(cast(Extractor, build(choice, context)) for choice in recipe.extractors)
    embeddings = tuple(
        embedding_of(for_inference(extractor, choice), choice, recipe.features, context, index, runtimes)
        for index, (extractor, choice) in enumerate(zip(extractors, recipe.extractors, strict=True))
    )
    localizer = cast(Localizer, build(recipe.localizer, context))
    new_scorer(recipe.scorer, None, context)  # so that a scorer that is none is found before any image is read
    if recipe.adapter is None and recipe.scorer_table.levels is not None:
        for embedding in embeddings:
            require_levels(recipe.scorer_table.levels, embedding.levels)
    trainable = extractors if recipe.adapter is not None else ()
    return Assembled(recipe, context, view, embeddings, localizer, runtimes, trainable, tuple(auxiliary))


def embedding_of(
    extractor: Extractor,
    choice: Choice,
    table: FeaturesTable,
    context: Context,
    index: int,
    wanted: Wanted = TORCH,
) -> Embedding:
    """Make the embedding by ``extractor`` and ``[features]``; ``choice`` is the recipe's extractor number ``index``."""
    transform = FeatureTransform(table, extractor.levels, context.generator("features"))
    return Embedding(extractor, transform, context, who(choice), index, wanted)
