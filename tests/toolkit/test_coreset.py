import pytest
import torch

from adkit.toolkit import coreset
from adkit.toolkit.coreset import greedy_k_center


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def brute(rows, count, first=0):
    """Farthest-first traversal as it is defined: every row is measured from every chosen one, in float64."""
    rows, chosen = rows.double(), [first]
    lengths = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        lengths = torch.minimum(lengths, (rows - rows[chosen[-1]]).square().sum(1).sqrt())
        chosen.append(int(lengths.argmax()))
    return chosen


def test_five_points_on_a_line_by_hand():
    rows = torch.tensor([[0.0], [1.0], [10.0], [4.0], [7.0]])
    # From 0, 10 is farthest; then 4 is 4 away from 0, and 7 is 3 away from 10; then 7 is farther than 1.
    assert greedy_k_center(rows, 5).tolist() == [0, 2, 3, 4, 1]


def test_of_rows_that_are_equally_far_the_first_is_taken():
    rows = torch.tensor([[0.0, 0.0], [0.0, 3.0], [3.0, 0.0], [0.0, -3.0], [-3.0, 0.0]])
    assert greedy_k_center(rows, 5).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]  # all are 3 away from the first, and farther from others


def test_20000_features_give_the_rows_of_brute_force():
    rows = 20 + normal(20_000, 12) @ normal(12, 24, seed=1) + 0.1 * normal(20_000, 24, seed=2)
    assert greedy_k_center(rows, 200, first=77).tolist() == brute(rows, 200, first=77)


@pytest.mark.parametrize("pool", [2, 5, 64])
def test_rows_do_not_depend_on_pools_and_blocks(pool, monkeypatch):
    rows = normal(500, 3)
    monkeypatch.setattr(coreset, "POOL", pool)
    monkeypatch.setattr(coreset, "BLOCK", 4 * 7 * 33)
    monkeypatch.setattr(coreset, "CENTERS", 7)
    monkeypatch.setattr(coreset, "PIECE", 90)
    assert greedy_k_center(rows, 400, first=3).tolist() == brute(rows, 400, first=3)


def test_ties_between_the_pool_and_the_rest_go_to_the_lower_number(monkeypatch):
    grid = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0))  # many distances are equal
    monkeypatch.setattr(coreset, "POOL", 6)
    assert greedy_k_center(grid, 100).tolist() == brute(grid, 100)


def test_rows_far_from_the_origin_are_measured_by_differences():
    rows = 10_000 + normal(300, 4)  # whose expanded squares float32 rounds by more than their distances
    assert greedy_k_center(rows, 60).tolist() == brute(rows, 60)


def test_copies_are_not_chosen():
    rows = torch.tensor([[1.0], [1.0], [5.0], [5.0]])
    assert greedy_k_center(rows, 4).tolist() == [0, 2]


def test_all_rows_can_be_chosen():
    assert sorted(greedy_k_center(normal(50, 3), 50).tolist()) == list(range(50))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e20])
def test_rows_that_float32_cannot_square_are_refused(value):
    rows = normal(50, 3)
    rows[17, 1] = value
    with pytest.raises(ValueError, match="expected finite rows whose squared lengths float32 holds"):
        greedy_k_center(rows, 10)


def test_rows_do_not_depend_on_autocast():
    rows = 3 + normal(20_000, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert greedy_k_center(rows, 100).tolist() == brute(rows, 100)


def test_advance_is_told_of_every_row():
    told = []
    greedy_k_center(normal(400, 3), 90, advance=told.append)
    assert sum(told) == 90
    assert len(told) > 3
