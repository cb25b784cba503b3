import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adkit_plugins.scorers.gaussian import Gaussian, GaussianParams, adkit_scorers
from pydantic import ValidationError
from sklearn.covariance import empirical_covariance, ledoit_wolf, oas

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Level
from adkit.testing import FeatureStream, check_component, feature_stream
from tests.plugins.written import GEOMETRY, stream

LEVELS = {
    POOL: Level(9, (1, 1), GEOMETRY),
    "a": Level(7, (5, 4), GEOMETRY),
    "b": Level(12, (2, 3), GEOMETRY),
}


def mixed(images, seed):
    """Features whose channels are correlated, with a mean per location."""
    stream = feature_stream(LEVELS, images, seed, batch_size=5)
    generator = torch.Generator().manual_seed(77)
    values = {}
    for name, level in LEVELS.items():
        mixing = torch.randn(level.channels, level.channels, generator=generator)
        values[name] = stream.features[name] @ mixing + 10 * torch.randn(
            1, *level.grid, level.channels, generator=generator
        )
    return FeatureStream(Features(values, stream.features.geometry), batch_size=5)


NORMAL, QUERIES = mixed(23, 0), mixed(6, 1).features


def fitted(normal=NORMAL, **params):
    gaussian = Gaussian(GaussianParams(**params), Context())
    gaussian.fit(normal)
    return gaussian


COVARIANCES = {
    "ledoit_wolf": lambda rows: ledoit_wolf(rows, assume_centered=True)[0],
    "oas": lambda rows: oas(rows, assume_centered=True)[0],
    "none": lambda rows: empirical_covariance(rows, assume_centered=True),
    0.25: lambda rows: 0.75 * np.cov(rows, rowvar=False, bias=True) + 0.25 * rows.var(0).mean() * np.eye(rows.shape[1]),
}


def solved(covariance, rule, normal, queries):
    """(n, h, w, c) twice → (n, h, w): Mahalanobis distances by scikit-learn and a float64 solve, place by place."""
    normal, queries = normal.double().numpy(), queries.double().numpy()
    mean = normal.mean((0, 1, 2) if covariance == "global" else 0, keepdims=True)
    centered, away = normal - mean, queries - mean
    distances = np.zeros(queries.shape[:3])
    for place in np.ndindex(queries.shape[1:3]):
        rows = centered[:, *place] if covariance == "local" else centered.reshape(-1, centered.shape[3])
        solution = np.linalg.solve(COVARIANCES[rule](rows), away[:, *place].T)
        distances[:, *place] = np.sqrt((away[:, *place].T * solution).sum(0))
    return distances


@pytest.mark.parametrize("covariance", ["global", "tied", "local"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"aggregation": "mean", "shrinkage": "oas"},
        {"shrinkage": "none"},
        {"shrinkage": 0.1, "reduction": "pca", "components": 0.9},
        {"reduction": "npca", "components": 2},
    ],
)
def test_contract(covariance, params):
    check_component(adkit_scorers()[0], {"covariance": covariance} | params)


@pytest.mark.parametrize("rule", ["ledoit_wolf", "oas", 0.25, "none"])
@pytest.mark.parametrize("covariance", ["global", "tied", "local"])
def test_distances_are_those_of_a_direct_solve(covariance, rule):
    scores = fitted(covariance=covariance, shrinkage=rule).score(QUERIES)
    expected = {name: solved(covariance, rule, NORMAL.features[name], QUERIES[name]) for name in QUERIES}
    assert list(scores.maps) == ["a", "b"]
    for name, found in scores.maps.items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)
    highest = np.mean([values.max((1, 2)) for values in expected.values()], axis=0)
    np.testing.assert_allclose(scores.image, highest, rtol=1e-5)


def test_pooled_levels_are_the_same_whatever_the_covariance():
    pooled = FeatureStream(Features({POOL: NORMAL.features[POOL]}, {POOL: GEOMETRY}))
    scores = [fitted(pooled, covariance=kind).score(QUERIES).image for kind in ("global", "tied", "local")]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    assert scores[0].unique().shape == (6,)
    assert torch.equal(scores[0], scores[2])


@pytest.mark.parametrize(("aggregation", "expected"), [("max", 4.0), ("mean", 2.5)])
def test_tied_by_hand(aggregation, expected):
    """Means 1 and 10; deviations ∓1, ∓3 and so a variance of (1 + 1 + 9 + 9) / 4 = 5."""
    gaussian = fitted(stream([[[[0.0], [7.0]]], [[[2.0], [13.0]]]], "a"), aggregation=aggregation)
    scores = gaussian.score(stream([[[[1 + 5**0.5], [10 - 4 * 5**0.5]]]], "a").features)
    np.testing.assert_allclose(scores.maps["a"], [[[1.0, 4.0]]], rtol=1e-6)
    np.testing.assert_allclose(scores.image, [expected], rtol=1e-6)


