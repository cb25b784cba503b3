"""Each contract check passes an honest component and is tripped by one that breaks just that promise."""

import os
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import Field

from adkit import (
    POOL,
    Component,
    Context,
    Features,
    Geometry,
    NotFittedError,
    Params,
    Scores,
    Stage,
    Verdict,
)
from adkit.scoring import checked_state
from adkit.testing import (
    FeatureStream,
    TinyAdapter,
    TinyExtractor,
    check_adapter,
    check_component,
    check_extractor,
    check_localizer,
    check_params,
    check_scorer,
    check_stopper,
    feature_stream,
    pictures,
)


def trips(check, run):
    with pytest.raises(AssertionError) as failure:
        run()
    assert str(failure.value).startswith(f"{check}: expected "), failure.value
    assert ", found " in str(failure.value)


# Scorers -------------------------------------------------------------------------------------------------


class Nearest:
    """Distance to the nearest normal value of ``layer1``'s first channel."""

    normal = None

    def fit(self, stream):
        self.normal = torch.cat([features["layer1"][..., 0].flatten() for features in stream])

    def score(self, features):
        if self.normal is None:
            raise NotFittedError("nearest")
        values = features["layer1"][..., 0]
        maps = {"layer1": (values[..., None] - self.normal).abs().amin(3)}
        return Scores(maps["layer1"].amax((1, 2)), maps, {"layer1": features.geometry["layer1"]})

    def state_dict(self):
        return {"normal": self.normal}

    def load_state_dict(self, state):
        self.normal = checked_state("nearest", state, {"normal": 1})["normal"]


class Rescored(Nearest):
    """Changes the scores of an honest scorer."""

    def changed(self, scores, features):
        raise AssertionError("each test says how")

    def score(self, features):
        return self.changed(super().score(features), features)


class ScoresUnfitted(Nearest):
    normal = torch.zeros(1)


class BreaksUnfitted(Nearest):
    def score(self, features):
        if self.normal is None:
            raise AttributeError("normal")
        return super().score(features)


class ChangesFitFeatures(Nearest):
    def fit(self, stream):
        super().fit(stream)
        for features in stream:
            features["layer1"].mul_(2)


class ChangesScoreFeatures(Nearest):
    def score(self, features):
        scores = super().score(features)
        features["layer1"].add_(1)
        return scores


class WrongImageShape(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image[:, None])


class WrongDtype(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image.double())


class NotATensor(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image.tolist())


class WrongMapShape(Rescored):
    def changed(self, scores, features):
        return replace(scores, maps={"layer1": scores.maps["layer1"][:, 1:]})


class PooledMap(Rescored):
    def changed(self, scores, features):
        return Scores(scores.image, {POOL: scores.image[:, None, None]}, {POOL: features.geometry[POOL]})


class NoGeometry(Rescored):
    def changed(self, scores, features):
        return replace(scores, geometry={})


class WrongGeometry(Rescored):
    def changed(self, scores, features):
        return replace(scores, geometry={"layer1": Geometry((0.0, 0.0), (1.0, 1.0))})


class NotFinite(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image.log() - torch.inf)


class CountsInstances(Rescored):
    instances = 0

    def __init__(self):
        type(self).instances += 1
        self.number = self.instances

    def changed(self, scores, features):
        return replace(scores, image=scores.image + self.number)


class Remembers(Nearest):
    def fit(self, stream):
        before = self.normal
        super().fit(stream)
        if before is not None:
            self.normal = torch.cat([before, self.normal])


class LastBatchOnly(Nearest):
    def fit(self, stream):
        *_, last = stream
        self.normal = last["layer1"][..., 0].flatten()


class TrustsCount(Nearest):
    """Invents values of announced pictures that did not come."""

    def fit(self, stream):
        super().fit(stream)
        missing = stream.pictures * 30 - len(self.normal)
        self.normal = torch.cat([self.normal, torch.linspace(-5, 5, missing)])


class LosesState(Nearest):
    def state_dict(self):
        return {"normal": self.normal[1:-1].half().float()}


class StateOfNumbers(Nearest):
    def state_dict(self):
        return {"normal": self.normal.tolist()}


class StateOfNothing(Nearest):
    def state_dict(self):
        return None


class LoadsForeignNames(Nearest):
    def load_state_dict(self, state):
        super().load_state_dict({name: tensor for name, tensor in state.items() if name != "junk"})


class LoadsAnyShape(Nearest):
    def load_state_dict(self, state):
        super().load_state_dict({name: tensor.flatten() for name, tensor in state.items()})


class LoadsNothing(Nearest):
    def load_state_dict(self, state):
        if state:
            super().load_state_dict(state)


