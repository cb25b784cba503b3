import pytest
import torch
from adkit_plugins.adapters.mahalanobis import Mahalanobis, MahalanobisParams, adkit_adapters
from adkit_plugins.scorers.center import Center, CenterParams
from adkit_plugins.scorers.gaussian import Gaussian, GaussianParams
from adkit_plugins.scorers.knn import Knn, KnnParams

from adkit import UserError
from adkit.plugin import POOL, Context, NotFittedError, Scores, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from tests.plugins.adapters.descents import losses_of_descent, nothing, prepared, step_of, through
from tests.plugins.written import features_of


def gaussian(**params):
    return Gaussian(GaussianParams(**params), Context())


def center(**params):
    return Center(CenterParams(**params), Context())


def adapter(**params):
    return Mahalanobis(MahalanobisParams(**params), Context())


@pytest.mark.parametrize("params", [{}, {"blocks": 2}, {"blocks": ["layer2"]}, {"aggregation": "mean"}])
def test_contract(params):
    check_component(adkit_adapters()[0], params, make_scorer=gaussian)


def test_loss_of_two_levels_by_hand():
    """Means 0 and covariances 1 (a) and 4 (b): the distances are |a| and |b| / 2, and each level's largest counts."""
    normal = features_of(a=[[[[1.0]]], [[[-1.0]]]], b=[[[[2.0], [-2.0]]], [[[-2.0], [2.0]]]])
    scorer = gaussian(shrinkage="none")
    scorer.fit(FeatureStream(normal))
    found = features_of(a=[[[[3.0]]], [[[-1.0]]]], b=[[[[2.0], [8.0]]], [[[-12.0], [0.0]]]])
    one = adapter()
    one.prepare(See(TinyExtractor(), FeatureStream(normal), None, scorer))
    terms = one.loss(step_of(nothing(2)), found)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"a": (3 + 1) / 4, "b": (4 + 6) / 4})
    assert one.score(found).tolist() == pytest.approx([(3 + 4) / 2, (1 + 6) / 2])


def test_what_is_trained_by_is_apart_from_what_is_scored_by():
    normal = features_of(a=[[[[1.0], [1.0]]], [[[-1.0], [-1.0]]]], pool=[[[[2.0]]], [[[-2.0]]]])
    scorer = gaussian(shrinkage="none", aggregation="max")
    scorer.fit(FeatureStream(normal))
    found = features_of(a=[[[[3.0], [1.0]]], [[[-1.0], [0.0]]]], pool=[[[[8.0]]], [[[0.0]]]])
    one = adapter(aggregation="mean")
    one.prepare(See(TinyExtractor(), FeatureStream(normal), None, scorer))
    assert one.score(found).tolist() == pytest.approx([(2 + 4) / 2, (0.5 + 0) / 2])
    assert scorer.score(found).image.tolist() == pytest.approx([(3 + 4) / 2, (1 + 0) / 2])


def test_terms_sum_to_the_mean_score():
    one = adapter()
    extractor = prepared(one, gaussian)
    (batch,) = sample_images(5)
    features = through(extractor, batch.images)
    terms = one.loss(step_of(batch, extractor), features)
    assert list(terms) == ["layer1", "layer2", POOL]
    assert sum(terms.values()).item() == pytest.approx(one.score(features).mean().item())


def test_gradient_is_that_of_equation_5():
    """Of the maximum over locations of sqrt(dᵀΣ⁻¹d), written out with a fixed mean and a fixed covariance."""
    normal = stream_of(TinyExtractor(), 2, SIZE)
    scorer = gaussian(covariance="global", shrinkage="none")
    scorer.fit(normal)
    one = adapter()
    one.prepare(See(TinyExtractor(), normal, None, scorer))
    leaves = {n: v[:5].double().requires_grad_() for n, v in stream_of(TinyExtractor(), 7, SIZE).features.items()}
    expected = torch.zeros(())
    for name, values in leaves.items():
        rows = normal.features[name].double().flatten(0, 2)
        precision = rows.T.cov(correction=0).inverse()
        away = values - rows.mean(0)
        squares = torch.einsum("nhwi,ij,nhwj->nhw", away, precision, away)
        expected = expected + squares.sqrt().amax((1, 2)).mean() / len(leaves)
    wanted = torch.autograd.grad(expected, list(leaves.values()))
    plain = {name: values.detach().float().requires_grad_() for name, values in leaves.items()}
    loss = sum(one.loss(step_of(nothing(5)), type(normal.features)(plain, normal.features.geometry)).values())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, right in zip(torch.autograd.grad(loss, list(plain.values())), wanted, strict=True):
        torch.testing.assert_close(found, right.float(), rtol=1e-3, atol=1e-5)


def test_a_scorer_that_says_nothing_of_levels_has_one_term():
    class Plain:
        def fit(self, stream):
            pass

        def score(self, features):
            return Scores(features[POOL].sum((1, 2, 3)))

    one = adapter()
    extractor = prepared(one, Plain)
    (batch,) = sample_images(3)
    features = through(extractor, batch.images)
    terms = one.loss(step_of(batch, extractor), features)
    assert list(terms) == ["score"]
    assert terms["score"].item() == pytest.approx(features[POOL].sum((1, 2, 3)).mean().item())


@pytest.mark.parametrize(
    "params", [{"metric": "l2"}, {"metric": "squared_l2"}, {"metric": "l1", "centers": "location"}]
)
def test_center_will_do_too(params):
    check_component(adkit_adapters()[0], make_scorer=lambda: center(**params))


def test_a_scorer_without_gradients_is_refused():
    with pytest.raises(UserError) as error:
        prepared(adapter(), lambda: Knn(KnnParams(), Context()))
    assert str(error.value) == (
        "scorer.use: expected a scorer whose score adapter mahalanobis can minimize, one that is differentiable, found "
        "one that is not: use gaussian, or another adapter"
    )


def test_a_scorer_that_is_not_fitted_is_refused():
    with pytest.raises(NotFittedError):
        adapter().prepare(See(TinyExtractor(), stream_of(TinyExtractor(), 2, SIZE), None, gaussian()))


def test_descent_reduces_the_loss_and_leaves_the_scorer_as_it_was():
    scorer = gaussian()
    one = adapter()
    extractor = prepared(one, lambda: scorer)
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    losses = losses_of_descent(one, extractor, rate=0.002)
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.state_dict().items())
