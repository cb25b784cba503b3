"""Each check of an adapter passes an honest one and is tripped by one that breaks just that promise."""

import re

import pytest
import torch
from torch import nn

from adkit.plugin import POOL, Group, Stage
from adkit.testing import TinyAdapter, TinyExtractor, check_adapter
from tests.testing.components import Draws, Grays, Nearest, failures, trips

# Members -------------------------------------------------------------------------------------------------


class NoScoreOfAdapter(TinyAdapter):
    score = None


class NeedScorer(Draws):
    need_scorer = True


class AfterSteps(Draws):
    def after_steps(self, step, rates):
        pass


class FuseByMedian(TinyAdapter):
    fuse = "median"


class ScoredPerhaps(TinyAdapter):
    needs_scorer = "perhaps"


class ReadsPerhaps(TinyAdapter):
    reads_images = None


# Stages --------------------------------------------------------------------------------------------------


class NoStages(TinyAdapter):
    def stages(self, extractor):
        return []


class NoGroups(TinyAdapter):
    def stages(self, extractor):
        return [Stage([])]


class EmptyGroup(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group([])])]


class NoList(TinyAdapter):
    def stages(self, extractor):
        return None


class BareParameters(TinyAdapter):
    def stages(self, extractor):
        return extractor.blocks()["layer2"]


class GeneratorOfParameters(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(parameter for parameter in extractor.layer2.parameters())])]


class NamesOfParameters(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(["layer2.weight"])])]


class BackwardStage(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["layer2"], learning_rate=-1.0)])]


class ForeignParameters(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group([*extractor.blocks()["layer2"], nn.Parameter(torch.ones(1))])])]


class ParametersTwice(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["layer2"]), Group([extractor.layer2.bias])])]


class StagesAfterPrepare(TinyAdapter):
    def prepare(self, see):
        super().prepare(see)
        self.trained = super().stages(see.extractor)

    def stages(self, extractor):
        return self.trained


class StagesOfTheFirst(TinyAdapter):
    """Remembers the parameters of the extractor that it was first asked about."""

    asked = None

    def stages(self, extractor):
        self.asked = self.asked or super().stages(extractor)
        return self.asked


class MoreEveryTime(TinyAdapter):
    calls = 0

    def stages(self, extractor):
        self.calls += 1
        return [Stage([Group(extractor.blocks()["layer2"])], minibatches=self.calls)]


class MoreOnceItIsPrepared(TinyAdapter):
    _center = None

    def stages(self, extractor):
        blocks = extractor.blocks()
        return [Stage([Group(blocks["layer2"] if self._center is None else blocks["layer1"])])]


class TwoStages(TinyAdapter):
    """Trains the second block on normal images, then the first one on auxiliary ones."""

    def stages(self, extractor):
        blocks = extractor.blocks()
        return [
            Stage([Group(blocks["layer2"])], minibatches=3, name="normal"),
            Stage([Group(blocks["layer1"], 1e-4)], images="auxiliary", batch_size=4, name="others"),
        ]

    def loss(self, step, features):
        assert (step.auxiliary is None) == (step.stage == 1)
        return super().loss(step, features)


class SecondStageInVain(TwoStages):
    """The second stage trains the classifier, on which no level depends."""

    def stages(self, extractor):
        first, second = super().stages(extractor)
        return [first, Stage([Group(extractor.blocks()["classifier"])], images=second.images, name=second.name)]


class SecondStageWithoutLoss(TwoStages):
    def loss(self, step, features):
        return super().loss(step, features) * (1 if step.stage == 0 else float("nan"))


# Loss ----------------------------------------------------------------------------------------------------


class NeedsScorer(TinyAdapter):
    def prepare(self, see):
        super().prepare(see)
        see.scorer.state_dict()


class NoLoss(TinyAdapter):
    def loss(self, step, features):
        return None


