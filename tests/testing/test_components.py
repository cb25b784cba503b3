"""A whole component is checked as its kind, with its parameters and as a fresh instance at each call."""

import pytest
import torch
from pydantic import Field

from adkit.plugin import Component, Context, Params
from adkit.testing import TinyAdapter, TinyExtractor, check_component, check_params
from tests.testing.components import Draws, Fixed, Grays, Nearby, Nearest, failures, trips
from tests.testing.test_adapters import NoStages
from tests.testing.test_extractors import InTraining
from tests.testing.test_localizers import WrongSize
from tests.testing.test_scorers import CentersBatch, MissingLevel, NoFit, NotFinite, WrongImageShape
from tests.testing.test_stoppers import NoReason

SIZE, SQUARE = (24, 20), (24, 24)


class Described(Params):
    k: int = Field(2, ge=1, description="neighbors")


class Undescribed(Params):
    k: int = 2


class BadDefault(Params):
    k: int = Field(0, ge=1, description="neighbors")


class NoExample(Params):
    k: int = Field(description="neighbors")


class BadExample(Params):
    k: int = Field(ge=1, examples=[0], description="neighbors")


class GoodExample(Params):
    k: int = Field(ge=1, examples=[1], description="neighbors")


class Reserved(Params):
    use: str = Field("", description="what the core already has")


class ReservedOfScorers(Params):
    levels: int = Field(1, description="what the core already has")


class SeveralFaults(Params):
    k: int = 2
    n: int = Field(0, ge=1, description="images")


def component(build, kind="scorer", params=Described, name="mine"):
    return Component(name, kind, params, build)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        ("kind", component(None, kind="scorers")),
        ("params", component(None, params=dict)),
        ("descriptions", component(None, params=Undescribed)),
        ("defaults", component(None, params=BadDefault)),
        ("examples", component(None, params=NoExample)),
        ("examples", component(None, params=BadExample)),
        ("discovery", component(None, params=Reserved)),
        ("discovery", component(None, params=ReservedOfScorers)),
        ("discovery", component(None, name="Mine")),
        ("discovery", component(None, name="my-scorer")),
        ("discovery", component(None, name=None)),
        ("discovery, descriptions, defaults", component(None, params=SeveralFaults, name="Mine")),
    ],
)
def test_broken_parameters_trip(check, broken):
    trips(check, lambda: check_params(broken))


def test_a_required_parameter_with_an_example_is_in_order():
    check_params(component(None, params=GoodExample))


def test_a_key_of_the_scorer_table_is_free_for_other_kinds():
    check_params(component(None, kind="localizer", params=ReservedOfScorers))


def test_shared_instance_trips():
    one = Nearest()
    trips("fresh, unfitted", lambda: check_component(component(lambda params, context: one)))


@pytest.mark.parametrize(
    ("kind", "honest"),
    [
        ("extractor", lambda: TinyExtractor(SQUARE)),
        ("extractor", lambda: Grays()),
        ("adapter", TinyAdapter),
        ("adapter", Draws),
        ("scorer", Nearest),
        ("localizer", Nearby),
        ("stopper", Fixed),
    ],
)
def test_component_of_each_kind_passes(kind, honest):
    size = SQUARE if kind == "extractor" else SIZE
    check_component(component(lambda params, context: honest(), kind), context=Context(image_size=size))


@pytest.mark.parametrize(
    ("kind", "broken", "check"),
    [
        ("extractor", InTraining, "build"),
        ("adapter", NoStages, "stages"),
        ("scorer", CentersBatch, "batches, parity"),
        ("localizer", WrongSize, "map"),
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
        (lambda params, context: None, "build"),
        (lambda params, context: Nearest, "build"),
        (lambda params, context: NoFit(), "build"),
    ],
)
def test_broken_build_trips(build, check):
    trips(check, lambda: check_component(component(build)))


@pytest.mark.parametrize("kind", ["extractor", "adapter", "scorer", "localizer", "stopper"])
def test_component_without_methods_trips(kind):
    trips("build", lambda: check_component(component(lambda params, context: object(), kind)))


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("neighbors", 3), ("k", torch)])
def test_parameters_that_the_component_does_not_take_trip(name, value):
    mine = component(lambda params, context: Nearest())
    trips(f"params: {name}", lambda: check_component(mine, {name: value}))


def test_what_is_no_component_trips():
    trips("types", lambda: check_component(Nearest))


def test_failure_names_the_component():
    with pytest.raises(AssertionError) as failure:
        check_component(component(lambda params, context: CentersBatch()), {"k": 3})
    assert failure.value.__notes__ == ["in scorer 'mine' with {'k': 3}"]


def test_faults_of_parameters_kind_and_detector_are_reported_together():
    class Threefold(CentersBatch):
        def memory(self, levels, images):
            return 0.5

    found = component(lambda params, context: Threefold(), params=Undescribed)
    trips("descriptions, batches, memory, parity", lambda: check_component(found))


@pytest.mark.parametrize("broken", [WrongImageShape, MissingLevel, NotFinite])
def test_a_call_that_fails_is_not_reported_again_inside_a_detector(broken):
    assert len(failures(lambda: check_component(component(lambda params, context: broken())))) == 1


def test_component_is_built_with_its_parameters_and_context():
    seen = []

    def build(params, context):
        seen.append((params.k, context.seed))
        return Nearest()

    check_component(component(build), {"k": 3}, context=Context(seed=7))
    assert set(seen) == {(3, 7)}


class Required(Params):
    strength: float = Field(gt=0, examples=[1.0], description="weight of the penalty")
    k: int = Field(2, ge=1, description="neighbors")


@pytest.mark.parametrize(
    ("params", "lines"),
    [
        (
            None,
            [
                "params: strength: expected a number above 0: weight of the penalty, found none: give it, as in "
                "check_component(component, {'strength': 1.0})"
            ],
        ),
        (
            {"strength": -1.0},
            ["params: strength: expected a number above 0, found -1.0: correct what check_component is given"],
        ),
        (
            {"strength": 1.0, "kk": 2},
            [
                "params: kk: expected what mine takes, found unknown key; mine takes strength, k (did you mean k?): "
                "correct what check_component is given"
            ],
        ),
        (
            {"strength": "high", "k": 0},
            [
                'params: strength: expected a number above 0, found "high": correct what check_component is given',
                "params: k: expected an integer of at least 1, found 0: correct what check_component is given",
            ],
        ),
    ],
)
def test_parameters_that_do_not_fit_are_told_in_sentences(params, lines):
    mine = component(lambda params, context: Nearest(), params=Required)
    assert failures(lambda: check_component(mine, params)) == lines


def test_a_required_parameter_that_is_given_passes():
    check_component(component(lambda params, context: Nearest(), params=Required), {"strength": 1.0})