class DiesOfJunk(Nearest):
    def load_state_dict(self, state):
        (self.normal,) = (state[name] for name in state)


class LosesFitToJunk(Nearest):
    def load_state_dict(self, state):
        self.normal = torch.zeros(1)
        super().load_state_dict(state)


class BareTensor(Rescored):
    def changed(self, scores, features):
        return scores.image


class NoScores(Rescored):
    def changed(self, scores, features):
        return None


class MapsInList(Rescored):
    def changed(self, scores, features):
        return replace(scores, maps=[scores.maps["layer1"]])


class FlatMap(Rescored):
    def changed(self, scores, features):
        return Scores(scores.image, {"joined": scores.image}, {"joined": features.geometry["layer1"]})


class SqueezedImage(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image.squeeze())


class MissingLevel(Nearest):
    def fit(self, stream):
        super().fit({"layer3": features["layer3"]} for features in stream)


class MissingLevelInScore(Rescored):
    def changed(self, scores, features):
        return replace(scores, geometry={"layer3": features.geometry["layer3"]})


class ScoresOneArgument(Nearest):
    def score(self):
        raise AssertionError("cannot be called with features")


class NoFit:
    score = Nearest.score
    state_dict = Nearest.state_dict
    load_state_dict = Nearest.load_state_dict


class CentersBatch(Rescored):
    def changed(self, scores, features):
        return replace(scores, image=scores.image - scores.image.mean())


class DrawsGlobally(Nearest):
    def fit(self, stream):
        super().fit(stream)
        torch.rand(1)


class DrawsGloballyFromNumpy(Nearest):
    def fit(self, stream):
        super().fit(stream)
        np.random.rand()  # noqa: NPY002


class DrawsGloballyFromPython(Nearest):
    def score(self, features):
        random.random()
        return super().score(features)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("unfitted", ScoresUnfitted),
        ("unfitted", BreaksUnfitted),
        ("inputs", ChangesFitFeatures),
        ("inputs", ChangesScoreFeatures),
        ("shapes", WrongImageShape),
        ("shapes", WrongDtype),
        ("shapes", NotATensor),
        ("shapes", WrongMapShape),
        ("shapes", PooledMap),
        ("geometry", NoGeometry),
        ("geometry", WrongGeometry),
        ("finite", NotFinite),
        ("seed", CountsInstances),
        ("refit", Remembers),
        ("stream", LastBatchOnly),
        ("unreadable", TrustsCount),
        ("state", LosesState),
        ("state", StateOfNumbers),
        ("types", StateOfNothing),
        ("junk", LoadsForeignNames),
        ("junk", LoadsAnyShape),
        ("junk", LoadsNothing),
        ("junk", DiesOfJunk),
        ("junk", LosesFitToJunk),
        ("types", BareTensor),
        ("types", NoScores),
        ("types", MapsInList),
        ("shapes", FlatMap),
        ("batches", SqueezedImage),
        ("fit", MissingLevel),
        ("score", MissingLevelInScore),
        ("unfitted", ScoresOneArgument),
        ("methods", NoFit),
        ("batches", CentersBatch),
        ("generators", DrawsGlobally),
        ("generators", DrawsGloballyFromNumpy),
        ("generators", DrawsGloballyFromPython),
    ],
)
def test_broken_scorer_trips(check, broken):
    trips(check, lambda: check_scorer(broken))


def test_honest_scorer_passes():
    check_scorer(Nearest)


class LearnsByGradient(Nearest):
    """Keeps the gradient by which a weight a channel of ``layer1`` would move."""

    def fit(self, stream):
        weight, count = torch.ones(4, requires_grad=True), 0
        for features in stream:
            (features["layer1"] * weight).square().sum().backward()
            count += features.pictures
        self.normal = weight.grad / count


def test_scorer_may_learn_by_gradients():
    check_scorer(LearnsByGradient)


def test_failure_of_the_component_is_kept_as_the_cause():
    with pytest.raises(AssertionError) as failure:
        check_scorer(MissingLevel)
    assert str(failure.value) == "fit: expected fit(stream) to run through, found KeyError('layer3')"
    assert isinstance(failure.value.__cause__, KeyError)


def test_failure_names_the_methods_that_are_missing():
    with pytest.raises(AssertionError) as failure:
        check_scorer(NoFit)
    assert str(failure.value) == (
        "methods: expected scorer with fit, score, state_dict, load_state_dict, found a NoFit without fit"
    )


def test_failure_says_expected_and_found():
    with pytest.raises(AssertionError) as failure:
        check_scorer(WrongImageShape)
    assert str(failure.value) == ("shapes: expected image of (10,) torch.float32, found (10, 1) torch.float32")


