"""Mistakes that authors of plugins make: ``check_component`` finds each, and says what it is."""

import pytest

from adkit.plugin import Component, Params
from adkit.testing import check_component
from tests.testing import test_adapters as adapters
from tests.testing import test_adapters_traits as traits
from tests.testing import test_extractors as extractors
from tests.testing import test_localizers as localizers
from tests.testing import test_scorers as scorers
from tests.testing import test_stoppers as stoppers
from tests.testing import test_stoppers_state as stoppers_state
from tests.testing.components import Nearest, failures


class Undescribed(Params):
    k: int = 2


def mistakes(kind, build, name="mine", params=Params):
    return failures(lambda: check_component(Component(name, kind, params, lambda params, context: build())))


@pytest.mark.parametrize(
    ("kind", "broken", "sentence"),
    [
        ("extractor", extractors.NamesForLevels, "levels: expected a dict of at least one Level, found a list"),
        ("extractor", extractors.PlainFunction, "build: expected an nn.Module, whose weights are saved, found a Plain"),
        ("extractor", extractors.InTraining, "build: expected every module in evaluation mode, found layer2 in train"),
        ("extractor", extractors.DropoutActive, "build: expected every module in evaluation mode, found drop in train"),
        ("extractor", extractors.DropoutForGood, "seed: expected two extractors of one seed to give equal features"),
        ("extractor", extractors.HalfPrecision, "level layer1: expected float32, found float16: convert it: .float()"),
        ("extractor", extractors.GlobalWeights, "generators: expected no draw from a global generator, found draws"),
        ("extractor", extractors.Unseeded, "seed: expected two extractors of one seed to give equal features, found"),
        ("adapter", adapters.NoStages, "stages: expected a list of at least one Stage, found an empty list"),
        ("adapter", adapters.NoGroups, "stages: stage adapt: groups: expected a list of at least one Group, found an"),
        ("adapter", adapters.EmptyGroup, "stages: stage adapt: parameters: expected a list of at least one, found an"),
        (
            "adapter",
            adapters.NamesOfParameters,
            "stages: stage adapt: parameters: expected parameters alone, found a st",
        ),
        ("adapter", traits.ExtendsToNone, "extend: expected an extractor with the levels of the given one and more,"),
        ("adapter", adapters.LossAImage, "loss: expected a scalar tensor, found a tensor (10,) float32: take the mean"),
        ("adapter", adapters.Detached, "gradient: expected one that is not 0 in some parameter of stage adapt, found"),
        ("adapter", adapters.FuseByMedian, "fuse: expected None or one of mean, max_ratio, found 'median': set one of"),
        (
            "adapter",
            adapters.NeedScorer,
            "found need_scorer is no member of Adapter (did you mean needs_scorer?): spell",
        ),
        (
            "adapter",
            adapters.AfterSteps,
            "found after_steps is no member of Adapter (did you mean after_step?): spell it",
        ),
        ("scorer", scorers.LevelsInList, "Scores.levels: expected a dict by level, found a list: give one"),
        ("scorer", scorers.StateWithNumber, "state_dict: k: expected a tensor, found a int: make a tensor of it"),
        ("scorer", scorers.NoState, "found a NoState without state_dict: inherit from adkit.plugin.Scorer"),
        ("scorer", scorers.MapOfOtherCells, "map 'layer1': expected its geometry in Scores.geometry, as no level has"),
        (
            "scorer",
            scorers.MapBeyondTheImage,
            "geometry: expected 2 cells of map joined along y to cover the pixels 0 ",
        ),
        ("scorer", scorers.NotFinite, "finite: expected image finite for finite input, found NaN or inf in 10 of 10"),
        (
            "scorer",
            scorers.NanMaps,
            "finite: expected map of layer1 finite for finite input, found NaN or inf in 300 of",
        ),
        (
            "scorer",
            scorers.MemoryWithoutImages,
            "memory: expected memory(levels, images) to run through, found TypeError",
        ),
        ("localizer", localizers.NanMap, "finite: expected the map finite for finite input, found NaN or inf in 4,800"),
        ("stopper", stoppers.SaysTrue, "check: expected an adkit.plugin.Verdict, found a bool: return Verdict(keep=…,"),
        (
            "stopper",
            stoppers_state.RemembersText,
            "state_dict: checks: expected a number, found a str: convert it: float",
        ),
    ],
)
def test_mistake_is_found(kind, broken, sentence):
    found = mistakes(kind, broken)
    assert any(sentence in line for line in found), found


def test_a_name_with_capital_letters_is_found():
    assert mistakes("scorer", Nearest, name="Mine") == [
        "discovery: expected a component that adkit lists, "
        "found a component's name is lower-case letters, digits and underscores, found 'Mine'"
    ]


def test_a_parameter_without_description_is_found():
    found = mistakes("scorer", Nearest, params=Undescribed)
    assert found == ["descriptions: expected field k to have one, found None"]
