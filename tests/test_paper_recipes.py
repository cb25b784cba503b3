"""The recipes of published rows: each names what it lacks and nothing else, and every row in a header can be run."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from adkit.cli.check import check
from adkit.errors import UserError
from adkit.recipe.reader import read_recipe

PAPERS = Path(__file__).parents[1] / "recipes" / "papers"
RECIPES = sorted(PAPERS.glob("*.toml"))
GAUSSIAN = sorted(PAPERS.glob("gaussian-*.toml"))
ROWS = [
    pytest.param(path, [word for word in shlex.split(row) if word != "--set"], id=f"{path.stem} {row}")
    for path in RECIPES
    for row in re.findall(r"^#.*?(--set .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_without_the_data_only_the_data_is_missed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        check(path)
    (problem,) = caught.value.problems
    assert re.match(
        rf"{re.escape(str(path))}:\d+: data\.root: expected .+ data/.+, found (no such folder|nothing)", problem
    )


@pytest.mark.parametrize(("path", "overrides"), ROWS)
def test_every_row_of_a_header_is_in_order_and_another(path, overrides):
    assert read_recipe(path, overrides) != read_recipe(path), f"{path}: this row of its header changes nothing"


@pytest.mark.parametrize("table", ["run", "data", "extractor", "localizer"])
def test_rows_that_are_compared_share_all_but_the_method(table):
    first, *others = [tomllib.loads(path.read_text(encoding="utf-8"))[table] for path in GAUSSIAN]
    assert len(others) == 3
    assert all(other == first for other in others), (
        f"recipes/papers/gaussian-*.toml: [{table}] must be the same in all, for docs/results.md compares their rows"
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", GAUSSIAN, ids=lambda path: path.stem)
def test_the_nine_levels_are_there(path, stripes):
    said = check(path, [f"data.root={stripes}", "extractor.weights=none", "data.image_size=64"])
    assert re.findall(r"level +(\S+) +\d+ × \d+ cells of ([\d,]+) channels", said)[:9] == [
        ("bn1", "48"),
        *(
            (f"blocks.{index}", channels)
            for index, channels in enumerate(["24", "32", "56", "112", "160", "272", "448"])
        ),
        ("bn2", "1,792"),
    ]
