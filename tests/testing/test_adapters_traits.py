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
    def loss(self, step, features):
        loss = super().loss(step, features)
        return {"near": loss / 4, "far": loss * 3 / 4}


class NoTerms(TinyAdapter):
    def loss(self, step, features):
        return {}


class NamelessTerm(TinyAdapter):
    def loss(self, step, features):
        return {"": super().loss(step, features)}


class TermAImage(TinyAdapter):
    def loss(self, step, features):
        return {"near": self.score(features)}


class TermsThatCancel(TinyAdapter):
    def loss(self, step, features):
        loss = super().loss(step, features)
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


class ScoredByIt(TinyAdapter):
    needs_scorer = True

    def prepare(self, see):
        super().prepare(see)
        self._scorer = see.scorer

    def loss(self, step, features):
        return self._scorer.score(features).image.mean()


class Brightens(TinyAdapter):
    """Every other image of a step is brighter, and said to be."""

    def batch(self, step):
        normal = step.batch
        labels = (torch.rand(len(normal), generator=step.generator) < 0.5).long()
        images = torch.where(labels[:, None, None, None] > 0, normal.images.sqrt(), normal.images)
        return replace(normal, images=images, labels=labels)

    def loss(self, step, features):
        return ((2 * step.batch.labels - 1) * self.score(features)).mean()


class BrightensGlobally(Brightens):
    def batch(self, step):
        return super().batch(replace(step, generator=torch.default_generator))


class BrightensByChance(Brightens):
    drawn = 0

    def batch(self, step):
        type(self).drawn += 1
        return super().batch(replace(step, generator=torch.Generator().manual_seed(self.drawn)))


class BrightensInPlace(Brightens):
    def batch(self, step):
        batch = super().batch(step)
        step.batch.images.sqrt_()
        return batch


class BrightensBeyond(Brightens):
    def batch(self, step):
        batch = super().batch(step)
        return replace(batch, images=2 * batch.images)


class LabelsOfFloat(Brightens):
    def batch(self, step):
        batch = super().batch(step)
        return replace(batch, labels=batch.labels.float())


class NeedsOthers(Brightens):
    def batch(self, step):
        if step.auxiliary is None:
            raise UserError("adapter.use: expected images of [auxiliary], found none")
        return super().batch(replace(step, batch=step.auxiliary))


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

    def prepare(self, see):
        pass

    def stages(self, extractor):
        return [Stage([Group(list(extractor.head.parameters()))])]

    def score(self, features):
        return features["logit"].flatten()


class ExtendsByChance(Heads):
    built = 0

    def extend(self, extractor):
        type(self).built += 1
        extended = super().extend(extractor)
        extended.head.weight.data *= self.built
        return extended


class ExtendsByNothing(TinyAdapter):
    """As an adapter may whose parameters leave its head out."""

    def extend(self, extractor):
        return extractor


class ExtendsByAShell(TinyAdapter):
    def extend(self, extractor):
        return ExtendedExtractor(extractor, nn.Identity(), {}, "shell")


class Taught(TinyAdapter):
    """Learns a teacher's colors by a projection of its own, for all categories, without features."""

    reads_features = False
    teacher = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])

    def extend(self, extractor):
        with torch.random.fork_rng(devices=()):
            projection = nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in projection.parameters():
                parameter.fill_(0.1)
        return ExtendedExtractor(extractor, projection, {}, "projection")

    def prepare(self, see):
        pass

    def stages(self, extractor):
        groups = [Group(list(extractor.head.parameters())), Group(list(extractor.inner.layer2.parameters()))]
        return [Stage(groups, 3, images="auxiliary", name="taught", shared=True), Stage(groups, name="tuned")]

    def loss(self, step, features):
        images = step.batch.images
        pooled = step.extractor.inner(images)[POOL][:, 0, 0]
        return (step.extractor.head(pooled) - images.mean((2, 3)) @ self.teacher).square().mean()

    def score(self, features):
        return features[POOL].square().mean((1, 2, 3))


