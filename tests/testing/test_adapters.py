"""Each check of an adapter passes an honest one and is tripped by one that breaks just that promise."""

import pytest
import torch

from adkit.plugin import POOL, Group, Stage
from adkit.testing import TinyAdapter, TinyExtractor, check_adapter
from tests.testing.components import Nearest, trips


class NoStages(TinyAdapter):
    def stages(self):
        return []


class EmptyStage(TinyAdapter):
    def stages(self):
        return [Stage([Group([])])]


class NoList(TinyAdapter):
    def stages(self):
        return None


class BareParameters(TinyAdapter):
    def stages(self):
        return self._parameters


class GeneratorOfParameters(TinyAdapter):
    def stages(self):
        return [Stage([Group(parameter for parameter in self._parameters)])]


class NamesOfParameters(TinyAdapter):
    def stages(self):
        return [Stage([Group(["layer2.weight"])])]


class NeedsScorer(TinyAdapter):
    def prepare(self, extractor, normal, auxiliary, scorer):
        super().prepare(extractor, normal, auxiliary, scorer)
        scorer.state_dict()


class NoLoss(TinyAdapter):
    def loss(self, extractor, batch, features):
        return None


class LossNeedsLabels(TinyAdapter):
    def loss(self, extractor, batch, features):
        return super().loss(extractor, batch, features) * batch.labels.sum()


class NoScoreOfAdapter(TinyAdapter):
    score = None


class LossAImage(TinyAdapter):
    def loss(self, extractor, batch, features):
        return self.score(features)


class InfiniteLoss(TinyAdapter):
    def loss(self, extractor, batch, features):
        return super().loss(extractor, batch, features) / 0


class InfiniteGradient(TinyAdapter):
    def loss(self, extractor, batch, features):
        loss = super().loss(extractor, batch, features)
        return loss + (loss - loss).sqrt()


class Detached(TinyAdapter):
    def loss(self, extractor, batch, features):
        return super().loss(extractor, batch, features).detach()


class OtherParameters(TinyAdapter):
    def prepare(self, extractor, normal, auxiliary, scorer):
        super().prepare(extractor, normal, auxiliary, scorer)
        self._parameters = list(extractor.head.parameters())


class CountedLoss(TinyAdapter):
    calls = 0

    def loss(self, extractor, batch, features):
        type(self).calls += 1
        return super().loss(extractor, batch, features) * self.calls


class DropsGlobally(TinyAdapter):
    def loss(self, extractor, batch, features):
        return super().loss(extractor, batch, features) * torch.rand(())


class ErasesImages(TinyAdapter):
    def loss(self, extractor, batch, features):
        loss = super().loss(extractor, batch, features)
        batch.images.zero_()
        return loss


class CentersFeatures(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        with torch.no_grad():
            if not features[POOL].requires_grad:
                features[POOL].sub_(1)
        return scores


class ScoreOfShape(TinyAdapter):
    def score(self, features):
        return super().score(features)[:, None]


class InfiniteScore(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        return scores if scores.requires_grad else scores / 0


class RanksScores(TinyAdapter):
    def score(self, features):
        scores = super().score(features)
        return scores - scores.mean().detach() / 2


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("stages", NoStages),
        ("stages", EmptyStage),
        ("types", NoList),
        ("types", BareParameters),
        ("types", GeneratorOfParameters),
        ("types", NamesOfParameters),
        ("prepare", NeedsScorer),
        ("shapes", NoLoss),
        ("loss", LossNeedsLabels),
        ("methods", NoScoreOfAdapter),
        ("shapes", LossAImage),
        ("finite", InfiniteLoss),
        ("finite", InfiniteGradient),
        ("gradient", Detached),
        ("gradient", OtherParameters),
        ("seed", CountedLoss),
        ("generators", DropsGlobally),
        ("inputs", ErasesImages),
        ("inputs", CentersFeatures),
        ("shapes", ScoreOfShape),
        ("finite", InfiniteScore),
        ("batches", RanksScores),
    ],
)
def test_broken_adapter_trips(check, broken):
    trips(check, lambda: check_adapter(broken))


def test_tiny_adapter_passes():
    check_adapter(TinyAdapter)


def test_adapter_may_train_an_extractor_that_comes_frozen():
    check_adapter(TinyAdapter, lambda: TinyExtractor().requires_grad_(False))


def test_adapter_is_given_a_fitted_scorer():
    class Asks(TinyAdapter):
        needs_scorer = True

        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            assert scorer.normal is not None

    check_adapter(Asks, make_scorer=Nearest)
