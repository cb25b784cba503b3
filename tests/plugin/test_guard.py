"""What a plugin gives back is checked against the contract, and the message names the plugin."""

import re

import pytest
import torch

from adkit import UserError
from adkit.errors import PluginError
from adkit.plugin import Features, Geometry, Level, Scores
from adkit.plugin.checks import check_features, check_levels, check_map, check_scores
from adkit.plugin.guard import blaming

GEOMETRY = Geometry((1.0, 1.0), (2.0, 2.0))
LEVELS = {"a": Level(3, (4, 4), GEOMETRY)}
WHO = "scorer mine of mine 1.0 (mine)"


def features(shape=(2, 4, 4, 3), name="a", geometry=GEOMETRY):
    return Features({name: torch.zeros(shape)}, {name: geometry})


def refused(check, *arguments):
    with pytest.raises(PluginError) as error:
        check(*arguments, WHO)
    assert str(error.value).startswith(f"{WHO}: ")
    return str(error.value).removeprefix(f"{WHO}: ")


def test_features_as_stated_pass():
    assert check_features(features(), LEVELS, 2, WHO)["a"].shape == (2, 4, 4, 3)


def test_plain_features_get_the_geometry_of_their_levels():
    assert check_features({"a": torch.zeros(2, 4, 4, 3)}, LEVELS, 2, WHO).geometry == {"a": GEOMETRY}


def test_a_map_gets_the_geometry_of_the_level_of_its_name():
    scores = Scores(torch.zeros(2), {"a": torch.zeros(2, 4, 4)})
    assert check_scores(scores, features(), WHO).geometry == {"a": GEOMETRY}


def test_a_map_of_other_cells_keeps_the_geometry_that_the_scorer_states():
    own = Geometry((2.0, 2.0), (4.0, 4.0))
    scores = Scores(torch.zeros(2), {"a": torch.zeros(2, 2, 2)}, {"a": own})
    assert check_scores(scores, features(), WHO).geometry == {"a": own}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (torch.zeros(2, 4, 4, 3), "features: expected a dict of levels, found a tensor (2, 4, 4, 3) float32"),
        (features(name="b"), "features: expected the levels a, found b"),
        (features((2, 8, 8, 3)), "level a: expected shape (2, 4, 4, 3), found a tensor (2, 8, 8, 3) float32"),
        (features((2, 3, 4, 4)), "level a: expected shape (2, 4, 4, 3), found a tensor (2, 3, 4, 4) float32"),
        ({"a": torch.zeros(2, 4, 4, 3).half()}, "level a: expected float32, found float16: convert it: .float()"),
        (features(geometry=Geometry((0.0, 0.0), (2.0, 2.0))), "level a: expected the geometry that levels states"),
    ],
)
def test_features_other_than_stated(given, sentence):
    assert refused(check_features, given, LEVELS, 2).startswith(sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "score: expected an adkit.plugin.Scores, found None"),
        (torch.zeros(2), "score: expected an adkit.plugin.Scores, found a tensor (2,) float32: return Scores(image)"),
        (Scores(torch.zeros(2).numpy()), "scores: expected a torch tensor, found a ndarray: make one of it"),
        (Scores(torch.zeros(3)), "scores: expected shape (2,), found (3,)"),
        (Scores(torch.zeros(2).double()), "scores: expected float32, found float64"),
        (Scores(torch.zeros(2), {"b": torch.zeros(2, 4, 4)}), "map 'b': expected its geometry in Scores.geometry, as"),
        (Scores(torch.zeros(2), {"a": torch.zeros(2, 8, 8)}), "map 'a': expected its geometry in Scores.geometry, as"),
        (Scores(torch.zeros(2), {"a": torch.zeros(2, 4, 4, 1)}, {"a": GEOMETRY}), "map 'a': expected shape (2, 4, 4)"),
    ],
)
def test_scores_that_are_none(given, sentence):
    assert refused(check_scores, given, features()).startswith(sentence)


def test_centers_of_another_number_than_the_cells():
    uneven = Geometry.at((1.0, 2.0, 5.0), (1.0, 2.0, 5.0, 9.0))
    expected = "expected the centers of 4 rows and 4 columns, found the centers of 3 rows and 4 columns: make it by"
    assert refused(check_levels, {"a": Level(3, (4, 4), uneven)}).startswith(f"level a: {expected}")
    scores = Scores(torch.zeros(2), {"a": torch.zeros(2, 4, 4)}, {"a": uneven})
    assert refused(check_scores, scores, features()).startswith(f"map 'a': {expected}")


def test_a_map_of_another_size():
    found = refused(check_map, torch.zeros(2, 8, 8), 2, (16, 16))
    advice = "give one map per image, of the size that is asked for"
    assert found == f"map: expected shape (2, 16, 16), found (2, 8, 8): {advice}"


@pytest.mark.parametrize(
    "error", [KeyError("x"), SystemExit(3), ValueError("no"), PermissionError(13, "no"), FileNotFoundError(2, "no")]
)
def test_what_a_plugin_raises_names_it(error):
    with pytest.raises(PluginError, match=re.escape(f"{WHO}: {type(error).__name__}")), blaming(WHO):
        raise error


@pytest.mark.parametrize("error", [UserError("scorer.k: too large"), OSError(28, "full"), KeyboardInterrupt()])
def test_what_is_not_its_fault_passes(error):
    with pytest.raises(type(error)), blaming(WHO):
        raise error
