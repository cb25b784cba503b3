import logging
from math import sqrt

import numpy as np
import pytest
import torch
from adkit_plugins.scorers.whitening import PcaWhitening, WhiteningParams, adkit_scorers
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Level
from adkit.testing import FeatureStream, check_component, feature_stream
from tests.plugins.written import GEOMETRY, stream

SIDE = sqrt(1.5)
CROSS = [[[[2 * SIDE, 0.0]]], [[[-2 * SIDE, 0.0]]], [[[0.0, SIDE]]], [[[0.0, -SIDE]]]]
"""Four pooled features with variances of 4 and 1, by the divisor 4 − 1."""
LEVELS = {POOL: Level(9, (1, 1), GEOMETRY), "a": Level(7, (5, 4), GEOMETRY)}


def mixed(images, seed, levels=LEVELS):
    """Features whose channels are correlated and far from 0."""
    stream = feature_stream(levels, images, seed)
    generator = torch.Generator().manual_seed(77)
    values = {}
    for name, level in levels.items():
        mixing = torch.randn(level.channels, level.channels, generator=generator)
        values[name] = stream.features[name] @ mixing + 10
    return FeatureStream(Features(values, stream.features.geometry), batch_size=5)


def wide(images, seed=0, channels=30):
    """One pooled level."""
    return mixed(images, seed, {POOL: Level(channels, (1, 1), GEOMETRY)})


def fitted(normal, **params):
    scorer = PcaWhitening(WhiteningParams(**params), Context())
    scorer.fit(normal)
    return scorer


def rows(stream, name=POOL):
    return stream.features[name].double().flatten(0, 2).numpy()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"k": 2},
        {"k": 1, "metric": "squared_l2"},
        {"metric": "squared_l2"},
        {"components": 2, "aggregation": "mean"},
        {"components": 0.9},
        {"epsilon": 0.1},
    ],
)
def test_contract(params):
    check_component(adkit_scorers()[0], params)


@pytest.mark.parametrize("metric", ["l2", "squared_l2"])
def test_neighbors_among_whitened_features_are_those_of_scikit_learn(metric):
    normal, test = wide(80, seed=1), wide(20, seed=2)
    scores = fitted(normal, k=3, metric=metric).score(test.features).image
    pca = PCA(whiten=True).fit(rows(normal))
    neighbors = NearestNeighbors(n_neighbors=3).fit(pca.transform(rows(normal)))
    distances = neighbors.kneighbors(pca.transform(rows(test)))[0]
    expected = (distances if metric == "l2" else distances**2).mean(1)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_locations_find_neighbors_at_all_locations():
    normal, test = mixed(12, seed=1), mixed(5, seed=2)
    maps = fitted(normal, k=1).score(test.features).maps["a"]
    pca = PCA(whiten=True).fit(rows(normal, "a"))
    neighbors = NearestNeighbors(n_neighbors=1).fit(pca.transform(rows(normal, "a")))
    expected = neighbors.kneighbors(pca.transform(rows(test, "a")))[0].reshape(5, 5, 4)
    np.testing.assert_allclose(maps, expected, rtol=1e-4)


def test_more_neighbors_than_features_are_refused():
    with pytest.raises(UserError, match=r"scorer\.k: expected at most 4, .* found 5"):
        fitted(stream(CROSS), k=5)


def test_a_state_without_the_features_of_its_neighbors_is_refused_and_the_old_one_kept():
    scorer, test = fitted(wide(40), k=2), wide(5, seed=2).features
    before = scorer.score(test).image
    with pytest.raises(UserError, match=r"expected bank\.\* to be that of k = 2, found none"):
        scorer.load_state_dict(fitted(wide(40, seed=7)).state_dict())
    assert torch.equal(scorer.score(test).image, before)


def test_with_neighbors_the_exported_scores_are_the_same():
    scorer, test = fitted(wide(40), k=3), wide(5, seed=2).features
    torch.testing.assert_close(scorer.for_export().score(test).image, scorer.score(test).image, rtol=1e-4, atol=1e-5)


def test_two_directions_by_hand():
    """2 in each direction are 1 and 2 deviations."""
    scorer = fitted(stream(CROSS))
    scores = scorer.score(stream([[[[2.0, 2.0]]], [[[0.0, 0.0]]]]).features)
    assert scores.image.tolist() == pytest.approx([sqrt(5), 0.0], abs=1e-6)
    assert scores.maps == {}


def test_one_component_by_hand():
    assert fitted(stream(CROSS), components=1).score(stream([[[[6.0, 9.0]]]]).features).image.item() == pytest.approx(3)


def test_epsilon_by_hand():
    """Of the mean variance 2.5, 0.4 are 1: variances 5 and 2."""
    score = fitted(stream(CROSS), epsilon=0.4).score(stream([[[[5.0, 2.0]]]]).features).image.item()
    assert score == pytest.approx(sqrt(25 / 5 + 4 / 2))