@pytest.mark.parametrize(("covariance", "expected"), [("global", [9.5, 0.5]), ("local", [2.0, 1.0])])
def test_global_and_local_by_hand(covariance, expected):
    """All four: mean 5.5, variance 25.25. Each place: means 1 and 10, deviations 1 and 3."""
    gaussian = fitted(stream([[[[0.0], [7.0]]], [[[2.0], [13.0]]]], "a"), covariance=covariance)
    query = [-1.0, 7.0] if covariance == "local" else [5.5 - 9.5 * 25.25**0.5, 5.5 + 0.5 * 25.25**0.5]
    found = gaussian.score(stream([[[[query[0]], [query[1]]]]], "a").features).maps["a"]
    np.testing.assert_allclose(found, [[expected]], rtol=1e-6)


@pytest.mark.parametrize("covariance", ["global", "tied", "local"])
@pytest.mark.parametrize("shrinkage", ["ledoit_wolf", "none"])
def test_order_and_size_of_batches_change_nothing(covariance, shrinkage):
    backwards = Features({name: values.flip(0) for name, values in NORMAL.features.items()}, NORMAL.features.geometry)
    one = fitted(covariance=covariance, shrinkage=shrinkage).score(QUERIES)
    for batch_size in (1, 4, 23):
        other = fitted(FeatureStream(backwards, batch_size), covariance=covariance, shrinkage=shrinkage).score(QUERIES)
        np.testing.assert_allclose(other.image, one.image, rtol=1e-6)
        for name in one.maps:
            np.testing.assert_allclose(other.maps[name], one.maps[name], rtol=1e-6)


@pytest.mark.parametrize("covariance", ["global", "tied", "local"])
def test_an_image_alone_scores_as_it_does_among_others(covariance):
    gaussian = fitted(covariance=covariance)
    alone = torch.cat([gaussian.score(one).image for one in FeatureStream(QUERIES, batch_size=1)])
    np.testing.assert_allclose(alone, gaussian.score(QUERIES).image, rtol=1e-6)


def test_reduction_keeps_as_many_components_as_asked():
    state = fitted(covariance="local", reduction="npca", components=3).state_dict()
    assert state["whitening.a"].shape == (5, 4, 3, 7)


def test_all_components_are_no_reduction():
    whole = fitted(covariance="local").score(QUERIES).image
    for reduction in ("pca", "npca"):
        kept = fitted(covariance="local", reduction=reduction, components=1.0).score(QUERIES).image
        np.testing.assert_allclose(kept, whole, rtol=1e-5)


def said(caplog, normal, **params):
    with caplog.at_level(logging.WARNING, "adkit"):
        scores = fitted(normal, **params).score(mixed(6, 1).features)
    assert scores.image.isfinite().all()
    return [record.getMessage() for record in caplog.records]


def test_fewer_images_than_channels_are_fixed_and_reported(caplog):
    assert said(caplog, mixed(8, 0), covariance="local", shrinkage="none") == [
        "gaussian: level pool: singular covariances (1 of 1), to whose diagonals 1e-06 of the mean variance was added: "
        'use shrinkage = "ledoit_wolf", or more normal images',
        "gaussian: level b: singular covariances (6 of 6), to whose diagonals 1e-06 of the mean variance was added: "
        'use shrinkage = "ledoit_wolf", or more normal images',
    ]


@pytest.mark.parametrize("rule", ["ledoit_wolf", "oas", 0.1])
def test_shrinkage_leaves_nothing_to_fix(caplog, rule):
    assert said(caplog, mixed(8, 0), covariance="local", shrinkage=rule) == []


