"""Each check of a scorer passes an honest one and is tripped by one that breaks just that promise."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from adkit.plugin import POOL, Geometry, Scores
from adkit.testing import check_scorer
from adkit.toolkit.scoring import checked_state
from tests.testing.components import Nearest, failures, trips


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


class NearestBeyondTheStream(Nearest):
    def nearest(self, level, cells, k):
        return cells[:, :1], torch.full((len(cells), 1), 10**6)


class NearestFarthestFirst(Nearest):
    def nearest(self, level, cells, k):
        return torch.tensor([[2.0, 1.0]]).expand(len(cells), 2), torch.zeros(len(cells), 2, dtype=torch.int64)


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


class MapOfOtherCells(Rescored):
    """Gives a map of 2 × 2 cells without saying where they lie."""

    def changed(self, scores, features):
        return replace(scores, maps={"layer1": scores.maps["layer1"][:, :2, :2]})


class MapBeyondTheImage(Rescored):
    """Says that its 2 × 2 cells lie as far apart as four would, so that they reach over the end of the image."""

    def changed(self, scores, features):
        cells = scores.maps["layer1"][:, :2, :2]
        return Scores(scores.image, {"joined": cells}, {"joined": Geometry((12.0, 10.0), (24.0, 20.0))})


class MapInACorner(Rescored):
    def changed(self, scores, features):
        cells = scores.maps["layer1"][:, :2, :2]
        return Scores(scores.image, {"joined": cells}, {"joined": Geometry((2.0, 2.0), (4.0, 4.0))})


class MapOfItsOwn(Rescored):
    """Honest: 3 × 3 cells that cover the image."""

    def changed(self, scores, features):
        cells = scores.maps["layer1"][:, ::2, ::2]
        return Scores(scores.image, {"joined": cells}, {"joined": Geometry.covering((3, 3), (24, 20))})


class NanMaps(Rescored):
    def changed(self, scores, features):
        return replace(scores, maps={name: values * torch.nan for name, values in scores.maps.items()})


class Drifts(Rescored):
    """Adds 1 to its scores at every call."""

    calls = 0

    def changed(self, scores, features):
        self.calls += 1
        return Scores(scores.image + self.calls, {}, {})


class NanOfOne(Rescored):
    """Divides by the number of the other images of the batch, of which there may be none."""

    def changed(self, scores, features):
        return replace(scores, image=scores.image + 0 / torch.tensor(features.count - 1.0))


class Remembering(Nearest):
    def memory(self, levels, images):
        return self.bytes(levels, images)


class MemoryOfFloat(Remembering):
    def bytes(self, levels, images):
        return 4.0 * images


class MemoryBelowZero(Remembering):
    def bytes(self, levels, images):
        return -1


class MemoryOfNothing(Remembering):
    def bytes(self, levels, images):
        return None


class MemoryOfImages(Remembering):
    def bytes(self, levels, images):
        return 4 * images * sum(level.channels for level in levels.values())


class MemoryWithoutImages(Nearest):
    def memory(self, levels):
        return 0


class Memories(Nearest):
    def memorys(self, levels, images):
        return 0


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
    """Invents values of announced images that did not come."""

    def fit(self, stream):
        super().fit(stream)
        missing = stream.count * 30 - len(self.normal)
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


class StateWithNumber(Nearest):
    def state_dict(self):
        return super().state_dict() | {"k": 3}


class StateOfNan(Nearest):
    def state_dict(self):
        return super().state_dict() | {"nothing": torch.tensor(torch.nan)}


class NoState(Nearest):
    state_dict = None


class LevelsInList(Rescored):
    def changed(self, scores, features):
        return replace(scores, levels=[scores.image])


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


class LoadsDouble(Nearest):
    def load_state_dict(self, state):
        super().load_state_dict({name: tensor.float() for name, tensor in state.items()})


class LoadsNan(Nearest):
    def load_state_dict(self, state):
        checked_state("nearest", {name: tensor.nan_to_num() for name, tensor in state.items()}, {"normal": 1})
        self.normal = state["normal"]


class TwoTensors(Nearest):
    """Has a scale beside the normal values."""

    scale = None

    def fit(self, stream):
        super().fit(stream)
        self.scale = self.normal.std()

    def score(self, features):
        scores = super().score(features)
        maps = {name: values / self.scale for name, values in scores.maps.items()}
        return replace(scores, image=scores.image / self.scale, maps=maps)

    def state_dict(self):
        return {"normal": self.normal, "scale": self.scale}

    def load_state_dict(self, state):
        checked = checked_state("nearest", state, {"normal": 1, "scale": 0})
        self.normal, self.scale = checked["normal"], checked["scale"]


class LoadsWithoutScale(TwoTensors):
    def load_state_dict(self, state):
        given = {"scale": torch.tensor(1.0)} | dict(state)
        super().load_state_dict(given)
        self.scale = state.get("scale")


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


class LevelOfShape(Rescored):
    def changed(self, scores, features):
        return replace(scores, levels={"layer1": scores.image[:, None]})


class LevelsOfAnotherMean(Rescored):
    def changed(self, scores, features):
        return replace(scores, levels={"layer1": scores.image, "layer2": 2 * scores.image})


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
    ("checks", "broken"),
    [
        ("unfitted", ScoresUnfitted),
        ("unfitted", BreaksUnfitted),
        ("inputs", ChangesFitFeatures),
        ("inputs", ChangesScoreFeatures),
        ("nearest", NearestBeyondTheStream),
        ("nearest", NearestFarthestFirst),
        ("scores", WrongImageShape),
        ("scores", WrongDtype),
        ("scores", NotATensor),
        ("map 'layer1'", WrongMapShape),
        ("map 'layer1'", MapOfOtherCells),
        ("geometry", MapBeyondTheImage),
        ("geometry", MapInACorner),
        ("maps", PooledMap),
        ("Scores.levels: 'layer1'", LevelOfShape),
        ("Scores.levels", LevelsInList),
        ("levels", LevelsOfAnotherMean),
        ("geometry", WrongGeometry),
        ("finite", NotFinite),
        ("finite", NanMaps),
        ("batches", NanOfOne),
        ("seed, refit, stream, unreadable, state", CountsInstances),
        ("refit", Remembers),
        ("stream", LastBatchOnly),
        ("unreadable", TrustsCount),
        ("state", LosesState),
        ("state_dict: normal", StateOfNumbers),
        ("state_dict: k", StateWithNumber),
        ("state_dict: nothing", StateOfNan),
        ("state_dict", StateOfNothing),
        ("build", NoState),
        ("junk", LoadsForeignNames),
        ("junk", LoadsAnyShape),
        ("junk, missing", LoadsNothing),
        ("junk", LoadsDouble),
        ("junk", LoadsNan),
        ("missing", LoadsWithoutScale),
        ("junk, missing", DiesOfJunk),
        ("junk", LosesFitToJunk),
        ("score", BareTensor),
        ("score", NoScores),
        ("Scores.maps", MapsInList),
        ("map 'joined'", FlatMap),
        ("scores", SqueezedImage),
        ("fit", MissingLevel),
        ("score", MissingLevelInScore),
        ("score, unfitted", ScoresOneArgument),
        ("build", NoFit),
        ("batches", CentersBatch),
        ("generators", DrawsGlobally),
        ("generators", DrawsGloballyFromNumpy),
        ("generators", DrawsGloballyFromPython),
        ("memory", MemoryOfFloat),
        ("memory", MemoryBelowZero),
        ("memory", MemoryWithoutImages),
        ("members", Memories),
    ],
)
def test_broken_scorer_trips(checks, broken):
    trips(checks, lambda: check_scorer(broken))


@pytest.mark.parametrize("honest", [Nearest, TwoTensors, NoGeometry, MapOfItsOwn, MemoryOfNothing, MemoryOfImages])
def test_honest_scorer_passes(honest):
    check_scorer(honest)


class LearnsByGradient(Nearest):
    """Keeps the gradient by which a weight a channel of ``layer1`` would move."""

    def fit(self, stream):
        weight, count = torch.ones(4, requires_grad=True), 0
        for features in stream:
            (features["layer1"] * weight).square().sum().backward()
            count += features.count
        self.normal = weight.grad / count


def test_scorer_may_learn_by_gradients():
    check_scorer(LearnsByGradient)


def test_failure_of_the_component_is_kept_as_the_cause():
    with pytest.raises(AssertionError) as failure:
        check_scorer(MissingLevel)
    assert str(failure.value) == "fit: expected fit(stream) to run through, found KeyError('layer3')"
    causes, error = [], failure.value
    while error := error.__cause__:
        causes.append(type(error))
    assert causes[-1] is KeyError


def test_failure_names_the_methods_that_are_missing():
    assert failures(lambda: check_scorer(NoFit)) == [
        "build: expected a scorer with fit, score, state_dict, load_state_dict, found a NoFit without fit: "
        "inherit from adkit.plugin.Scorer"
    ]


def test_failure_says_expected_and_found():
    assert failures(lambda: check_scorer(WrongImageShape)) == [
        "scores: expected shape (10,), found (10, 1): give one row per image"
    ]


def test_a_misspelt_member_is_named_with_the_one_that_is_meant():
    (line,) = failures(lambda: check_scorer(Memories))
    assert "memorys is no member of Scorer (did you mean memory?)" in line


def test_every_check_that_fails_is_reported():
    class Manifold(CentersBatch):
        def memory(self, levels, images):
            return 0.5

        def fit(self, stream):
            random.random()
            super().fit(stream)

        def load_state_dict(self, state):
            self.normal = state["normal"]

    trips("batches, memory, generators, junk, missing", lambda: check_scorer(Manifold))


def test_states_that_are_taken_are_told_in_one_line():
    (line,) = failures(lambda: check_scorer(LoadsAnyShape))
    assert line == (
        "junk: expected UserError from load_state_dict of every state that is not the scorer's own, "
        "found one whose normal has one dimension more accepted"
    )


def test_scores_that_depend_on_earlier_calls_are_told():
    lines = failures(lambda: check_scorer(Drifts))
    wanted = r"again: expected score to give equal scores at a second call, found image that differ by \S+ where the "
    assert [line for line in lines if re.match(wanted, line)], lines
