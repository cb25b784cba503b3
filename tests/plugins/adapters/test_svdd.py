import pytest
import torch
from adkit_plugins.adapters.svdd import Svdd, SvddParams, adkit_adapters
from adkit_plugins.scorers.center import Center, CenterParams

from adkit.plugin import Context, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from tests.plugins.adapters.descents import losses_of_descent, nothing, prepared, step_of, through
from tests.plugins.written import features_of

NORMAL = features_of(
    a=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]],  # a center of (1, 2)
    b=[[[[0.0], [10.0]]], [[[2.0], [12.0]]]],  # centers of 1 and 11, or of 6 for both
)
FOUND = features_of(a=[[[[4.0, 6.0]]], [[[1.0, 2.0]]]], b=[[[[1.0], [15.0]]], [[[3.0], [11.0]]]])


def adapter(**params):
    return Svdd(SvddParams(**params), Context())


@pytest.mark.parametrize(
    "params", [{}, {"distance": "l2"}, {"distance": "squared_l2"}, {"centers": "level"}, {"aggregation": "max"}]
)
def test_contract(params):
    check_component(adkit_adapters()[0], params)


@pytest.mark.parametrize(
    ("params", "a", "b"),
    [
        # Image by image: at the one location of a, and at each of the two of b.
        ({}, (7, 0), ((0 + 4) / 2, (2 + 0) / 2)),
        ({"distance": "l2"}, (5, 0), ((0 + 4) / 2, (2 + 0) / 2)),
        ({"distance": "squared_l2"}, (25, 0), ((0 + 16) / 2, (4 + 0) / 2)),
        ({"centers": "level"}, (7, 0), ((5 + 9) / 2, (3 + 5) / 2)),
        ({"aggregation": "max"}, (7, 0), (4, 2)),
    ],
)
def test_loss_and_score_by_hand(params, a, b):
    one = adapter(**params)
    one.prepare(See(TinyExtractor(), FeatureStream(NORMAL), None, None))
    terms = one.loss(step_of(nothing(2)), FOUND)
    assert {name: term.item() for name, term in terms.items()} == {"a": sum(a) / 4, "b": sum(b) / 4}
    assert one.score(FOUND).tolist() == [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]


def test_gradient_is_that_of_equation_1():
    normal = stream_of(TinyExtractor(), 2, SIZE)
    one = adapter()
    one.prepare(See(TinyExtractor(), normal, None, None))
    leaves = {n: v[:5].clone().requires_grad_() for n, v in stream_of(TinyExtractor(), 7, SIZE).features.items()}
    loss = sum(one.loss(step_of(nothing(5)), type(normal.features)(leaves, normal.features.geometry)).values())
    for name, found in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        _, height, width, _ = leaves[name].shape
        right = (leaves[name] - normal.features[name].mean(0)).sign() / (5 * 3 * height * width)
        torch.testing.assert_close(found, right)


def test_the_scorer_center_gives_the_same_score():
    normal, queries = (stream_of(TinyExtractor(), seed, SIZE) for seed in (2, 7))
    one = adapter()
    one.prepare(See(TinyExtractor(), normal, None, None))
    scorer = Center(CenterParams(metric="l1", centers="location", aggregation="mean"), Context())
    scorer.fit(normal)
    assert torch.equal(one.score(queries.features), scorer.score(queries.features).image)


def test_terms_sum_to_the_mean_score():
    one = adapter()
    extractor = prepared(one)
    (batch,) = sample_images(5)
    features = through(extractor, batch.images)
    total = sum(one.loss(step_of(batch, extractor), features).values())
    assert total.item() == pytest.approx(one.score(features).mean().item())


def test_descent_reduces_the_loss():
    one = adapter()
    losses = losses_of_descent(one, prepared(one), rate=0.01)
    assert losses[-1] < 0.95 * losses[0]