@pytest.mark.parametrize("components", [1.0, 3, 0.8])
@pytest.mark.parametrize("name", [POOL, "a"])
def test_it_is_scikit_learns_pca_and_a_norm(components, name):
    normal, queries = mixed(40, 0), mixed(6, 1)
    kept = None if components == 1.0 else components
    pca = PCA(kept, whiten=True, svd_solver="full").fit(rows(normal, name))
    grid = LEVELS[name].grid
    expected = np.linalg.norm(pca.transform(rows(queries, name)), axis=1).reshape(6, *grid)
    one = FeatureStream(Features({name: normal.features[name]}, {name: GEOMETRY}))
    scores = fitted(one, components=components).score(queries.features)
    np.testing.assert_allclose(scores.image, expected.max((1, 2)), rtol=1e-6)
    if name == "a":
        np.testing.assert_allclose(scores.maps["a"], expected, rtol=1e-6)


def test_with_fewer_images_than_channels_it_still_is():
    normal, queries = wide(12), wide(5, seed=1)
    pca = PCA(11, whiten=True, svd_solver="full").fit(rows(normal))
    expected = np.linalg.norm(pca.transform(rows(queries)), axis=1)
    np.testing.assert_allclose(fitted(normal).score(queries.features).image, expected, rtol=1e-5)


def test_with_fewer_images_than_channels_all_of_them_are_equally_far(caplog):
    normal = wide(12)
    with caplog.at_level(logging.WARNING, logger="adkit"):
        scores = fitted(normal).score(normal.features)
    assert scores.image.tolist() == pytest.approx([11 / sqrt(12)] * 12, rel=1e-5)
    assert "whitening: level pool: 12 features vary in 11 of 30 directions; differences in the others" in caplog.text


@pytest.mark.parametrize("params", [{"components": 5}, {"components": 0.9}])
def test_nothing_is_said_where_fewer_components_were_asked_for(params, caplog):
    with caplog.at_level(logging.WARNING, logger="adkit"):
        fitted(wide(12), **params)
    assert caplog.text == ""


def test_more_components_than_vary_are_as_many_as_vary():
    queries = wide(5, seed=1).features
    scores = [fitted(wide(12), components=components).score(queries).image for components in (20, 1.0)]
    assert torch.equal(*scores)


def test_a_channel_that_never_changes_is_left_out():
    values = wide(40, channels=6).features[POOL].clone()
    values[..., 2] = 3.0
    scorer = fitted(FeatureStream(Features({POOL: values}, {POOL: GEOMETRY})))
    moved = values[:1].clone()
    moved[..., 2] += 100
    geometry = {POOL: GEOMETRY}
    before, after = (scorer.score(Features({POOL: v}, geometry)).image.item() for v in (values[:1], moved))
    assert after == pytest.approx(before, rel=1e-6)


def test_the_squared_distance_is_the_square():
    normal, queries = mixed(40, 0), mixed(6, 1).features
    plain, squared = (fitted(normal, metric=metric).score(queries).maps["a"] for metric in ("l2", "squared_l2"))
    torch.testing.assert_close(squared, plain.square())


def test_what_is_loaded_scores_what_was_fitted():
    normal, queries = mixed(40, 0), mixed(6, 1).features
    one, other = fitted(normal), PcaWhitening(WhiteningParams(), Context())
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    assert torch.equal(one.score(queries).image, other.score(queries).image)


def test_a_state_of_means_a_location_is_refused():
    state = fitted(mixed(40, 0)).state_dict()
    state["mean.a"] = state["mean.a"].expand(5, 4, 7).contiguous()
    with pytest.raises(UserError, match=r"expected mean\.a to be that of one location, found those of \(5, 4\)"):
        fitted(mixed(40, 0)).load_state_dict(state)


@pytest.mark.parametrize("count", [1, 3])
def test_features_that_never_vary_are_refused(count):
    with pytest.raises(UserError) as error:
        fitted(stream([[[[1.0, 2.0]]]] * count))
    assert str(error.value) == (
        "scorer: expected normal features that vary, found no variance in level pool: add normal images, "
        "name other extractor.levels or use another scorer, such as center"
    )


def test_no_images_are_refused():
    nothing = FeatureStream(Features({"a": torch.zeros(0, 1, 1, 3)}, {"a": GEOMETRY}))
    with pytest.raises(UserError, match="scorer: expected at least 1 normal image, found none"):
        fitted(nothing)


def test_more_components_than_channels_are_refused():
    with pytest.raises(
        UserError, match=r"scorer\.components: expected at most 7, the number of channels of level a, found 8"
    ):
        fitted(mixed(40, 0), components=8)


def test_the_gradient_of_a_score_flows_to_the_features():
    queries = wide(4, seed=1, channels=6).features[POOL].requires_grad_(True)
    scorer = fitted(wide(40, channels=6))
    (gradient,) = torch.autograd.grad(scorer.score(Features({POOL: queries}, {POOL: GEOMETRY})).image.sum(), queries)
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()


def test_torch_export_records_it():
    scorer, queries = fitted(mixed(40, 0)), mixed(3, 1).features

    class Scored(torch.nn.Module):
        def forward(self, pooled, a):
            return scorer.score(Features({POOL: pooled, "a": a}, queries.geometry)).image

    exported = torch.export.export(Scored(), (queries[POOL], queries["a"])).module()
    torch.testing.assert_close(exported(queries[POOL], queries["a"]), scorer.score(queries).image)