# Localizers ----------------------------------------------------------------------------------------------


class Nearby:
    """Adds up maps that are resized without interpolation."""

    def localize(self, scores, size):
        grown = [torch.nn.functional.interpolate(m[:, None], size)[:, 0] for m in scores.maps.values()]
        return torch.stack(grown).sum(0)


class WrongSize(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, (size[0], size[0]))


class SquareOnly(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, (24, 20))


class InfiniteMap(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size) / 0


class ChangesMaps(Nearby):
    def localize(self, scores, size):
        scores.maps["layer1"].zero_()
        return super().localize(scores, size)


class Normalizes(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found / found.max()


class AddsNoise(Nearby):
    noise = torch.Generator().manual_seed(0)

    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found + torch.rand(found.shape, generator=self.noise)


class AddsGlobalNoise(Nearby):
    def localize(self, scores, size):
        found = super().localize(scores, size)
        return found + torch.rand_like(found)


class NoMap(Nearby):
    def localize(self, scores, size):
        return None


class SqueezedMap(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size).squeeze()


class NeedsTwoLevels(Nearby):
    def localize(self, scores, size):
        return super().localize(scores, size) + 0 * scores.maps["layer2"].mean()


class NoLocalize:
    pass


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("shapes", NoMap),
        ("batches", SqueezedMap),
        ("localize", NeedsTwoLevels),
        ("methods", NoLocalize),
        ("shapes", WrongSize),
        ("shapes", SquareOnly),
        ("finite", InfiniteMap),
        ("inputs", ChangesMaps),
        ("batches", Normalizes),
        ("seed", AddsNoise),
        ("generators", AddsGlobalNoise),
    ],
)
def test_broken_localizer_trips(check, broken):
    trips(check, lambda: check_localizer(broken))


def test_honest_localizer_passes():
    check_localizer(Nearby)


# Extractors ----------------------------------------------------------------------------------------------


class PlainFunction:
    levels = TinyExtractor().levels

    def __call__(self, images):
        return TinyExtractor()(images)


class Reworked(TinyExtractor):
    """Changes the features of an honest extractor."""

    def changed(self, features, images):
        raise AssertionError("each test says how")

    def forward(self, images):
        return self.changed(super().forward(images), images)


class InTraining(TinyExtractor):
    def __init__(self):
        super().__init__()
        self.layer2.train()


class UndeclaredLevel(Reworked):
    def changed(self, features, images):
        return replace(features, levels={"layer1": features["layer1"], POOL: features[POOL]})


class ChannelsFirst(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t.permute(0, 3, 1, 2) for n, t in features.items()})


class HalfPrecision(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t.half() for n, t in features.items()})


class MovedGeometry(Reworked):
    def changed(self, features, images):
        return replace(features, geometry={n: Geometry((0.0, 0.0), (1.0, 1.0)) for n in features})


class NanFeatures(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t / 0 for n, t in features.items()})


class ChangesImages(TinyExtractor):
    def forward(self, images):
        return super().forward(images.sub_(0.5))


class NormalizesBatch(Reworked):
    def changed(self, features, images):
        return replace(features, levels={n: t - t.mean() for n, t in features.items()})


class Unseeded(TinyExtractor):
    count = 0

    def __init__(self):
        type(self).count += 1
        super().__init__(seed=self.count)


class SeedsGlobally(TinyExtractor):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)


class HiddenState(TinyExtractor):
    """Keeps a copy of weights that its state does not restore."""

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict({n: t * 2 for n, t in state.items()}, strict, assign)


class ForgottenBlock(TinyExtractor):
    def blocks(self):
        return {"layer1": list(self.layer1.parameters())}


class SharedBlock(TinyExtractor):
    def blocks(self):
        return {"all": list(self.parameters()), "head": list(self.head.parameters())}


class PlainDict(Reworked):
    def changed(self, features, images):
        return dict(features)


class NoFeatures(Reworked):
    def changed(self, features, images):
        return None


class NamesForLevels(TinyExtractor):
    levels = ["layer1", "layer2", POOL]

    def forward(self, images):
        return TinyExtractor()(images)


class GridsForLevels(NamesForLevels):
    levels = {"layer1": (12, 10), "layer2": (6, 5), POOL: (1, 1)}


