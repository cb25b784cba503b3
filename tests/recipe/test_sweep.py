"""The table ``[sweep]``: its points, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from adkit.errors import UserError
from adkit.recipe.document import read_document
from adkit.recipe.sweep import Sweep, overrides_of, sweep_of


def swept(text: str, folder: Path) -> Sweep | None:
    path = folder / "tile.toml"
    path.write_text(text)
    return sweep_of(read_document(path))


def test_a_recipe_without_the_table_has_none(tmp_path):
    assert swept("[scorer]\n", tmp_path) is None


def test_the_grid_goes_through_the_last_key_first(tmp_path):
    one = swept('[sweep]\n"scorer.k" = [1, 2]\nfeatures.neighborhood = [1, 3]\n', tmp_path)
    assert one is not None
    assert [list(point.values()) for point in one.points(0)] == [[1, 1], [1, 3], [2, 1], [2, 3]]
    assert overrides_of(one.points(0)[1]) == ["scorer.k=1", "features.neighborhood=3"]


def test_values_may_be_lists_and_texts(tmp_path):
    one = swept('[sweep]\nextractor.levels = [["a"], ["a", "b"]]\nscorer.use = ["knn"]\n', tmp_path)
    assert one is not None
    assert overrides_of(one.points(0)[1]) == ['extractor.levels=["a", "b"]', 'scorer.use="knn"']


def test_a_sample_is_drawn_by_the_seed(tmp_path):
    one = swept('[sweep]\n"scorer.k" = [1, 2, 3, 4, 5, 6, 7, 8]\nsample = 3\n', tmp_path)
    assert one is not None
    drawn = [[point["scorer.k"] for point in one.points(seed)] for seed in range(9)]
    assert all(len(set(values)) == 3 and values == sorted(values) for values in drawn)
    assert drawn[0] == [point["scorer.k"] for point in one.points(0)]
    assert len({tuple(values) for values in drawn}) > 3


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", r'tile.toml:1: sweep: expected a key with the values to try, such as "scorer.k"'),
        ("scorer.k = 5", r"tile.toml:2: sweep.scorer.k: expected a list of the values to try, found 5"),
        ("scorer.k = []", r"tile.toml:2: sweep.scorer.k: expected a list of the values to try, found \[\]"),
        ("sweep.scorer.k = [1]", r"tile.toml:2: sweep.sweep.scorer.k: expected a key of another table"),
        ("scorer.k = [1, 2, 1]", r"tile.toml:2: sweep.scorer.k: expected values that differ, found \[1, 2, 1\]"),
        ("run.name = ['a']", r"tile.toml:2: sweep.run.name: expected a key that makes runs differ"),
        ("scorer.k = [1]\nsample = 0", r"tile.toml:3: sweep.sample: expected a whole number of points of at least 1"),
        (
            "scorer.k = [1]\nrank_by = 'luck'",
            r'tile.toml:3: sweep.rank_by: expected "synthetic" or "test", found "luck"',
        ),
        (f"scorer.k = {list(range(1001))}", r"tile.toml:1: sweep: expected at most 1,000 points, found 1,001"),
    ],
)
def test_what_is_refused(tmp_path, table, sentence):
    with pytest.raises(UserError, match=sentence):
        swept(f"[sweep]\n{table}\n", tmp_path)


def test_it_must_be_a_table(tmp_path):
    with pytest.raises(UserError, match=r"tile.toml:1: sweep: expected a table: write \[sweep\]"):
        swept("sweep = 5\n", tmp_path)
