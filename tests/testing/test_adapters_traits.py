"""What an adapter may offer beside is checked, too: schedule, scorer, batches, an extension."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adkit import UserError
from adkit.plugin import POOL, Group, Schedule, Stage
from adkit.plugin.types import Level
from adkit.testing import TinyAdapter, TinyExtractor, TinyScorer, check_adapter
from adkit.toolkit.heads import ExtendedExtractor
from tests.testing.components import Nearest, trips


class Terms(TinyAdapter):
    def loss(self, extractor, batch, features):
        loss = super().loss(extractor, batch, features)
        return {"near": loss / 4, "far": loss * 3 / 4}


class NoTerms(TinyAdapter):
    def loss(self, extractor, batch, features):
        return {}


class NamelessTerm(TinyAdapter):
    def loss(self, extractor, batch, features):
        return {"": super().loss(extractor, batch, features)}


class TermAImage(TinyAdapter):
    def loss(self, extractor, batch, features):
        return {"near": self.score(features)}


class TermsThatCancel(TinyAdapter):
    def loss(self, extractor, batch, features):
        loss = super().loss(extractor, batch, features)
        return {"near": loss / 0, "far": loss}


class Scheduled(TinyAdapter):
    schedule = Schedule(optimizer="adam", learning_rate=1e-6, batch_size=8, epochs=250)


class ScheduleOfWords(TinyAdapter):
    schedule = "slowly"


class UnknownOptimizer(TinyAdapter):
    schedule = Schedule(optimizer="newton")


class NoLearning(TinyAdapter):
    schedule = Schedule(learning_rate=0.0)


class EndlessClip(TinyAdapter):
    schedule = Schedule(clip_norm=float("inf"))


class RelativeAdam(TinyAdapter):
    schedule = Schedule(optimizer="adam", relative_steps=True)


class TwoLengths(TinyAdapter):
    schedule = Schedule(minibatches=10, epochs=1.0)


class BackwardStage(TinyAdapter):
    def stages(self):
        return [Stage([Group(self._parameters, learning_rate=-1.0)])]


class ForeignParameters(TinyAdapter):
    def stages(self):
        return [Stage([Group([*self._parameters, nn.Parameter(torch.ones(1))])])]


class ScoredByIt(TinyAdapter):
    needs_scorer = True

    def prepare(self, extractor, normal, auxiliary, scorer):
        super().prepare(extractor, normal, auxiliary, scorer)
        self._scorer = scorer

    def loss(self, extractor, batch, features):
        return self._scorer.score(features).image.mean()


class ScoredPerhaps(TinyAdapter):
    needs_scorer = "perhaps"


class Brightens(TinyAdapter):
    """Every other image of a step is brighter, and said to be."""

    def batch(self, normal, auxiliary, generator):
        labels = (torch.rand(len(normal), generator=generator) < 0.5).long()
        images = torch.where(labels[:, None, None, None] > 0, normal.images.sqrt(), normal.images)
        return replace(normal, images=images, labels=labels)

    def loss(self, extractor, batch, features):
        return ((2 * batch.labels - 1) * self.score(features)).mean()


class BrightensGlobally(Brightens):
    def batch(self, normal, auxiliary, generator):
        return super().batch(normal, auxiliary, torch.default_generator)


class BrightensByChance(Brightens):
    drawn = 0

    def batch(self, normal, auxiliary, generator):
        type(self).drawn += 1
        return super().batch(normal, auxiliary, torch.Generator().manual_seed(self.drawn))


class BrightensInPlace(Brightens):
    def batch(self, normal, auxiliary, generator):
        batch = super().batch(normal, auxiliary, generator)
        normal.images.sqrt_()
        return batch


class BrightensBeyond(Brightens):
    def batch(self, normal, auxiliary, generator):
        batch = super().batch(normal, auxiliary, generator)
        return replace(batch, images=2 * batch.images)


class LabelsOfFloat(Brightens):
    def batch(self, normal, auxiliary, generator):
        batch = super().batch(normal, auxiliary, generator)
        return replace(batch, labels=batch.labels.float())


class NeedsOthers(Brightens):
    def batch(self, normal, auxiliary, generator):
        if auxiliary is None:
            raise UserError("adapter.use: expected images of [auxiliary], found none")
        return super().batch(auxiliary, None, generator)


class Head(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, generator=torch.Generator().manual_seed(seed)))

    def forward(self, features):
        return {"logit": (features[POOL] * self.weight).sum(3, keepdim=True)}


class Heads(TinyAdapter):
    """Trains a head on the pooled level."""

    def extend(self, extractor):
        pooled = extractor.levels[POOL]
        return ExtendedExtractor(extractor, Head(), {"logit": Level(1, (1, 1), pooled.geometry)}, "logit")

    def prepare(self, extractor, normal, auxiliary, scorer):
        self._parameters = list(extractor.head.parameters())

    def score(self, features):
        return features["logit"].flatten()


class ExtendsByChance(Heads):
    built = 0

    def extend(self, extractor):
        type(self).built += 1
        extended = super().extend(extractor)
        extended.head.weight.data *= self.built
        return extended


class ExtendsByNothing(Heads):
    def extend(self, extractor):
        return extractor


class Doubled(TinyExtractor):
    def forward(self, images):
        return super().forward(2 * images)


class ExtendsAnother(Heads):
    def extend(self, extractor):
        return super().extend(Doubled())


@pytest.mark.parametrize("honest", [Terms, Scheduled, ScoredByIt, Brightens, NeedsOthers, Heads])
def test_honest_adapter_passes(honest):
    check_adapter(honest)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("terms", NoTerms),
        ("terms", NamelessTerm),
        ("shapes", TermAImage),
        ("finite", TermsThatCancel),
        ("types", ScheduleOfWords),
        ("schedule", UnknownOptimizer),
        ("schedule", NoLearning),
        ("schedule", EndlessClip),
        ("schedule", RelativeAdam),
        ("schedule", TwoLengths),
        ("stages", BackwardStage),
        ("stages", ForeignParameters),
        ("types", ScoredPerhaps),
        ("generators", BrightensGlobally),
        ("seed", BrightensByChance),
        ("inputs", BrightensInPlace),
        ("range", BrightensBeyond),
        ("shapes", LabelsOfFloat),
        ("seed", ExtendsByChance),
        ("extension", ExtendsByNothing),
        ("extension", ExtendsAnother),
    ],
)
def test_broken_adapter_trips(check, broken):
    trips(check, lambda: check_adapter(broken))


def test_an_adapter_that_asks_for_no_scorer_is_given_none():
    class Asks(TinyAdapter):
        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            assert scorer is None

    check_adapter(Asks, make_scorer=Nearest)


def test_an_adapter_that_asks_for_a_scorer_is_given_a_tiny_one_by_default():
    class Asks(ScoredByIt):
        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            assert isinstance(scorer, TinyScorer)

    check_adapter(Asks)
