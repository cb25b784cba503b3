import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from adkit.plugin import Features, Geometry
from adkit.testing import FeatureStream
from adkit.toolkit.kmeans import kmeans, located, located_distances, moved, recordable_located


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blobs():
    """Four well separated groups of 50 points, and their exact means."""
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = centers[:, None] + 0.5 * normal(4, 50, 2)
    return points.flatten(0, 1), points.mean(1)


def test_separated_groups_give_their_means():
    points, means = blobs()
    found = kmeans(points, 4, seed=3)
    np.testing.assert_allclose(found[cdist(means, found).argmin(1)], means, atol=1e-4)


def test_spread_is_no_worse_than_that_of_scikit_learn():
    points = normal(600, 5)
    reference = KMeans(8, n_init=1, random_state=0).fit(points.numpy()).inertia_
    inertia = (cdist(points, kmeans(points, 8, seed=0)).min(1) ** 2).sum()
    assert inertia < 1.05 * reference


def test_one_seed_gives_one_answer():
    points = normal(300, 5)
    assert torch.equal(kmeans(points, 8, seed=1), kmeans(points, 8, seed=1))


def test_spherical_centroids_have_unit_length():
    points = torch.nn.functional.normalize(normal(300, 5), dim=1)
    lengths = kmeans(points, 8, seed=1, spherical=True).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(8))


def test_few_points_a_centroid_print_no_warning(capfd):
    kmeans(normal(30, 5), 8, seed=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("distances", [located_distances, recordable_located])
def test_each_location_is_compared_with_its_own_centroids(distances):
    values, centroids = normal(2, 3, 4, 5), normal(3, 4, 6, 5, seed=1)
    found = distances(values, centroids)
    for n, i, j in np.ndindex(2, 3, 4):
        expected = cdist(values[n, i, j][None].double(), centroids[i, j].double())[0]
        np.testing.assert_allclose(found[n, i, j], expected, rtol=1e-5)


def stream(values, batch_size=3):
    return FeatureStream(Features({"a": values}, {"a": Geometry((0.5, 0.5), (1.0, 1.0))}), batch_size)


def test_a_walk_moves_centroids_to_the_mean_of_what_is_nearest():
    values = torch.tensor([0.0, 1.0, 2.0, 10.0, 14.0])[:, None, None, None]
    start = {"a": located(torch.tensor([0.0, 9.0])[:, None, None, None])}
    assert moved(start, stream(values), lambda f: f)["a"].flatten().tolist() == [1.0, 12.0]


def test_a_centroid_that_nothing_is_near_stays():
    values = torch.tensor([0.0, 1.0])[:, None, None, None]
    start = {"a": located(torch.tensor([0.0, 99.0])[:, None, None, None])}
    assert moved(start, stream(values), lambda f: f)["a"].flatten().tolist() == [0.5, 99.0]


def test_walks_are_lloyds_in_every_location():
    values = normal(40, 2, 3, 4)
    centroids = {"a": located(values[:5])}
    for _ in range(4):
        centroids = moved(centroids, stream(values), lambda f: f)
    for i, j in np.ndindex(2, 3):
        points = values[:, i, j].double().numpy()
        lloyd = points[:5]
        for _ in range(4):
            nearest = cdist(points, lloyd).argmin(1)
            lloyd = np.stack([points[nearest == k].mean(0) for k in range(5)])
        np.testing.assert_allclose(centroids["a"][i, j], lloyd, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_walks_do_not_depend_on_batches(size):
    values = normal(40, 2, 3, 4)
    start = {"a": located(values[:5])}
    whole = moved(start, stream(values, 40), lambda f: f)
    assert torch.equal(moved(start, stream(values, size), lambda f: f)["a"], whole["a"])