class LossNeedsLabels(TinyAdapter):
    def loss(self, step, features):
        return super().loss(step, features) * step.batch.labels.sum()


class LossAImage(TinyAdapter):
    def loss(self, step, features):
        return self.score(features)


class LossOfFloat(TinyAdapter):
    def loss(self, step, features):
        return super().loss(step, features).item()


class InfiniteLoss(TinyAdapter):
    def loss(self, step, features):
        return super().loss(step, features) / 0


class InfiniteGradient(TinyAdapter):
    def loss(self, step, features):
        loss = super().loss(step, features)
        return loss + (loss - loss).sqrt()


class Detached(TinyAdapter):
    def loss(self, step, features):
        return super().loss(step, features).detach()


class OtherParameters(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["classifier"])])]


class CountedLoss(TinyAdapter):
    calls = 0

    def loss(self, step, features):
        type(self).calls += 1
        return super().loss(step, features) * self.calls


class MovingCenter(TinyAdapter):
    """Follows the features from step to step, which a new adapter in its place could not go on with."""

    def loss(self, step, features):
        self._center = 0.9 * self._center + 0.1 * features[POOL].detach().mean(0)
        return super().loss(step, features)


class DropsGlobally(TinyAdapter):
    def loss(self, step, features):
        return super().loss(step, features) * torch.rand(())


class ErasesImages(TinyAdapter):
    def loss(self, step, features):
        loss = super().loss(step, features)
        step.batch.images.zero_()
        return loss


class TrainsItself(TinyAdapter):
    def loss(self, step, features):
        with torch.no_grad():
            step.extractor.head.bias += 1
        return super().loss(step, features)


class ReadsImages(TinyAdapter):
    reads_images = False

    def loss(self, step, features):
        return super().loss(step, features) * (1 + step.batch.images.mean())


class ReadsShapeOfImages(TinyAdapter):
    reads_images = False

    def loss(self, step, features):
        return super().loss(step, features) * step.batch.images.shape[3]


class ReadsAuxiliary(TinyAdapter):
    reads_images = False

    def loss(self, step, features):
        return super().loss(step, features) * len(step.auxiliary)


# Score ---------------------------------------------------------------------------------------------------