class NoForward(torch.nn.Module):
    levels = TinyExtractor().levels


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("types", PlainDict),
        ("types", NoFeatures),
        ("types", NamesForLevels),
        ("types", GridsForLevels),
        ("extractor", NoForward),
        ("module", PlainFunction),
        ("evaluation", InTraining),
        ("levels", UndeclaredLevel),
        ("shapes", ChannelsFirst),
        ("shapes", HalfPrecision),
        ("geometry", MovedGeometry),
        ("finite", NanFeatures),
        ("inputs", ChangesImages),
        ("batches", NormalizesBatch),
        ("seed", Unseeded),
        ("generators", SeedsGlobally),
        ("state", HiddenState),
        ("blocks", ForgottenBlock),
        ("blocks", SharedBlock),
    ],
)
def test_broken_extractor_trips(check, broken):
    trips(check, lambda: check_extractor(broken))


def test_tiny_extractor_passes():
    check_extractor(TinyExtractor)


# Adapters ------------------------------------------------------------------------------------------------


class NoStages(TinyAdapter):
    def stages(self):
        return []


class EmptyStage(TinyAdapter):
    def stages(self):
        return [Stage([])]


class NoList(TinyAdapter):
    def stages(self):
        return None


class BareParameters(TinyAdapter):
    def stages(self):
        return self._parameters


class GeneratorOfParameters(TinyAdapter):
    def stages(self):
        return [Stage(parameter for parameter in self._parameters)]


class NamesOfParameters(TinyAdapter):
    def stages(self):
        return [Stage(["layer2.weight"])]


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


class LossAPicture(TinyAdapter):
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
        ("shapes", LossAPicture),
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
        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            assert scorer.normal is not None

    check_adapter(Asks, make_scorer=Nearest)


# Stoppers ------------------------------------------------------------------------------------------------


class Fixed:
    """Stops after 20 minibatches."""

    def check(self, progress, extractor, adapter, held_out, generator):
        stop = progress.minibatches >= 20
        return Verdict(keep=True, stop=stop, reason=f"{progress.minibatches} of 20 minibatches")


class Reworded(Fixed):
    """Changes the verdict of an honest stopper."""

    def changed(self, verdict, generator):
        raise AssertionError("each test says how")

    def check(self, progress, extractor, adapter, held_out, generator):
        return self.changed(super().check(progress, extractor, adapter, held_out, generator), generator)


class SaysTrue(Reworded):
    def changed(self, verdict, generator):
        return verdict.stop


class NumberForFlag(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, keep=1)


class NoReason(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, reason=" ")


class NanFigure(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, figure=float("nan"))


class FigureOfText(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, figure="0.5")


class ReasonIsNone(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, reason=None)


class ThreeArguments(Fixed):
    def check(self, progress, extractor, adapter):
        raise AssertionError("cannot be called with all five")


class NoCheck:
    pass


class OwnRandomness(Reworded):
    source = torch.Generator().manual_seed(0)

    def changed(self, verdict, generator):
        return replace(verdict, figure=torch.rand((), generator=self.source).item())


class GlobalRandomness(Reworded):
    def changed(self, verdict, generator):
        return replace(verdict, figure=torch.rand(()).item())


class Trains(Fixed):
    def check(self, progress, extractor, adapter, held_out, generator):
        with torch.no_grad():
            extractor.layer2.bias.add_(1)
        return super().check(progress, extractor, adapter, held_out, generator)


class LeavesTraining(Fixed):
    def check(self, progress, extractor, adapter, held_out, generator):
        extractor.train()
        return super().check(progress, extractor, adapter, held_out, generator)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("verdict", SaysTrue),
        ("verdict", NumberForFlag),
        ("reason", NoReason),
        ("finite", NanFigure),
        ("types", FigureOfText),
        ("types", ReasonIsNone),
        ("check", ThreeArguments),
        ("methods", NoCheck),
        ("seed", OwnRandomness),
        ("generators", GlobalRandomness),
        ("weights", Trains),
        ("evaluation", LeavesTraining),
    ],
)
def test_broken_stopper_trips(check, broken):
    trips(check, lambda: check_stopper(broken))


def test_honest_stopper_passes():
    check_stopper(Fixed)


def test_stopper_may_draw_from_its_generator():
    class Draws(Reworded):
        def changed(self, verdict, generator):
            return replace(verdict, figure=torch.rand((), generator=generator).item())

    check_stopper(Draws)


# Components ----------------------------------------------------------------------------------------------


class Described(Params):
    k: int = Field(2, ge=1, description="neighbours")


class Undescribed(Params):
    k: int = 2


class BadDefault(Params):
    k: int = Field(0, ge=1, description="neighbours")


def component(build, kind="scorer", params=Described):
    return Component("mine", kind, params, build)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("kind", component(None, kind="scorers")),
        ("params", component(None, params=dict)),
        ("descriptions", component(None, params=Undescribed)),
        ("defaults", component(None, params=BadDefault)),
    ],
)
def test_broken_parameters_trip(check, broken):
    trips(check, lambda: check_params(broken))


