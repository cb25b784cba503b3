import numpy as np
import pytest
import torch
from adkit_plugins.scorers.center import Center, CenterParams, adkit_scorers

from adkit import UserError
from adkit.plugin import Context, Features
from adkit.testing import FeatureStream, check_component, feature_stream
from tests.plugins.written import GEOMETRY, stream


def fitted(normal, **params):
    center = Center(CenterParams(**params), Context())
    center.fit(normal)
    return center


@pytest.mark.parametrize(
    "params", [{}, {"metric": "l2"}, {"metric": "l1", "centers": "location"}, {"aggregation": "mean"}]
)
def test_contract(params):
    check_component(adkit_scorers()[0], params)


@pytest.mark.parametrize(("metric", "expected"), [("squared_l2", 25.0), ("l2", 5.0), ("l1", 7.0)])
def test_distance_of_a_pooled_feature_by_hand(metric, expected):
    center = fitted(stream([[[[0.0, 0.0]]], [[[2.0, 4.0]]]]), metric=metric)  # c = (1, 2)
    scores = center.score(stream([[[[4.0, 6.0]]]]).features)
    assert scores.image.tolist() == [expected]
    assert scores.maps == {}


def test_one_center_for_all_locations_by_hand():
    center = fitted(stream([[[[0.0], [2.0]]], [[[4.0], [6.0]]]], "a"))
    assert center.state_dict()["center.a"].tolist() == [3.0]
    assert center.score(stream([[[[3.0], [5.0]]]], "a").features).maps["a"].tolist() == [[[0.0, 4.0]]]


def test_a_center_a_location_by_hand():
    center = fitted(stream([[[[0.0], [2.0]]], [[[4.0], [6.0]]]], "a"), centers="location")
    assert center.state_dict()["center.a"].tolist() == [[[2.0], [4.0]]]
    assert center.score(stream([[[[3.0], [4.0]]]], "a").features).maps["a"].tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize(("aggregation", "expected"), [("max", 4.0), ("mean", 2.0)])
def test_map_becomes_a_score_by_hand(aggregation, expected):
    center = fitted(stream([[[[0.0], [6.0]]]], "a"), aggregation=aggregation)
    assert center.score(stream([[[[3.0], [5.0]]]], "a").features).image.tolist() == [expected]


def test_levels_are_averaged():
    normal, queries = feature_stream(), feature_stream(images=5, seed=1).features
    expected = []
    for name, values in normal.features.items():
        squares = (queries[name].double() - values.double().mean((0, 1, 2))).square().sum(3)
        expected.append(squares.amax((1, 2)))
    np.testing.assert_allclose(fitted(normal).score(queries).image, torch.stack(expected).mean(0), rtol=1e-5)


def test_mean_of_many_features_does_not_drift():
    """A float32 sum of 200,000 values of 1000.1 is off by tenths."""
    values = torch.full((2000, 10, 10, 1), 1000.1)
    many = FeatureStream(Features({"a": values}, {"a": GEOMETRY}), batch_size=100)
    assert fitted(many).state_dict()["center.a"].item() == values[0, 0, 0, 0].item()


def test_no_images_are_refused():
    nothing = FeatureStream(Features({"a": torch.zeros(0, 1, 1, 3)}, {"a": GEOMETRY}))
    with pytest.raises(UserError, match="scorer: expected at least 1 normal image, found none"):
        fitted(nothing)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "center.* to be there, found no tensors at all"),
        ({"center.a": torch.zeros(1), "bank.a": torch.zeros(1)}, "bank.a to be named center.*, found that name"),
        ({"center.a": torch.zeros(1, 1)}, "center.a to be 1-dimensional torch.float32, found (1, 1) torch.float32"),
        (
            {"center.a": torch.zeros(1).double()},
            "center.a to be 1-dimensional torch.float32, found (1,) torch.float64",
        ),
        ({"center.a": torch.tensor([torch.inf])}, "center.a to be finite, found NaN or inf in it"),
    ],
)
def test_junk_is_refused_and_the_old_state_kept(state, sentence):
    center = fitted(feature_stream())
    before = center.score(feature_stream(seed=1).features).image
    with pytest.raises(UserError) as error:
        center.load_state_dict(state)
    assert str(error.value) == (
        f"scorer: state of center: expected {sentence}: load what state_dict of a center with equal parameters gave"
    )
    assert torch.equal(center.score(feature_stream(seed=1).features).image, before)