class CentersFeatures(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        if not features[POOL].requires_grad:
            features[POOL].sub_(1)
        return scores


class ScoreOfShape(TinyAdapter):
    def score(self, features):
        return super().score(features)[:, None]

    def loss(self, step, features):
        return super().score(features).mean()


class InfiniteScore(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        return scores if scores.requires_grad else scores / 0


class RanksScores(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        return scores - scores.mean().detach() / 2


class ScoresByChance(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        return scores if scores.requires_grad else scores + 0 * torch.rand(())


# Steps of its own ----------------------------------------------------------------------------------------


class Pulls(TinyAdapter):
    """Halves what it trains."""

    def after_step(self, step, rates):
        for parameter in rates:
            parameter.mul_(0.5)


class PullsByChance(Pulls):
    def after_step(self, step, rates):
        for parameter in rates:
            parameter.mul_(torch.rand(()))


class PullsAll(Pulls):
    def after_step(self, step, rates):
        for parameter in step.extractor.parameters():
            parameter.mul_(0.5)


class PullsToNothing(Pulls):
    def after_step(self, step, rates):
        for parameter, rate in rates.items():
            parameter.div_(rate - rate)


class PullsOthers(Pulls):
    def after_step(self, step, rates):
        rates[step.extractor.head.bias]


class OldArguments(Pulls):
    def after_step(self, learning_rates):
        pass


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("build", NoScoreOfAdapter),
        ("members", NeedScorer),
        ("members", AfterSteps),
        ("fuse", FuseByMedian),
        ("needs_scorer", ScoredPerhaps),
        ("reads_images", ReadsPerhaps),
        ("stages", NoStages),
        ("stages: stage adapt: groups", NoGroups),
        ("stages: stage adapt: parameters", EmptyGroup),
        ("stages", NoList),
        ("stages", BareParameters),
        ("stages: stage adapt: parameters", GeneratorOfParameters),
        ("stages: stage adapt: parameters", NamesOfParameters),
        ("stages: stage adapt: learning_rate", BackwardStage),
        ("stages: stage adapt: parameters", ForeignParameters),
        ("stages: stage adapt: parameters", ParametersTwice),
        ("stages", StagesAfterPrepare),
        ("stages", StagesOfTheFirst),
        ("stages", MoreEveryTime),
        ("stages", MoreOnceItIsPrepared),
        ("gradient", SecondStageInVain),
        ("finite", SecondStageWithoutLoss),
        ("prepare", NeedsScorer),
        ("loss", NoLoss),
        ("loss", LossNeedsLabels),
        ("loss", LossAImage),
        ("loss", LossOfFloat),
        ("finite", InfiniteLoss),
        ("finite", InfiniteGradient),
        ("gradient", Detached),
        ("gradient", OtherParameters),
        ("seed", CountedLoss),
        ("generators, seed", DropsGlobally),
        ("inputs", ErasesImages),
        ("weights", TrainsItself),
        ("reads_images", ReadsImages),
        ("reads_images", ReadsShapeOfImages),
        ("loss", ReadsAuxiliary),
        ("inputs", CentersFeatures),
        ("score", ScoreOfShape),
        ("finite", InfiniteScore),
        ("batches", RanksScores),
        ("generators", ScoresByChance),
        ("generators", PullsByChance),
        ("after_step", PullsAll),
        ("finite", PullsToNothing),
        ("after_step", PullsOthers),
        ("after_step", OldArguments),
    ],
)
def test_broken_adapter_trips(checks, broken):
    trips(checks, lambda: check_adapter(broken))


@pytest.mark.parametrize("honest", [TinyAdapter, Draws, TwoStages, Pulls])
def test_honest_adapter_passes(honest):
    check_adapter(honest)


def test_adapter_may_train_an_extractor_that_comes_frozen():
    check_adapter(TinyAdapter, lambda: TinyExtractor().requires_grad_(False))


def test_adapter_may_train_an_extractor_that_inherits_from_nothing():
    class Brightens(Draws):
        def stages(self, extractor):
            return [Stage([Group([extractor.weight])])]

        def score(self, features):
            return features["gray"].square().sum((1, 2, 3))

    check_adapter(Brightens, Grays)


def test_adapter_is_given_a_fitted_scorer():
    class Asks(TinyAdapter):
        needs_scorer = True

        def prepare(self, see):
            super().prepare(see)
            assert see.scorer.normal is not None

    check_adapter(Asks, make_scorer=Nearest)


def test_all_that_the_guard_refuses_is_reported_and_hides_no_other_fault():
    class Threefold(FuseByMedian):
        needs_scorer = "perhaps"

        def score(self, features):
            return super().score(features)[:, None]

    found = failures(lambda: check_adapter(Threefold))
    assert found == [
        "needs_scorer: expected True or False, found 'perhaps': set one of the two",
        "fuse: expected None or one of mean, max_ratio, found 'median': set one of these",
        "score: expected shape (10,), found (10, 1): give one row per image",
    ]


def test_the_stage_that_trains_nothing_is_named():
    (line,) = failures(lambda: check_adapter(SecondStageInVain))
    assert line == "gradient: expected one that is not 0 in some parameter of stage others, found none"


def test_a_loss_that_depends_on_earlier_steps_is_told_with_what_to_do():
    (line,) = failures(lambda: check_adapter(MovingCenter))
    told = re.fullmatch(
        r"resumed: expected a loss of prepare, extractor and step alone, since a killed run goes on with a new "
        r"adapter, found (\S+) after another step and (\S+) without: make what it depends on in prepare or of "
        r"step\.minibatch",
        line,
    )
    assert told, line
    assert told[1] != told[2]