def test_shared_instance_trips():
    one = Nearest()
    trips("fresh", lambda: check_component(component(lambda params, context: one)))


@pytest.mark.parametrize(
    ("kind", "honest"),
    [
        ("extractor", TinyExtractor),
        ("adapter", TinyAdapter),
        ("scorer", Nearest),
        ("localizer", Nearby),
        ("stopper", Fixed),
    ],
)
def test_component_of_each_kind_passes(kind, honest):
    check_component(component(lambda params, context: honest(), kind))


@pytest.mark.parametrize(
    ("kind", "broken", "check"),
    [
        ("extractor", InTraining, "evaluation"),
        ("adapter", NoStages, "stages"),
        ("scorer", CentersBatch, "batches"),
        ("localizer", WrongSize, "shapes"),
        ("stopper", NoReason, "reason"),
    ],
)
def test_component_is_checked_as_its_kind(kind, broken, check):
    trips(check, lambda: check_component(component(lambda params, context: broken(), kind)))


def fails_to_build(params, context):
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("build", "check"),
    [
        (lambda params: Nearest(), "build"),
        (fails_to_build, "build"),
        (None, "build"),
        (lambda params, context: None, "methods"),
        (lambda params, context: Nearest, "methods"),
        (lambda params, context: NoFit(), "methods"),
    ],
)
def test_broken_build_trips(build, check):
    trips(check, lambda: check_component(component(build)))


@pytest.mark.parametrize("kind", ["extractor", "adapter", "scorer", "localizer", "stopper"])
def test_component_without_methods_trips(kind):
    trips("methods", lambda: check_component(component(lambda params, context: object(), kind)))


@pytest.mark.parametrize("params", [{"k": 0}, {"neighbours": 3}, {"k": torch}])
def test_parameters_that_the_component_does_not_take_trip(params):
    trips("params", lambda: check_component(component(lambda params, context: Nearest()), params))


def test_what_is_no_component_trips():
    trips("types", lambda: check_component(Nearest))


def test_failure_names_the_component():
    with pytest.raises(AssertionError) as failure:
        check_component(component(lambda params, context: CentersBatch()), {"k": 3})
    assert failure.value.__notes__ == ["in scorer 'mine' with {'k': 3}"]


def test_component_is_built_with_its_parameters_and_context():
    seen = []

    def build(params, context):
        seen.append((params.k, context.seed))
        return Nearest()

    check_component(component(build), {"k": 3}, context=Context(seed=7))
    assert set(seen) == {(3, 7)}


# Samples -------------------------------------------------------------------------------------------------


def test_stream_hands_out_every_picture_once_whatever_the_batches():
    stream = feature_stream(pictures=10)
    for size in (1, 3, 10, 64):
        together = torch.cat([features["layer1"] for features in stream.cut(size)])
        assert torch.equal(together, stream.features["layer1"])


def test_stream_of_a_seed_is_the_same_and_of_another_is_not():
    first, second, other = (feature_stream(seed=seed).features[POOL] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_streams_give_normal_tensors_without_gradients_even_in_inference_mode():
    with torch.inference_mode():
        found = [values for features in feature_stream() for values in features.values()]
    assert not any(values.is_inference() or values.requires_grad for values in found)


def test_stream_over_features_with_gradients_gives_none():
    pooled = torch.zeros(3, 1, 1, 2, requires_grad=True)
    (features,) = FeatureStream(Features({POOL: pooled * 2}, {POOL: Geometry((0.5, 0.5), (1.0, 1.0))}))
    assert not features[POOL].requires_grad


def test_pictures_are_named_apart_over_batches():
    batches = pictures(5, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert len({name for batch in batches for name in batch.ids}) == 5


def test_tiny_extractor_states_the_levels_of_odd_sizes():
    extractor = TinyExtractor(size=(23, 17))
    check_extractor(lambda: TinyExtractor(size=(23, 17)), size=(23, 17))
    assert extractor.levels["layer1"].grid == (12, 9)


def test_tiny_extractor_classifies():
    assert TinyExtractor().classify(torch.rand(2, 3, 24, 20)).shape == (2, 5)


def test_features_of_one_batch_are_views_so_that_changes_show():
    stream = feature_stream(pictures=4, batch_size=2)
    first = next(iter(stream))
    assert isinstance(first, Features)
    first[POOL].fill_(7)
    assert bool((stream.features[POOL][:2] == 7).all())


@pytest.mark.slow
def test_testing_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import adkit.testing"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ}, timeout=120)