class TaughtByTheNormal(Taught):
    def prepare(self, see):
        self.teacher = torch.stack([batch.images.mean() for batch in see.normal.batches()]).mean() * self.teacher


class ReadsFeaturesAllTheSame(Taught):
    def loss(self, step, features):
        return features[POOL].square().mean()


class ExtendsToNone(Heads):
    def extend(self, extractor):
        super().extend(extractor)


class ExtendsInTraining(Heads):
    def extend(self, extractor):
        return super().extend(extractor).train()


class ExtendsGlobally(Heads):
    def extend(self, extractor):
        extended = super().extend(extractor)
        nn.init.normal_(extended.head.weight)
        return extended


class ExtendsByLevelsOfItsOwn(Heads):
    """Gives the level of its head in place of those of the extractor."""

    def extend(self, extractor):
        return OneLevel(super().extend(extractor))


class OneLevel(nn.Module):
    def __init__(self, extended):
        super().__init__()
        self.extended, self.head = extended, extended.head
        self.levels = {"logit": extended.levels["logit"]}
        self.eval()

    def forward(self, images):
        return {"logit": self.extended(images)["logit"]}


class ExtendsByMoreEveryTime(Heads):
    built = 0

    def extend(self, extractor):
        type(self).built += 1
        extended = super().extend(extractor)
        extended.register_buffer("rows", torch.zeros(self.built))
        return extended


class BrightensUnread(Brightens):
    reads_images = False


class ListOfImages(Brightens):
    def batch(self, step):
        return list(super().batch(step).images)


class Doubled(TinyExtractor):
    def forward(self, images):
        return super().forward(2 * images)


class ExtendsAnother(Heads):
    def extend(self, extractor):
        return super().extend(Doubled())


@pytest.mark.parametrize(
    "honest", [Terms, Scheduled, ScoredByIt, Brightens, NeedsOthers, Heads, Taught, ExtendsByNothing]
)
def test_honest_adapter_passes(honest):
    check_adapter(honest)


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("loss", NoTerms),
        ("loss", NamelessTerm),
        ("loss: term near", TermAImage),
        ("finite", TermsThatCancel),
        ("schedule", ScheduleOfWords),
        ("schedule", UnknownOptimizer),
        ("schedule", NoLearning),
        ("schedule", EndlessClip),
        ("schedule", RelativeAdam),
        ("schedule", TwoLengths),
        ("seed, generators, seed", BrightensGlobally),
        ("seed, seed", BrightensByChance),
        ("inputs", BrightensInPlace),
        ("range", BrightensBeyond),
        ("batch: labels", LabelsOfFloat),
        ("batch", ListOfImages),
        ("reads_images", BrightensUnread),
        ("seed, seed", ExtendsByChance),
        ("extend", ExtendsByAShell),
        ("shared", TaughtByTheNormal),
        ("loss", ReadsFeaturesAllTheSame),
        ("extend", ExtendsToNone),
        ("extend", ExtendsInTraining),
        ("extend", ExtendsGlobally),
        ("extend", ExtendsByLevelsOfItsOwn),
        ("split, extend", ExtendsAnother),
        ("load_state_dict, extend", ExtendsByMoreEveryTime),
    ],
)
def test_broken_adapter_trips(checks, broken):
    trips(checks, lambda: check_adapter(broken))


def test_an_adapter_that_asks_for_no_scorer_is_given_none():
    class Asks(TinyAdapter):
        def prepare(self, see):
            super().prepare(see)
            assert see.scorer is None

    check_adapter(Asks, make_scorer=Nearest)


def test_an_adapter_that_asks_for_a_scorer_is_given_a_tiny_one_by_default():
    class Asks(ScoredByIt):
        def prepare(self, see):
            super().prepare(see)
            assert isinstance(see.scorer, TinyScorer)

    check_adapter(Asks)
