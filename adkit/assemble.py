"""From a recipe to built components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from adkit.blame import blaming
from adkit.context import Context
from adkit.contracts import Extractor, FoldableExtractor, Localizer, Scorer
from adkit.data.view import View
from adkit.device import resolve_device, resolve_precision
from adkit.errors import UserError
from adkit.features import FeatureTransform
from adkit.inference import Embedding, ScoringPath
from adkit.recipe import Choice, Recipe


def who(choice: Choice) -> str:
    """``scorer knn of adkit 0.1.0 (adkit_plugins.scorers.knn)``, for messages."""
    return f"{choice.registered.component.kind} {choice.name} of {choice.registered.origin}"


def build(choice: Choice, context: Context) -> Any:
    """A fresh instance of a chosen component.

    Raises:
        UserError: what the component refuses.
        PluginError: it failed inside.
    """
    with blaming(who(choice)):
        return choice.registered.component.build(choice.params, context)


def inference_extractor(choice: Choice, context: Context) -> Extractor:
    """An extractor that will not be trained."""
    extractor = cast(Extractor, build(choice, context))
    if isinstance(extractor, FoldableExtractor):
        with blaming(who(choice)):
            return extractor.for_inference()
    return extractor


@dataclass(frozen=True)
class Assembled:
    """What every category of a run shares: nothing here is fitted."""

    recipe: Recipe
    context: Context
    view: View
    embedding: Embedding
    localizer: Localizer

    @property
    def metric_size(self) -> int:
        """Side of the square grid on which pixel metrics are taken."""
        return self.recipe.data.metric_size or self.view.size[0]

    def scoring_path(self, scorer: Scorer) -> ScoringPath:
        """The path from features to scores and maps with a scorer that is fitted, or will be."""
        return ScoringPath(scorer, self.localizer, who(self.recipe.scorer), who(self.recipe.localizer))

    def new_scorer(self) -> Scorer:
        """A scorer that has seen nothing."""
        return cast(Scorer, build(self.recipe.scorer, self.context))


def assemble(recipe: Recipe) -> Assembled:
    """Build what a recipe names.

    Raises:
        UserError: what a component refuses, or an adapter, which this version cannot train.
    """
    if recipe.adapter is not None:
        raise UserError(
            "adapter.use: this version of adkit scores frozen features and trains no adapter "
            "yet; leave out [adapter], [training], [stopper] and [auxiliary]"
        )
    view = View.of(recipe.data)
    device = resolve_device(recipe.run.device)
    context = Context(
        device=device,
        seed=recipe.run.seed,
        precision=resolve_precision(recipe.run.precision, device),
        image_size=view.size,
    )
    extractor = inference_extractor(recipe.extractor, context)
    transform = FeatureTransform(recipe.features, extractor.levels, context.generator("features"))
    localizer = cast(Localizer, build(recipe.localizer, context))
    return Assembled(recipe, context, view, Embedding(extractor, transform, context, who(recipe.extractor)), localizer)
