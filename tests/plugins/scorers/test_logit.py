import pytest
import torch
from adkit_plugins.scorers.logit import Logit, LogitParams, adkit_scorers

from adkit import UserError
from adkit.plugin import Context, Geometry, Level
from adkit.testing import FeatureStream, check_component, feature_stream
from tests.plugins.written import features_of

GEOMETRY = Geometry.covering((2, 3), (24, 20))
LEVELS = {"fcdd.a": Level(1, (2, 3), GEOMETRY), "deep": Level(5, (2, 3), GEOMETRY), "logit": Level(1, (1, 1), GEOMETRY)}


def fitted(stream, **params):
    logit = Logit(LogitParams(**params), Context())
    logit.fit(stream)
    return logit


@pytest.mark.parametrize("params", [{}, {"aggregation": "mean"}])
def test_contract(params):
    check_component(adkit_scorers()[0], params, stream=feature_stream(LEVELS))


def test_levels_of_one_channel_are_maps_as_they_are():
    features = features_of(a=[[[[1.0], [-5.0]]]], b=[[[[2.0, 3.0]]]], logit=[[[[-7.0]]]])
    scores = fitted(FeatureStream(features)).score(features)
    assert {name: values.tolist() for name, values in scores.maps.items()} == {"a": [[[1.0, -5.0]]]}
    assert {name: values.tolist() for name, values in scores.levels.items()} == {"a": [1.0], "logit": [-7.0]}
    assert scores.image.tolist() == [-3.0]


def test_features_without_such_a_level_are_refused():
    with pytest.raises(UserError) as error:
        fitted(feature_stream())
    assert str(error.value) == (
        "scorer.use: logit reads levels of one channel, and there are none among pool, layer1, layer2: use it with an "
        "adapter that adds one, such as fcdd, or use another scorer"
    )


def test_a_state_of_other_shape_is_refused():
    with pytest.raises(UserError, match=r"expected grid\.a to be a height and a width, found 3 values"):
        fitted(feature_stream(LEVELS)).load_state_dict({"grid.a": torch.ones(3)})
