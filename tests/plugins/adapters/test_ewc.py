import copy
import itertools
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from adkit_plugins.adapters._fisher import fisher
from adkit_plugins.adapters.ewc import UNIFORM, Ewc, EwcParams, adkit_adapters

from adkit import UserError
from adkit.plugin import Context, Features, Schedule, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from adkit.training.trainer import train
from tests.plugins.adapters.descents import nothing, step_of, through
from tests.plugins.written import features_of
from tests.training.trainings import BATCH, minibatches, quiet, task

CONTEXT = Context(image_size=SIZE)
NORMAL = features_of(pool=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]])  # a center of (1, 2)
FOUND = features_of(pool=[[[[4.0, 6.0]]], [[[1.0, 3.0]]]])  # 25 and 1 away from it
KINDS = ("ant", "bee", "cat", "dog", "elk")


def adapter(**params):
    return Ewc(EwcParams(**params), CONTEXT)


def prepared(one, auxiliary=None, extractor=None):
    extractor = extractor or TinyExtractor()
    one.prepare(See(extractor, stream_of(extractor, 2, SIZE), auxiliary, None))
    return extractor


def labelled(extractor):
    """Other images, of as many kinds as the classifier has classes."""
    shown = (replace(batch, kinds=(*KINDS, "ant")) for batch in sample_images(12, seed=3, batch_size=6))
    return replace(stream_of(extractor, 3, SIZE), shown=tuple(shown))


def predicted(extractor, one):
    """The Fisher information that it has from the normal images."""
    return fisher(
        extractor, one.stages(extractor)[0].parameters, stream_of(extractor, 2, SIZE), "predicted", 3200, CONTEXT
    )


def moved(one, extractor, by=1.0):
    """The parameters that it trains, each moved by so much from where it was."""
    parameters = one.stages(extractor)[0].parameters
    with torch.no_grad():
        for parameter in parameters:
            parameter.requires_grad_(True).add_(by)
    return parameters


@pytest.mark.parametrize(
    "params", [{}, {"fisher": "uniform"}, {"penalty": "explicit"}, {"blocks": ["layer2"]}, {"fisher_images": 3}]
)
def test_contract(params):
    check_component(adkit_adapters()[0], params)


def test_compactness_and_score_by_hand():
    one = adapter(fisher="uniform")
    one.prepare(See(TinyExtractor(), FeatureStream(NORMAL), None, None))
    terms = one.loss(step_of(nothing(2)), FOUND)
    assert {name: term.item() for name, term in terms.items()} == {"pool": 13, "penalty": 0}
    assert one.score(FOUND).tolist() == [25, 1]


@pytest.mark.parametrize("penalty", ["implicit", "explicit"])
def test_penalty_by_hand(penalty):
    one = adapter(fisher="uniform", strength=10, penalty=penalty, blocks=("layer2",))
    extractor = TinyExtractor()
    one.prepare(See(extractor, FeatureStream(NORMAL), None, None))
    moved(one, extractor, by=2.0)
    weights = 6 * 4 * 9 + 6
    # λ/2 times the sum over weights of F · 2²
    assert one.loss(step_of(nothing(2)), FOUND)["penalty"].item() == pytest.approx(
        10 / 2 * UNIFORM * 4 * weights, rel=1e-5
    )


def test_an_explicit_penalty_has_the_gradient_of_equation_4():
    one = adapter(strength=7, penalty="explicit")
    extractor = prepared(one)
    importance = fisher(
        extractor, one.stages(extractor)[0].parameters, stream_of(extractor, 2, SIZE), "predicted", 3200, CONTEXT
    )
    parameters = moved(one, extractor, by=0.5)
    (batch,) = sample_images(5)
    found = torch.autograd.grad(
        one.loss(step_of(batch, extractor), through(extractor, batch.images))["penalty"], parameters
    )
    for gradient, values in zip(found, importance, strict=True):
        torch.testing.assert_close(gradient, 7 * values * 0.5)


def test_an_implicit_penalty_is_only_told():
    one = adapter(strength=7)
    extractor = prepared(one)
    moved(one, extractor, by=0.5)
    (batch,) = sample_images(5)
    penalty = one.loss(step_of(batch, extractor), through(extractor, batch.images))["penalty"]
    assert not penalty.requires_grad
    assert penalty.item() > 0


