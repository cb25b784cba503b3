"""References: NumPy and scikit-learn over all rows at once."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf, oas

from adkit.toolkit.covariance import Means, Moments, Whitening, shrinkage, shrunk


def rows(count, channels, seed=0):
    """Correlated rows with means far from 0, of float32 as features are."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, channels)) @ random.normal(size=(channels, channels))
    return (mixed + random.uniform(-50, 50, channels)).astype(np.float32)


def dead(values):
    """The same with three channels that never change."""
    values = values.copy()
    values[:, :3] = [0.0, 0.1, 1000.1]
    return values


def streamed(values, batches=7):
    """Moments of (n, c), or of groups (g, n, c), in a few batches."""
    values = torch.from_numpy(values)
    values = values[None] if values.ndim == 2 else values
    moments = Moments(len(values), values.shape[2])
    for batch in values.tensor_split(batches, dim=1):
        moments.add(batch)
    return moments


DATA = {
    "many rows": rows(500, 12),
    "fewer rows than channels": rows(9, 40),
    "two rows": rows(2, 5),
    "constant channels": dead(rows(60, 10)),
    "fewer rows, constant channels": dead(rows(8, 20)),
    "one channel": rows(30, 1),
    "far from 0": rows(300, 8) + np.float32(1e4),
    "an outlier first": np.concatenate((rows(1, 8) + np.float32(1e6), rows(300, 8))),
}
every_data = pytest.mark.parametrize("values", DATA.values(), ids=DATA)


@every_data
def test_means_and_covariances_are_numpys(values):
    moments = streamed(values)
    expected = np.cov(values.astype(np.float64), rowvar=False, bias=True).reshape(values.shape[1], -1)
    np.testing.assert_allclose(moments.means[0], values.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.covariances()[0], expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())
    np.testing.assert_allclose(moments.variances[0], np.diag(expected), rtol=1e-9)


@every_data
@pytest.mark.parametrize(("rule", "reference"), [("ledoit_wolf", ledoit_wolf), ("oas", oas)])
def test_shrunk_covariances_are_those_of_scikit_learn(rule, reference, values):
    moments = streamed(values)
    covariances = moments.covariances()
    share = shrinkage(rule, covariances, moments.quartics(), moments.count)
    expected, expected_share = reference(values.astype(np.float64))
    np.testing.assert_allclose(share[0], expected_share, rtol=1e-8, atol=1e-12)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(shrunk(covariances, share)[0], expected, rtol=1e-8, atol=1e-10 * scale)


def test_every_group_has_the_shrinkage_of_its_own_rows():
    groups = np.stack([dead(rows(9, 6, seed)) if seed % 2 else rows(9, 6, seed) for seed in range(5)])
    moments = streamed(groups)
    shares = shrinkage("ledoit_wolf", moments.covariances(), moments.quartics(), moments.count)
    np.testing.assert_allclose(shares, [ledoit_wolf(g.astype(np.float64))[1] for g in groups], rtol=1e-8)


def test_shrinkage_by_hand():
    moments = streamed(np.array([[[0.0, 0.0], [2.0, 0.0]]]))  # covariance diag(1, 0), mean variance 1/2
    covariances, quartics = moments.covariances(), moments.quartics()
    assert shrunk(covariances, shrinkage(0.5, covariances, quartics, 2))[0].tolist() == [[0.75, 0.0], [0.0, 0.25]]
    assert shrunk(covariances, shrinkage("none", covariances, quartics, 2))[0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert shrinkage("ledoit_wolf", covariances, quartics, 2).tolist() == [0.0]


def test_quartics_by_hand():
    moments = streamed(np.array([[[10.0], [10.0], [14.0]], [[0.0], [3.0], [0.0]]]), batches=2)
    # mean 34/3, deviations −4/3, −4/3, 8/3; mean 1, deviations −1, 2, −1
    np.testing.assert_allclose(moments.quartics(), [(2 * (4 / 3) ** 4 + (8 / 3) ** 4) / 3, 18 / 3], rtol=1e-14)


def test_a_channel_that_never_changes_has_no_variance_at_all():
    moments = streamed(dead(rows(60, 10)))
    assert moments.variances[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert moments.covariances()[0, :3].abs().max() == 0


def test_batches_and_their_order_change_nothing():
    values = rows(200, 9)
    one, many = streamed(values, 1), streamed(np.ascontiguousarray(values[::-1]), 200)
    np.testing.assert_allclose(one.covariances(), many.covariances(), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(one.quartics(), many.quartics(), rtol=1e-12)


def test_long_batches_of_many_groups_are_cut_without_loss():
    """Above a quarter million values, a batch is taken in parts: here of groups and, in one group, of rows."""
    values = torch.randn((70, 300, 80), generator=torch.Generator().manual_seed(0))
    for groups in (values, values.flatten(0, 1)[None]):
        moments = Moments(len(groups), 80)
        moments.add(groups)
        expected = torch.stack([group.double().T.cov(correction=0) for group in groups])
        np.testing.assert_allclose(moments.covariances(), expected, rtol=1e-9, atol=1e-12)


def test_spending_gives_what_is_made_of_every_group_in_its_place():
    values = torch.randn((3000, 4, 20), generator=torch.Generator().manual_seed(0))  # more than one part
    moments, again = Moments(3000, 20), Moments(3000, 20)
    moments.add(values)
    again.add(values)
    made = moments.spend(lambda covariances, quartics: covariances + quartics[:, None, None])
    np.testing.assert_allclose(made, again.covariances() + again.quartics()[:, None, None], rtol=1e-12, atol=1e-14)


def test_means_of_groups():
    values = torch.randn((6, 40, 3), generator=torch.Generator().manual_seed(0)) + 1000
    means = Means(6, 3)
    for batch in values.split(7, dim=1):
        means.add(batch)
    np.testing.assert_allclose(means.means, values.double().mean(1), rtol=1e-14)


@pytest.mark.parametrize("whitenings", [(9, 9), (1, 1)])
def test_distances_with_a_gradient_are_those_without(whitenings, monkeypatch):
    monkeypatch.setattr("adkit.toolkit.covariance.BLOCK", 2000)  # several steps, the last one smaller
    draw = torch.Generator().manual_seed(0)
    mean, rows = (
        torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((9, 9, 5), (*whitenings, 4, 5))
    )
    values = torch.randn(7, 9, 9, 5, generator=draw)
    with torch.no_grad():
        found = Whitening(mean, rows).distances(values)
    expected = torch.linalg.vector_norm(
        torch.einsum("...kc,n...c->n...k", rows.expand(9, 9, 4, 5), values - mean), dim=3
    )
    assert torch.equal(Whitening(mean, rows).distances(values), found)
    assert found == pytest.approx(expected.float(), rel=1e-6)


def test_distances_are_exported_for_any_number_of_images():
    draw = torch.Generator().manual_seed(0)
    mean, rows = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((2, 2, 3), (2, 2, 3, 3)))
    values = torch.randn(5, 2, 2, 3, generator=draw)

    class Distances(torch.nn.Module):
        def forward(self, values):
            return Whitening(mean, rows).distances(values)

    with torch.no_grad():
        any_number = ({0: torch.export.Dim("n", min=1)},)
        exported = torch.export.export(Distances(), (values[:2],), dynamic_shapes=any_number, strict=False).module()
        assert torch.equal(exported(values), Distances()(values))
