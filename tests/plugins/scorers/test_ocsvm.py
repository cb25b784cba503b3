"""The reference is scikit-learn's own decision function, of features whose locations were averaged."""

from math import exp

import numpy as np
import pytest
import torch
from adkit_plugins.scorers.ocsvm import Ocsvm, OcsvmParams, adkit_scorers
from sklearn.svm import OneClassSVM

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Level
from adkit.testing import FeatureStream, check_component, feature_stream
from adkit.testing.asserts import through_bytes
from tests.plugins.written import GEOMETRY, stream

FAR = {POOL: Level(40, (1, 1), GEOMETRY), "a": Level(7, (5, 4), GEOMETRY)}


def fitted(normal, **params):
    scorer = Ocsvm(OcsvmParams(**params), Context())
    scorer.fit(normal)
    return scorer


def pooled(features, name):
    return features[name].double().mean((1, 2)).numpy()


@pytest.mark.parametrize("params", [{}, {"kernel": "linear"}, {"gamma": 0.01}, {"nu": 0.5}])
def test_contract(params):
    check_component(adkit_scorers()[0], params)


@pytest.mark.parametrize(
    "params", [{}, {"nu": 0.5}, {"gamma": 0.01}, {"kernel": "linear"}, {"kernel": "linear", "nu": 0.3}]
)
def test_score_is_minus_the_decision_function(params):
    normal, queries = feature_stream(FAR, images=300), feature_stream(FAR, images=50, seed=1).features
    for values in (*normal.features.levels.values(), *queries.levels.values()):
        values += 10  # far from 0, where ‖x‖² − 2x·y + ‖y‖² cancels
    scorer = fitted(normal, **params)
    levels = scorer.score(queries).levels
    for name in FAR:
        reference = OneClassSVM(**{"nu": 0.1, "tol": 1e-6, **params}).fit(pooled(normal.features, name))
        expected = -reference.decision_function(pooled(queries, name))
        np.testing.assert_allclose(levels[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_saved_state_scores_the_same():
    queries = feature_stream(FAR, images=20, seed=1).features
    scorer, other = fitted(feature_stream(FAR, images=100)), Ocsvm(OcsvmParams(), Context())
    other.load_state_dict(through_bytes(scorer.state_dict()))
    assert torch.equal(other.score(queries).image, scorer.score(queries).image)


def test_the_state_is_what_is_outside_and_on_the_edge():
    """At most ν of the images lie outside, and only those and the ones on the edge are kept."""
    normal = feature_stream({POOL: FAR[POOL]}, images=200)
    scorer = fitted(normal, nu=0.2)
    state = scorer.state_dict()
    assert set(state) == {"vectors.pool", "coefficients.pool", "intercept.pool", "gamma.pool"}
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert state["coefficients.pool"].sum().item() == pytest.approx(0.2 * 200)
    assert int((scorer.score(normal.features).image > 1e-3).sum()) <= 0.2 * 200 <= len(state["vectors.pool"]) < 200


def test_two_features_by_hand():
    """Both count ν = 0.5 times; on either one the sum is ½ + ½ exp(−γ 2²), which is where the edge lies."""
    scorer = fitted(stream([[[[0.0]]], [[[2.0]]]]), nu=0.5, gamma=0.25)
    found = scorer.score(stream([[[[0.0]]], [[[1.0]]], [[[100.0]]]]).features).image
    edge = 0.5 + 0.5 * exp(-1)
    assert found.tolist() == pytest.approx([0, edge - exp(-0.25), edge], abs=1e-6)


def test_gamma_follows_the_variance_of_a_level():
    scorer = fitted(stream([[[[0.0, 4.0]]], [[[4.0, 0.0]]]]))  # variance 4 over 2 channels
    assert scorer.state_dict()["gamma.pool"].tolist() == [0.125]


def test_locations_are_averaged():
    one, grid = stream([[[[1.0]]], [[[3.0]]]], "a"), stream([[[[0.0], [2.0]]], [[[6.0], [0.0]]]], "a")
    query = stream([[[[7.0]]]], "a").features
    assert torch.equal(fitted(one).score(query).image, fitted(grid).score(query).image)


def test_there_is_no_map():
    assert fitted(feature_stream()).score(feature_stream().features).maps == {}


def test_features_that_do_not_vary_score_by_their_distance():
    scorer = fitted(stream([[[[1.0]]], [[[1.0]]]]))
    near, far = scorer.score(stream([[[[1.5]]], [[[2.0]]]]).features).image
    assert 0 < near < far


def test_every_image_outside_is_not_offered():
    """For ν = 1 the edge lies at infinity."""
    with pytest.raises(ValueError, match="less than 1"):
        OcsvmParams(nu=1.0)


def test_no_images_are_refused():
    nothing = FeatureStream(Features({"a": torch.zeros(0, 1, 1, 3)}, {"a": GEOMETRY}))
    with pytest.raises(UserError, match="scorer: expected at least 1 normal image, found none"):
        fitted(nothing)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gamma.pool": None}, "gamma.pool to be there, found only"),
        ({"coefficients.pool": torch.ones(1)}, r"coefficients.pool to be of \d+ values, found 1"),
        ({"intercept.pool": torch.ones(2)}, "intercept.pool to be of 1 value, found 2"),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused(change, sentence):
    scorer = fitted(feature_stream())
    state = {name: tensor for name, tensor in {**scorer.state_dict(), **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=sentence):
        scorer.load_state_dict(state)
