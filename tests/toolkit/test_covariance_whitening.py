import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from adkit import UserError
from adkit.toolkit.covariance import (
    Moments,
    Whitening,
    factored,
    from_state,
    reduced_whitenings,
    state_of,
    whitenings,
)


def features(count=400, channels=12, seed=0):
    """Of channels that are correlated and of unlike scales."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, channels)) @ random.normal(size=(channels, channels))
    return values * np.logspace(-2, 2, channels) + 5


def ill_conditioned(count=400, channels=12, seed=0):
    """Of a covariance whose eigenvalues span eight decades."""
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.normal(size=(channels, channels)))[0]
    return (random.normal(size=(count, channels)) * np.logspace(-3, 1, channels)) @ turned + 20


def moments_of(values):
    moments = Moments(1, values.shape[1])
    moments.add(torch.from_numpy(values)[None])
    return moments


def whitening_of(values):
    moments = moments_of(values)
    factors, singular, _ = factored(moments.covariances(), 1.0)
    assert not singular.any()
    return Whitening(moments.means[None], whitenings(factors)[None])


def solved(values, queries):
    """Distances as one would write them down."""
    centered = queries.astype(np.float64) - values.mean(0, dtype=np.float64)
    covariance = np.cov(values.astype(np.float64), rowvar=False, bias=True)
    return np.sqrt((centered * np.linalg.solve(covariance, centered.T).T).sum(1))


@pytest.mark.parametrize("make", [features, ill_conditioned])
def test_distances_are_those_of_a_direct_solve(make):
    values, queries = make().astype(np.float32), make(seed=1).astype(np.float32)
    found = whitening_of(values).distances(torch.from_numpy(queries)[:, None, None])
    np.testing.assert_allclose(found[:, 0, 0], solved(values, queries), rtol=1e-5)


def test_distances_by_hand():
    whitening = Whitening(torch.tensor([[[1.0, 2.0]]]).double(), torch.tensor([[[[0.5, 0.0], [0.0, 0.25]]]]).double())
    values = torch.tensor([[[[1.0, 2.0], [7.0, 2.0]], [[1.0, -14.0], [7.0, 18.0]]]])
    assert whitening.distances(values).tolist() == [[[0.0, 3.0], [4.0, 5.0]]]


def test_each_location_has_its_own_gaussian_by_hand():
    means = torch.tensor([[[1.0], [2.0], [3.0]]]).double()
    rows = torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]]).double()
    values = torch.tensor([[[[2.0], [3.0], [4.0]]], [[[1.0], [4.0], [0.0]]]])
    assert Whitening(means, rows).distances(values).tolist() == [[[1.0, 2.0, 3.0]], [[0.0, 4.0, 9.0]]]
    assert Whitening(means, rows[:, :1]).distances(values).tolist() == [[[1.0, 1.0, 1.0]], [[0.0, 2.0, 3.0]]]


def test_many_locations_are_taken_in_parts_in_their_order():
    means = torch.arange(50.0 * 40).view(50, 40, 1).expand(-1, -1, 30).double()
    rows = torch.eye(30).double().expand(50, 40, 30, 30)
    values = torch.zeros(2, 50, 40, 30)
    expected = means[..., 0] * 30**0.5
    for whitening in (Whitening(means, rows), Whitening(means, rows[:1, :1])):
        np.testing.assert_allclose(whitening.distances(values), expected.expand(2, -1, -1), rtol=1e-6)


def test_one_mean_is_shared_by_all_parts():
    """2,000 locations of 32 channels are two parts; each is 3 from the mean in 4 channels and in the others 0."""
    mean, row = torch.full((1, 1, 32), 5.0).double(), torch.eye(32).double()[None, None]
    values = torch.full((1, 50, 40, 32), 5.0)
    values[..., :4] = 8.0
    assert Whitening(mean, row).distances(values).unique().tolist() == [6.0]


def test_the_gradient_is_that_of_the_formula_and_0_at_the_mean():
    values = features()
    whitening = whitening_of(values)
    mean = whitening.mean[0, 0]
    queries = torch.stack((mean, torch.from_numpy(features(1, seed=1)[0])))[:, None, None].requires_grad_()
    whitening.distances(queries).sum().backward()
    precision = np.linalg.inv(np.cov(values, rowvar=False, bias=True))
    away = queries[1, 0, 0].detach().numpy() - mean.numpy()
    expected = precision @ away / np.sqrt(away @ precision @ away)
    np.testing.assert_allclose(queries.grad[1, 0, 0], expected, rtol=1e-5)
    assert queries.grad[0].tolist() == torch.zeros(1, 1, 12).tolist()


@pytest.mark.parametrize("reduction", ["pca", "npca"])
def test_reduced_distances_are_those_of_scikit_learns_components(reduction):
    values, queries = features(), features(50, seed=1)
    moments = moments_of(values)
    covariances = moments.covariances()
    rows = reduced_whitenings(covariances, torch.linalg.cholesky(covariances), reduction, 4)
    whitening = Whitening(moments.means[None], rows[None])
    scores = PCA().fit(values)
    kept = slice(None, 4) if reduction == "pca" else slice(-4, None)
    deviations = scores.transform(queries) / np.sqrt(scores.explained_variance_ * (len(values) - 1) / len(values))
    expected = np.linalg.norm(deviations[:, kept], axis=1)
    np.testing.assert_allclose(whitening.distances(torch.from_numpy(queries)[:, None, None])[:, 0, 0], expected, 1e-5)
    assert not rows[:, 4:].any()


@pytest.mark.parametrize(
    ("reduction", "components", "variances"),
    [
        ("pca", 2, [6, 3]),
        ("pca", 0.5, [6]),
        ("pca", 0.6, [6]),  # the fewest that hold at least this
        ("pca", 0.61, [6, 3]),
        ("pca", 0.95, [6, 3, 1]),
        ("pca", 1.0, [6, 3, 1, 0]),
        ("npca", 2, [0, 1]),
        ("npca", 0.05, [0]),
        ("npca", 0.1, [0, 1]),  # the most that hold no more than this
        ("npca", 0.39, [0, 1]),
        ("npca", 0.4, [0, 1, 3]),
        ("npca", 1.0, [0, 1, 3, 6]),
    ],
)
def test_kept_components_by_hand(reduction, components, variances):
    covariance = torch.diag(torch.tensor([3.0, 0.0, 6.0, 1.0]).double())[None]
    rows = reduced_whitenings(covariance, torch.eye(4).double()[None], reduction, components)[0]
    kept = rows[rows.any(1)]
    assert (kept @ covariance[0] @ kept.T).diagonal().tolist() == variances


def test_one_component_is_kept_where_none_is_small_enough():
    covariance = torch.diag(torch.tensor([1.0, 1.0]).double())[None]
    rows = reduced_whitenings(covariance, torch.eye(2).double()[None], "npca", 0.1)[0]
    assert rows.any(1).tolist() == [True, False]


def test_a_singular_covariance_gets_a_millionth_of_its_mean_variance():
    covariances = torch.diag_embed(torch.tensor([[2.0, 4.0], [2.0, 0.0]]).double())
    factors, singular, nothing = factored(covariances, 7.0)
    assert (singular.tolist(), nothing.tolist()) == ([False, True], [False, False])
    found = (factors @ factors.mT).diagonal(0, 1, 2)
    np.testing.assert_allclose(found, [[2.0, 4.0], [2.000001, 0.000001]], rtol=1e-12)


def test_a_channel_that_follows_from_others_is_singular_whatever_its_scale():
    values = features()
    values[:, 3] = 1e-6 * (values[:, 0] - values[:, 7])
    _, singular, _ = factored(moments_of(values).covariances(), 1.0)
    assert singular.tolist() == [True]


@pytest.mark.parametrize(("unlike", "found"), [(1e-9, False), (1e-11, True)])
def test_a_near_copy_of_a_channel_is_singular(unlike, found):
    # The second channel is the first plus noise: 1 + unlike varies, of which the first one leaves unlike unexplained.
    covariance = torch.tensor([[[1.0, 1.0], [1.0, 1.0 + unlike]]], dtype=torch.float64)
    factors, singular, _ = factored(covariance, 1.0)
    assert singular.tolist() == [found]
    ridge = 1e-6 if found else 0.0
    product = factors @ factors.mT
    np.testing.assert_allclose(product[0], [[1 + ridge, 1], [1, 1 + unlike + ridge]], rtol=0, atol=1e-13)
    if found:  # along (1, -1) the ridge alone varies: two copies that differ by √2 · 1e-3 are √2 away, and no further
        apart = torch.tensor([1e-3, -1e-3], dtype=torch.float64)
        assert (whitenings(factors)[0] @ apart).norm().item() == pytest.approx(2**0.5, rel=1e-4)


def test_unlike_scales_alone_are_not_singular():
    _, singular, _ = factored(torch.diag_embed(torch.logspace(-9, 9, 20).double())[None], 1.0)
    assert singular.tolist() == [False]


def test_a_covariance_of_nothing_counts_as_the_typical_variance():
    factors, singular, nothing = factored(torch.zeros(1, 3, 3).double(), 4.0)
    assert (singular.tolist(), nothing.tolist()) == ([True], [True])
    assert factors[0].tolist() == torch.diag(torch.full((3,), 2.0)).tolist()


def test_a_state_keeps_every_bit():
    whitening = whitening_of(ill_conditioned())
    state = state_of({"a.b": whitening})
    assert {name: (t.dtype, tuple(t.shape)) for name, t in state.items()} == {
        "mean.a.b": (torch.float64, (1, 1, 12)),
        "whitening.a.b": (torch.float64, (1, 1, 12, 12)),
    }
    restored = from_state("gaussian", state)["a.b"]
    assert torch.equal(restored.mean, whitening.mean)
    assert torch.equal(restored.rows, whitening.rows)


def test_a_state_of_float32_as_on_mps_is_saved_as_float64():
    whitening = whitening_of(ill_conditioned()).to("cpu", torch.float32)
    restored = from_state("gaussian", state_of({"a": whitening}))["a"].to("cpu", torch.float32)
    assert torch.equal(restored.mean, whitening.mean)
    assert torch.equal(restored.rows, whitening.rows)


MEAN, ROWS = torch.zeros(4, 5, 3).double(), torch.zeros(1, 1, 3, 3).double()


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"mean.a": MEAN}, "whitening.* to be there, found only mean.a"),
        ({"mean.a": MEAN, "whitening.b": ROWS}, "whitening.a to be there, found only mean.a, whitening.b"),
        ({"mean.a": MEAN, "mean.b": MEAN, "whitening.a": ROWS}, "whitening.b to be there, found only mean.a, mean.b"),
        (
            {"mean.a": torch.zeros(2, 4, 5, 3), "whitening.a": torch.zeros(2, 1, 1, 3, 3)},  # as earlier versions did
            "mean.a to be 3-dimensional torch.float64, found (2, 4, 5, 3) torch.float32",
        ),
        ({"mean.a": MEAN.float(), "whitening.a": ROWS}, "mean.a to be 3-dimensional torch.float64, found (4, 5, 3) "),
        (
            {"mean.a": MEAN, "whitening.a": ROWS.expand(4, -1, -1, -1)},
            "whitening.a to be of the grid and the channels of mean.a, (4, 5, 3), found (4, 1, 3, 3)",
        ),
        (
            {"mean.a": MEAN, "whitening.a": torch.zeros(4, 5, 3, 2).double()},
            "whitening.a to be of the grid and the channels of mean.a, (4, 5, 3), found (4, 5, 3, 2)",
        ),
    ],
)
def test_junk_is_refused(state, sentence):
    with pytest.raises(UserError) as error:
        from_state("gaussian", state)
    assert f"scorer: state of gaussian: expected {sentence}" in str(error.value)
