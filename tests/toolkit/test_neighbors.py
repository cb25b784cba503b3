import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from adkit.toolkit import neighbors as neighbors
from adkit.toolkit.neighbors import Bank, RecordableBank, nearest, nearest_among, pairwise, prepared, recordable_among


@pytest.fixture(params=["faiss", "torch", "groups"])
def index(request, monkeypatch):
    """What searches; groups are used for banks of any size that has enough of them, 7 groups of 3 rows at a time."""
    if request.param == "groups":
        for name, value in {"GROUP": 3, "GROUPS": 7, "GROUPED": 1}.items():
            monkeypatch.setattr(neighbors, name, value)
        return "torch"
    return request.param


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def near_duplicates():
    """20 clusters of 60 rows, 1e-4 apart at a length of 70: float32 expansion cannot tell them apart."""
    centers = 3 * normal(20, 500)
    rows = (centers[:, None] + 1e-4 * normal(20, 60, 500, seed=1)).flatten(0, 1)
    queries = centers.repeat(2, 1) + 1e-4 * normal(40, 500, seed=2)
    return rows, queries


@pytest.mark.parametrize(("metric", "name"), [("l2", "euclidean"), ("squared_l2", "sqeuclidean"), ("cosine", "cosine")])
def test_distances_are_those_of_scipy(metric, name, index):
    rows, queries = normal(300, 20), normal(50, 20, seed=1)
    expected = np.sort(cdist(queries.double(), rows.double(), name), axis=1)[:, :5]
    found = Bank(prepared(rows, metric), metric, index).distances(queries, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rows_found_are_those_of_scikit_learn(metric, index):
    rows, queries = normal(300, 20), normal(50, 20, seed=1)
    reference = NearestNeighbors(n_neighbors=4, algorithm="brute", metric=metric).fit(rows.double().numpy())
    expected = reference.kneighbors(queries.double().numpy(), return_distance=False)
    found = Bank(prepared(rows, metric), metric, index).search(queries, 4)[1]
    np.testing.assert_array_equal(found, expected)


def test_two_points_by_hand():
    bank = Bank(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), "l2")
    assert bank.search(torch.tensor([[3.0, 0.0]]), 2)[0].tolist() == [[3.0, 4.0]]
    assert bank.search(torch.tensor([[3.0, 0.0]]), 2)[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("metric", ["l2", "squared_l2", "cosine"])
def test_batches_of_1_7_and_64_give_equal_distances(metric, index):
    rows, queries = normal(2000, 96) + 5, normal(64, 96, seed=1) + 5
    bank = Bank(prepared(rows, metric), metric, index)
    whole = bank.distances(queries, 3)
    for size in (1, 7):
        parts = torch.cat([bank.distances(part, 3) for part in queries.split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", ["l2", "squared_l2", "cosine"])
def test_a_row_is_at_distance_zero_from_itself(metric, index):
    rows = 100 + normal(200, 64)  # far from the origin, where the expansion cancels
    distances, found = Bank(prepared(rows, metric), metric, index).search(rows, 1)
    assert bool((distances == 0).all())
    assert found[:, 0].tolist() == list(range(200))


FAR = 10_000.0 + torch.arange(40.0)[:, None]
"""Whole numbers whose squares float32 does not hold, so that only differences give their distances exactly."""


@pytest.mark.parametrize("count", [25, 26, 40])  # above 25 rows torch.cdist would expand by itself
def test_distances_of_pairs_are_those_of_differences(count):
    numbers = torch.arange(float(count))
    assert torch.equal(pairwise(FAR[:count], FAR[:count]), (numbers[:, None] - numbers).abs())


@pytest.mark.parametrize("k", [17, 18, 32])  # with the spare ones, 25 candidates and more
def test_many_neighbors_are_measured_by_differences(index, k):
    assert nearest(FAR[:1], FAR, k, index)[0].tolist() == [[float(number) for number in range(k)]]


def test_neighbors_that_float32_expansion_confuses_are_found(index):
    rows, queries = near_duplicates()
    expected = cdist(queries.double(), rows.double()).min(1)
    np.testing.assert_allclose(nearest(queries, rows, 1, index)[0][:, 0], expected, rtol=1e-5)


def test_float32_expansion_does_confuse_them():
    """Without the search in float64 the test above would fail: it is not idle."""
    rows, queries = near_duplicates()
    candidates = neighbors._expand(queries, rows, 1 + neighbors.SPARE, torch.float32)[1]
    expected = cdist(queries.double(), rows.double()).argmin(1)
    missed = (candidates != torch.from_numpy(expected)[:, None]).all(1)
    assert int(missed.sum()) > 5


def test_many_equal_rows_are_all_at_distance_zero(index):
    rows = torch.cat([torch.full((100, 8), 7.3), normal(50, 8)])
    assert nearest(torch.full((30, 8), 7.3), rows, 5, index)[0].tolist() == [[0.0] * 5] * 30


def test_small_blocks_find_the_same(index, monkeypatch):
    rows, queries = normal(500, 16), normal(90, 16, seed=1)
    expected = nearest(queries, rows, 6, index)
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 8 * 16 * 33)  # blocks of 33 rows
    found = nearest(queries, rows, 6, index)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_all_rows_can_be_asked_for(index):
    rows, queries = normal(5, 3), normal(4, 3, seed=1)
    expected = pairwise(queries, rows).sort(1).values
    torch.testing.assert_close(nearest(queries, rows, 5, index)[0], expected)


def test_groups_propose_all_their_rows_and_the_rest(monkeypatch):
    for name, value in {"GROUP": 3, "GROUPS": 2, "GROUPED": 1}.items():
        monkeypatch.setattr(neighbors, name, value)
    rows = torch.arange(17.0)[:, None]  # 2 groups of 3 rows, 2 more, and 1; 2 rows more
    squared, proposed = neighbors._groups(torch.tensor([[7.4], [13.0]]), rows, rows[:, 0].square(), 2)
    assert [sorted(row) for row in proposed.tolist()] == [
        [6, 7, 8, 9, 10, 11, 15, 16],  # of 6, 8, 10 and 7, 9, 11
        [7, 9, 11, 12, 13, 14, 15, 16],
    ]
    torch.testing.assert_close(squared, torch.tensor([[0.16, 0.36], [0.0, 4.0]]), rtol=1e-3, atol=1e-5)


def test_large_banks_are_searched_in_groups(monkeypatch):
    asked, groups = [], neighbors._groups
    monkeypatch.setattr(neighbors, "_groups", lambda *given: asked.append(given) or groups(*given))
    least = neighbors.GROUPED * neighbors.GROUP * (1 + neighbors.SPARE)
    rows, queries = normal(least, 2), normal(5, 2, seed=1)
    nearest(queries, rows[:-1], 1)
    assert asked == []
    nearest(queries, rows, 1)
    assert len(asked) == 1


def test_more_neighbors_than_rows_are_refused():
    with pytest.raises(ValueError, match="k: expected at most the 5 rows of the bank, found 6"):
        nearest(normal(2, 3), normal(5, 3), 6)


def test_zero_has_no_direction_and_lies_half_from_all_others():
    bank = Bank(prepared(torch.eye(3), "cosine"), "cosine")
    assert bank.distances(torch.zeros(1, 3), 3).tolist() == [[0.5, 0.5, 0.5]]


def test_bank_keeps_the_rows_it_is_given():
    rows = normal(10, 4)
    assert Bank(rows).rows.data_ptr() == rows.data_ptr()


def test_queries_with_gradients_are_searched():
    queries = normal(30, 4, seed=1).requires_grad_()
    assert Bank(normal(40, 4)).distances(queries, 2).requires_grad is False


def test_among_chosen_images_by_brute_force(monkeypatch):
    bank, queries, chosen = normal(12, 7, 5), normal(25, 5, seed=1), torch.tensor([3, 11, 0, 5])
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 4 * 7 * 5 * 3)  # 3 images per block
    expected = np.sort(cdist(queries.double(), bank[chosen].flatten(0, 1).double()), axis=1)[:, :9]
    np.testing.assert_allclose(nearest_among(queries, bank, chosen, 9), expected, rtol=1e-5)


def test_recordable_search_among_the_images_chosen_for_each_of_several():
    queries, bank, chosen = normal(2, 7, 6), normal(8, 10, 6, seed=1), torch.tensor([[1, 6, 3], [0, 2, 7]])
    found = recordable_among(queries, bank, chosen, 15)
    for asked, numbers, row in zip(queries, chosen, found, strict=True):
        np.testing.assert_allclose(row, nearest_among(asked, bank, numbers, 15), rtol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "squared_l2", "cosine"])