def test_the_implicit_step_is_that_of_the_closed_form():
    one = adapter(strength=7)
    extractor = prepared(one)
    parameters = one.stages(extractor)[0].parameters
    importance = predicted(extractor, one)
    initial = [parameter.detach().clone() for parameter in parameters]
    moved(one, extractor, by=0.5)
    before = [parameter.detach().clone() for parameter in parameters]
    rates = {parameter: 0.1 * (1 + number) for number, parameter in enumerate(parameters)}
    with torch.no_grad():
        one.after_step(step_of(nothing(1), extractor), rates)
    for parameter, theta, theta_0, values in zip(parameters, before, initial, importance, strict=True):
        pull = rates[parameter] * 7 * values
        torch.testing.assert_close(parameter.detach(), (theta + pull * theta_0) / (1 + pull))


def test_an_explicit_penalty_takes_no_step_of_its_own():
    one = adapter(penalty="explicit")
    extractor = prepared(one)
    parameters = moved(one, extractor)
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        one.after_step(step_of(nothing(1), extractor), dict.fromkeys(parameters, 0.1))
    assert all(torch.equal(parameter, values) for parameter, values in zip(parameters, before, strict=True))


def descended(one, rate, steps=25, **optimizer):
    """The penalty after each of some steps from a weight that was moved."""
    extractor = prepared(one)
    parameters = moved(one, extractor, by=0.01)
    rule, (batch,), found = torch.optim.SGD(parameters, rate, **optimizer), sample_images(5), []
    for _ in range(steps):
        terms = one.loss(step_of(batch, extractor), through(extractor, batch.images))
        found.append(terms["penalty"].item())
        rule.zero_grad()
        sum(terms.values()).backward()
        rule.step()
        with torch.no_grad():
            one.after_step(step_of(nothing(1), extractor), dict.fromkeys(parameters, rate))
    return found


STEEP = {"fisher": "uniform", "strength": 1e4 / UNIFORM}
"""lr · λ · F of 100 at a rate of 0.01"""


