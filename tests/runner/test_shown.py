"""What is kept for the page while test images pass."""

import numpy as np
import pytest
import torch

from adkit.inference.pipeline import Fused
from adkit.plugin import Features, Geometry, Scores
from adkit.report.page.record import by_interest
from adkit.runner.evaluate import least_normal
from adkit.runner.page import _cell
from adkit.runner.shown import Highest, Keeper, evidence, highest_cells, inside

FINE, COARSE = Geometry((2.0, 2.0), (4.0, 4.0)), Geometry((4.0, 4.0), (8.0, 8.0))


@pytest.mark.parametrize("threshold", [0.3, 0.9, None])
def test_maps_of_all_that_may_be_shown_are_kept_and_of_few_more(threshold):
    random = np.random.default_rng(0)
    scores, labels = random.permutation(200).astype(np.float32) / 200, random.integers(0, 2, 200)
    ids = [str(number) for number in range(200)]
    keeper = Keeper(5, dict(zip(ids, labels.tolist(), strict=True)))
    for start in range(0, 200, 8):
        part = slice(start, start + 8)
        batch = torch.from_numpy(scores[part])
        maps = batch[:, None, None].expand(-1, 4, 4)
        keeper.add(ids[part], Fused(batch, ()), maps, [None] * len(batch))
    wanted = {ids[row] for row in by_interest(scores, labels, threshold)[:5]}
    assert wanted <= keeper.kept.keys()
    assert len(keeper.kept) <= 20 + 8
    assert all(one.map.max() == scores[int(id)] for id, one in keeper.kept.items())


def test_a_small_map_keeps_the_highest_value():
    maps = torch.zeros(1, 960, 960)
    maps[0, 503, 17] = 7.0
    keeper = Keeper(1, {"a": 0})
    keeper.add(["a"], Fused(torch.zeros(1), ()), maps, [None])
    (kept,) = keeper.kept.values()
    assert kept.map.shape == (96, 96)
    assert kept.map[50, 1] == 7.0


class Named:
    """Answers with the cells that it is asked for, at the distance of their first channel."""

    def nearest(self, level, cells, k):
        return cells[:, :1], cells[:, 1:].long()


def features(**grids):
    """Levels whose cells have, as features, 0 and their own number in the image."""
    levels = {}
    for name, (height, width) in grids.items():
        numbers = torch.arange(float(height * width)).view(1, height, width, 1)
        levels[name] = torch.cat([numbers * 0, numbers], 3).expand(2, -1, -1, -1)
    return Features(levels, {"fine": FINE, "coarse": COARSE, "pool": COARSE})


def test_the_highest_cell_of_the_highest_level_is_asked_about():
    fine, coarse = torch.zeros(2, 4, 4), torch.zeros(2, 2, 2)
    fine[0, 1, 2], coarse[0, 0, 1] = 5.0, 3.0
    fine[1, 0, 0], coarse[1, 1, 0] = 1.0, 3.0
    scores = Scores(torch.tensor([5.0, 3.0]), {"fine": fine, "coarse": coarse})
    first, second = evidence(Named(), highest_cells(scores, features(fine=(4, 4), coarse=(2, 2))))
    assert (first.to.level, first.to.grid, first.to.cell, first.numbers) == ("fine", (4, 4), 6, [6])
    assert (second.to.level, second.to.cell, second.numbers, second.to.geometry) == ("coarse", 2, [2], COARSE)


@pytest.mark.parametrize(
    ("scales", "members"), [((1.0, 10.0), [0, 1]), ((None, 10.0), [0, 0]), ((1.0, 0.0), [0, 0]), ((1.0, 1.0), [1, 1])]
)
def test_the_member_with_the_highest_score_beside_that_of_a_normal_image_is_asked(scales, members):
    assert least_normal([torch.tensor([2.0, 3.0]), torch.tensor([15.0, 40.0])], scales) == members


def test_the_padding_around_an_image_is_no_evidence():
    """The second image has no cell whose center is inside."""
    values = torch.zeros(2, 4, 4)
    values[:, 0, 0], values[:, 1, 2] = 9.0, 5.0
    regions = torch.tensor([[4, 0, 12, 16], [3, 0, 4, 16]])
    cells = highest_cells(Scores(values.amax((1, 2)), {"fine": values}), features(fine=(4, 4)), regions)
    assert [one.cell for one in cells] == [6, 0]


def test_the_padding_around_an_image_takes_no_part_in_its_map():
    maps = torch.arange(16.0).view(1, 4, 4)
    assert inside(maps, torch.tensor([[1, 1, 3, 3]])).tolist() == [
        [[5, 5, 5, 5], [5, 5, 6, 5], [5, 9, 10, 5], [5, 5, 5, 5]]
    ]


def test_of_pooled_features_the_whole_image_is_asked_about():
    found = evidence(Named(), highest_cells(Scores(torch.tensor([5.0, 3.0])), features(pool=(1, 1))))
    assert [(one.to.level, one.to.grid, one.to.cell) for one in found] == [("pool", (1, 1), 0)] * 2


def test_a_scorer_that_knows_none_gives_no_evidence():
    class Silent:
        def nearest(self, level, cells, k):
            return None

    cells = highest_cells(Scores(torch.tensor([5.0, 3.0])), features(pool=(1, 1)))
    assert None not in cells
    assert evidence(Silent(), cells) == [None, None]


def test_a_cell_lies_where_the_geometry_says():
    uneven = Geometry.at([10.0, 12.0, 40.0, 100.0], [20.0, 30.0])
    assert _cell(Highest("fine", (4, 2), uneven, 3, torch.zeros(1)), 3).center == (12.0, 30.0)
    assert _cell(Highest("fine", (4, 4), FINE, 6, torch.zeros(1)), 6).center == (6.0, 10.0)