def test_recordable_search_over_several_blocks_finds_the_same(metric, monkeypatch):
    monkeypatch.setattr(neighbors, "RECORDED_ROWS", 128)
    rows, queries = prepared(normal(300, 20), metric), normal(50, 20, seed=1)
    expected_distances, expected_rows = Bank(rows, metric).search(queries, 5)
    distances, found = RecordableBank(rows, metric).search(queries, 5)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5)
    assert found.tolist() == expected_rows.tolist()


def test_recordable_search_finds_a_row_at_distance_zero_from_itself():
    rows = 100 + normal(300, 20)
    assert RecordableBank(rows, "l2").distances(rows[:5], 1).tolist() == [[0.0]] * 5


def test_recordable_searches_propose_more_than_they_measure():
    """To the expansion some of these look 4 away that are 3 away; among the spare ones they are found."""
    expected = [[0.0, 1, 2, 3, 4], [0.0, 1, 1, 2, 3], [0.0, 1, 1, 2, 2]]
    assert RecordableBank(FAR, "l2").distances(FAR[:3], 5).tolist() == expected
    assert recordable_among(FAR[None, :3], FAR[None], torch.tensor([[0]]), 5).tolist() == [expected]


PEAK = """
import torch
from adkit.plugin import Context, Features, Geometry, Level
from adkit_plugins.scorers.knn import Knn, KnnParams

whole = Geometry.covering((1, 1), (224, 224))

class Stream:
    levels, count = {"pool": Level(320, (1, 1), whole)}, 100_000

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(1000):
            yield Features({"pool": torch.randn((100, 1, 1, 320), generator=generator)}, {"pool": whole})

knn = Knn(KnnParams(), Context())
knn.fit(Stream())
for features in Stream():
    break
assert bool((knn.score(features).image > 0).all())
assert len(knn.state_dict()["bank.pool"]) == 100_000
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; ru_maxrss may be the parent's")
def test_knn_over_100000_features_of_320_channels_stays_under_1_gb():
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True, timeout=300)
    assert int(done.stdout) < 1e9