def test_the_papers_descent_is_that_of_autograd_with_the_whole_gradient_clipped():
    """Ten minibatches of the trainer against a loop that writes out equations 1 and 4 for the same images."""
    schedule = Schedule(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.05,
        clip_norm=0.3,
        batch_size=BATCH,
        minibatches=10,
    )
    extractor = TinyExtractor()
    one = adapter(penalty="explicit", strength=50, blocks=("layer2",))
    trained = task(schedule, adapter=one, extractor=extractor)
    by_hand = copy.deepcopy(extractor)
    parameters = list(by_hand.layer2.parameters())
    importance = fisher(by_hand, parameters, stream_of(by_hand, 2, SIZE), "predicted", 3200, CONTEXT)
    initial = [parameter.detach().clone() for parameter in parameters]
    centers = {name: values.mean((0, 1, 2)) for name, values in stream_of(by_hand, 2, SIZE).features.items()}
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    shares = []
    for batch in itertools.islice(minibatches().since(0), 10):
        for parameter in parameters:
            parameter.requires_grad_(True)
        features = by_hand(batch.images)
        away = [(features[name] - center).square().sum(3).mean() for name, center in centers.items()]
        pulls = [(f * (p - q) ** 2).sum() for f, p, q in zip(importance, parameters, initial, strict=True)]
        gradients = torch.autograd.grad(sum(away) / len(away) + 25 * sum(pulls), parameters)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        shares.append(min(1.0, 0.3 / (float(norm) + 1e-6)))
        with torch.no_grad():
            for parameter, gradient, moving in zip(parameters, gradients, velocity, strict=True):
                moving.mul_(0.9).add_(gradient * shares[-1] + 0.05 * parameter)
                parameter.sub_(0.1 * moving)
    assert min(shares) < 0.9  # the clipping acts
    train(trained, quiet)
    for found, expected in zip(extractor.layer2.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_explicit_step_diverges_where_it_is_steep():
    found = descended(adapter(penalty="explicit", **STEEP), rate=0.01, steps=6)
    assert all(later > 1000 * sooner for sooner, later in pairwise(found))


def test_the_implicit_step_does_not():
    found = descended(adapter(penalty="implicit", **STEEP), rate=0.01)
    assert max(found[1:]) < found[0] / 100


@pytest.mark.parametrize("clip", [None, 0.1])
def test_with_the_rate_at_which_gradients_act_it_rests_where_equation_4_is_least(clip):
    # Compactness of a bias: ½ a (θ − t)² in each of six weights, as momentum and clipping have it act.
    one = adapter(fisher="uniform", strength=2 / UNIFORM, blocks=("layer2",))
    extractor = prepared(one)
    (_, bias) = one.stages(extractor)[0].parameters
    initial, target = bias.detach().clone(), bias.detach() + torch.tensor([1.0, -1.0, 2.0, 0.0, 0.5, 3.0])
    bias.requires_grad_(True)
    rule = torch.optim.SGD([bias], 0.01, momentum=0.9)
    for _ in range(3000):
        rule.zero_grad()
        (5 / 2 * (bias - target).square().sum()).backward()
        share = 1.0
        if clip is not None:
            share = min(1.0, clip / float(torch.nn.utils.clip_grad_norm_([bias], clip)))
        rule.step()
        with torch.no_grad():
            one.after_step(
                step_of(nothing(1), extractor),
                dict.fromkeys(one.stages(extractor)[0].parameters, 0.01 * share / (1 - 0.9)),
            )
    # Where 5 (θ − t) + λF (θ − θ₀) = 0, with λF = 2.
    torch.testing.assert_close(bias.detach(), (5 * target + 2 * initial) / 7, atol=1e-3, rtol=0)


def test_without_auxiliary_images_the_normal_ones_serve():
    one = adapter(strength=2, penalty="explicit")
    extractor = prepared(one)
    importance = fisher(
        extractor, one.stages(extractor)[0].parameters, stream_of(extractor, 2, SIZE), "predicted", 3200, CONTEXT
    )
    moved(one, extractor)
    expected = sum(values.sum() for values in importance)
    assert penalty_of(one).item() == pytest.approx(expected.item(), rel=1e-4)


def penalty_of(one):
    """At features that do not matter."""
    levels = {name: torch.zeros(1, *level.grid, level.channels) for name, level in TinyExtractor().levels.items()}
    geometry = {name: level.geometry for name, level in TinyExtractor().levels.items()}
    return one.loss(step_of(nothing(1)), Features(levels, geometry))["penalty"]


def test_with_auxiliary_images_a_second_category_computes_nothing(cache):
    auxiliary = stream_of(TinyExtractor(), 3, SIZE)
    for seed in (2, 5):
        extractor = TinyExtractor()
        adapter().prepare(See(extractor, stream_of(extractor, seed, SIZE), auxiliary, None))
    assert len(list(cache.iterdir())) == 1


def test_without_them_each_category_has_its_own(cache):
    for seed in (2, 5):
        extractor = TinyExtractor()
        adapter().prepare(See(extractor, stream_of(extractor, seed, SIZE), None, None))
    assert len(list(cache.iterdir())) == 2


def test_labels_are_the_classes_of_auxiliary_images():
    one = adapter(fisher="classes", strength=2, penalty="explicit")
    extractor = TinyExtractor()
    auxiliary = labelled(extractor)
    prepared(one, auxiliary, extractor)
    importance = fisher(extractor, one.stages(extractor)[0].parameters, auxiliary, "classes", 3200, CONTEXT)
    moved(one, extractor)
    expected = sum(values.sum() for values in importance)
    assert penalty_of(one).item() == pytest.approx(expected.item(), rel=1e-4)


def test_classes_need_an_auxiliary_table():
    with pytest.raises(UserError) as found:
        prepared(adapter(fisher="classes"))
    assert str(found.value) == (
        'adapter.fisher: expected an [auxiliary] table for "classes", the data set that the weights were trained on, '
        'found none: add it, or set fisher = "predicted", which needs no labels'
    )


class Headless(TinyExtractor):
    def classify(self, images):
        raise UserError("extractor.weights: no classifier")


def test_uniform_importance_needs_no_classifier():
    prepared(adapter(fisher="uniform"), extractor=Headless())
    with pytest.raises(UserError, match="no classifier"):
        prepared(adapter(), extractor=Headless())


def test_the_papers_schedule_and_strength():
    one = adapter()
    assert (one.schedule.minibatches, one.params.strength, one.params.fisher_images) == (7800, 1e4, 100 * 32)


def test_it_looks_at_features_alone():
    one = adapter()
    assert not one.reads_images
