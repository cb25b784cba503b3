import numpy as np
import pytest
import torch

from adkit import UserError
from adkit.plugin import Features, Geometry, Level
from adkit.testing import FeatureStream, feature_stream
from adkit.toolkit.memory import check_memory
from adkit.toolkit.scoring import Reservoir, fitted_levels, levels_of, scores_of, spatial

MAPS = {"pool": torch.tensor([[[6.0]]]), "layer1": torch.tensor([[[0.0, 1.0], [3.0, 4.0]]])}


GEOMETRY = {name: Geometry((0.5, 0.5), (1.0, 1.0)) for name in MAPS}


@pytest.mark.parametrize(
    ("aggregation", "of_levels", "image"),
    [
        ("max", {"pool": [6.0], "layer1": [4.0]}, [5.0]),
        ("mean", {"pool": [6.0], "layer1": [2.0]}, [4.0]),
        ("max_less_median", {"pool": [6.0], "layer1": [2.0]}, [4.0]),
    ],  # 4 less the middle of 1 and 3
)
def test_maps_become_scores_of_levels_and_their_mean_that_of_the_image(aggregation, of_levels, image):
    scores = scores_of(MAPS, GEOMETRY, aggregation)
    assert {name: values.tolist() for name, values in scores.levels.items()} == of_levels
    assert scores.image.tolist() == image


def test_what_is_added_to_a_whole_map_does_not_change_its_maximum_less_its_median():
    maps = {"layer1": torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))}
    brighter = {"layer1": maps["layer1"] + torch.tensor([0.0, 10.0, -3.0])[:, None, None]}
    one, other = (scores_of(each, GEOMETRY, "max_less_median") for each in (maps, brighter))
    np.testing.assert_allclose(one.image, other.image, atol=1e-5)
    expected = maps["layer1"].numpy().max((1, 2)) - np.median(maps["layer1"].numpy().reshape(3, -1), axis=1)
    np.testing.assert_allclose(one.image, expected, rtol=1e-6)
    assert torch.equal(other.maps["layer1"], brighter["layer1"])  # the map stays raw


def test_levels_of_one_cell_have_no_map():
    assert list(scores_of(MAPS, GEOMETRY, "max").maps) == ["layer1"]
    maps, kept = spatial(MAPS, GEOMETRY)
    assert list(maps) == list(kept) == ["layer1"]


def test_fitted_levels_come_in_the_order_of_the_features():
    assert fitted_levels({"layer2", "pool"}, feature_stream().features) == ["pool", "layer2"]


def test_a_level_that_is_missing_is_named():
    with pytest.raises(UserError) as error:
        fitted_levels({"layer3", "pool"}, feature_stream().features)
    assert str(error.value) == (
        "scorer: fitted on level layer3, which the features lack (they have pool, layer1, layer2): "
        "score with the extractor.levels that it was fitted with"
    )


def test_levels_of_features_are_those_of_their_stream():
    features = Features({"a": torch.zeros(2, 6, 5, 4)}, {"a": Geometry.covering((6, 5), (24, 20))})
    expected = {"a": Level(4, (6, 5), Geometry.covering((6, 5), (24, 20)))}
    assert levels_of(features) == FeatureStream(features).levels == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"^the bank needs 1000000\.0 GB of memory and .* GB is free on cpu: sample$"):
        check_memory(10**15, "cpu", "the bank", "sample")


def test_what_fits_is_not_refused():
    check_memory(1000, "cpu", "the bank", "sample")


def reservoir(capacity, seed=0):
    return Reservoir(capacity, (1,), "cpu", torch.Generator().manual_seed(seed))


def test_items_that_fit_are_all_kept_in_order():
    kept = reservoir(10)
    for part in torch.arange(7.0)[:, None].split(3):
        kept.add(part)
    assert kept.items[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_sample_does_not_depend_on_batches(size):
    whole, parts = reservoir(10), reservoir(10)
    items = torch.arange(200.0)[:, None]
    whole.add(items)
    for part in items.split(size):
        parts.add(part)
    assert torch.equal(whole.items, parts.items)


@pytest.mark.parametrize("capacity", [10, 500])
def test_items_are_numbered_by_their_place_in_the_stream(capacity):
    kept = reservoir(capacity)
    for part in torch.arange(200.0)[:, None].split(7):
        kept.add(part)
    assert kept.numbers.tolist() == kept.items[:, 0].tolist()


def test_every_item_is_kept_with_equal_chance():
    counts = np.zeros(30)
    for seed in range(3000):
        kept = reservoir(6, seed)
        for part in torch.arange(30.0)[:, None].split(8):
            kept.add(part)
        items = kept.items[:, 0].int().tolist()
        assert len(set(items)) == 6
        counts[items] += 1
    # Binomial(3000, 0.2): mean 600, deviation 21.9.
    assert abs(counts - 600).max() < 4.5 * 21.9


def test_an_empty_reservoir_has_no_items():
    kept = reservoir(0)
    kept.add(torch.zeros(0, 1))
    assert kept.items.shape == (0, 1)


def test_features_are_a_mapping_of_levels():
    assert isinstance(feature_stream().features, Features)