def test_what_is_set_is_not_advised(caplog):
    flat = stream([[[[0.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    with caplog.at_level(logging.WARNING, "adkit"):
        fitted(flat, covariance="local", shrinkage=1e-12)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("was added: use more normal images")


def test_two_images_give_scores_of_the_size_that_three_give():
    """Of two rows Ledoit and Wolf's estimate is 0, and distances were some thousand times those of three images."""
    medians = {n: fitted(mixed(n, 0), covariance="local").score(QUERIES).image.median() for n in (2, 3)}
    assert 0.5 < medians[2] / medians[3] < 2


def test_a_single_image_is_fixed_and_reported(caplog):
    messages = said(caplog, mixed(1, 0), covariance="local")
    assert [message.split(",")[0] for message in messages] == [
        "gaussian: level pool: covariances in which nothing varies (1 of 1)",
        "gaussian: level a: covariances in which nothing varies (20 of 20)",
        "gaussian: level b: covariances in which nothing varies (6 of 6)",
    ]


def test_where_nothing_varies_the_distance_is_in_units_of_the_levels_mean_variance():
    """Variances 0 and 9, mean 4.5."""
    gaussian = fitted(stream([[[[5.0], [7.0]]], [[[5.0], [13.0]]]], "a"), covariance="local")
    found = gaussian.score(stream([[[[5 + 2 * 4.5**0.5], [4.0]]]], "a").features).maps["a"]
    np.testing.assert_allclose(found, [[[2.0, 2.0]]], rtol=1e-6)


def test_where_no_level_varies_it_is_the_plain_distance():
    gaussian = fitted(stream([[[[5.0, 1.0]]], [[[5.0, 1.0]]]], "a"), shrinkage="none")
    np.testing.assert_allclose(gaussian.score(stream([[[[8.0, 5.0]]]], "a").features).image, [5.0])


class Alone(torch.nn.Module):
    def __init__(self, gaussian):
        super().__init__()
        self.gaussian = gaussian

    def forward(self, a, b, pool):
        scores = self.gaussian.score(Features({"a": a, "b": b, POOL: pool}, NORMAL.features.geometry))
        return scores.image, scores.maps["a"]


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["global", "tied", "local"])
def test_export_traces_the_score_for_any_number_of_images(covariance):
    gaussian = fitted(covariance=covariance)
    inputs = [QUERIES[name] for name in ("a", "b", POOL)]
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Alone(gaussian), tuple(inputs), dynamic_shapes=[{0: batch}] * 3).module()
    image, drawn = exported(*(values[:3] for values in inputs))
    np.testing.assert_allclose(image, gaussian.score(QUERIES).image[:3], rtol=1e-6)
    np.testing.assert_allclose(drawn, gaussian.score(QUERIES).maps["a"][:3], rtol=1e-6)


@pytest.mark.parametrize("covariance", ["tied", "local"])
def test_a_step_against_the_gradient_lowers_the_score(covariance):
    gaussian = fitted(covariance=covariance)
    values = {name: tensor.clone().requires_grad_() for name, tensor in QUERIES.items()}
    score = gaussian.score(Features(values, QUERIES.geometry)).image.sum()
    gradients = torch.autograd.grad(score, list(values.values()))
    moved = {name: t - 1e-3 * g for (name, t), g in zip(values.items(), gradients, strict=True)}
    after = gaussian.score(Features(moved, QUERIES.geometry)).image.sum()
    norm = sum(float(g.square().sum()) for g in gradients)
    np.testing.assert_allclose(score.item() - after.item(), 1e-3 * norm, rtol=0.05)


HUGE = {"concat": Level(500, (400, 400), GEOMETRY)}


def test_local_covariances_that_do_not_fit_are_refused_before_anything_is_read():
    with pytest.raises(UserError) as error:
        fitted(SimpleNamespace(levels=HUGE, count=10), covariance="local")
    assert str(error.value).startswith("scorer: gaussian's local covariances of concat needs 321.9 GB of memory and ")
    assert str(error.value).endswith(
        ' is free on cpu: set scorer.covariance = "tied" (0.7 GB), keep fewer features.channels, or name levels with '
        "smaller grids or fewer channels"
    )


def test_memory_is_that_of_the_covariances():
    gaussian = Gaussian(GaussianParams(covariance="local"), Context())
    assert gaussian.memory(HUGE, 10) == pytest.approx(8 * 400 * 400 * 500**2, rel=0.01)
    assert gaussian.memory(HUGE, 10) == gaussian.memory(HUGE, 10_000)


def test_no_images_are_refused():
    for covariance in ("global", "tied", "local"):
        nothing = FeatureStream(Features({"a": torch.zeros(0, 2, 2, 3)}, {"a": GEOMETRY}))
        with pytest.raises(UserError, match="scorer: expected at least 1 normal image, found none"):
            fitted(nothing, covariance=covariance)


def test_more_components_than_channels_are_refused():
    with pytest.raises(UserError) as error:
        fitted(reduction="pca", components=8)
    assert str(error.value) == (
        "scorer.components: expected at most 7, the number of channels of level a, found 8: keep fewer, or write a "
        "share of variance such as 0.99"
    )


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"reduction": "pca"}, 'expected a count or a share of variance with reduction = "pca", found none'),
        ({"components": 5}, 'expected none without reduction = "pca" or "npca", found 5'),
        ({"reduction": "pca", "components": 1.5}, "less than or equal to 1"),
        ({"reduction": "pca", "components": 0}, "greater than or equal to 1"),
        ({"shrinkage": 1.5}, "less than or equal to 1"),
        ({"shrinkage": True}, "valid number"),
        ({"shrinkage": "lw"}, "'ledoit_wolf', 'oas' or 'none'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(params, sentence):
    with pytest.raises(ValidationError) as error:
        GaussianParams(**params)
    assert sentence in str(error.value)


def test_a_state_of_other_covariances_is_refused_and_the_old_one_kept():
    local, tied = fitted(covariance="local"), fitted(covariance="tied")
    before = tied.score(QUERIES).image
    with pytest.raises(UserError) as error:
        tied.load_state_dict(local.state_dict())
    assert str(error.value) == (
        "scorer: state of gaussian: expected whitening.a to be tied covariances for a mean of (5, 4) cells, found "
        "those of (5, 4): load what state_dict of a gaussian with equal parameters gave"
    )
    assert torch.equal(tied.score(QUERIES).image, before)
