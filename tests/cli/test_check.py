"""``adkit check`` on every recipe that ships and whose weights are packaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from adkit.cli.check import check
from tests.data.categories import write_category

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_a_shipped_recipe_is_checked_on_other_images(name, textures, tmp_path):
    write_category(tmp_path / "data" / "stripes", train=40)
    size = 256 if name == "glance" else 64  # the one that Global-Net takes
    overrides = [f"data={{format='mvtec', root='{tmp_path / 'data'}', image_size={size}}}"]
    if "[auxiliary]" in (RECIPES / f"{name}.toml").read_text(encoding="utf-8"):
        overrides.append(f"auxiliary={{format='textures', root='{textures}'}}")
    assert "stripes: " in check(RECIPES / f"{name}.toml", overrides)


def test_tables_about_maps_are_told_to_be_without_one(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool"]
    small_recipe["localizer"] = {"smoothing": 2.0}
    small_recipe["threshold"] = {"pixel": True}
    told = (
        "warning: [localizer] and threshold.pixel: expected a level with cells, found pool alone, so there are no "
        "maps: name a module of the backbone in extractor.levels, or remove this"
    )
    assert told in check(small_recipe).splitlines()


def test_tables_about_maps_that_there_are_need_no_word(small_recipe):
    small_recipe["localizer"] = {"smoothing": 2.0}
    assert "so there are no maps" not in check(small_recipe)


def test_levels_that_the_scorer_does_not_read_are_no_maps(small_recipe):
    small_recipe["extractor"]["levels"] = ["pool", "layer1"]
    small_recipe["scorer"]["levels"] = ["pool"]
    small_recipe["localizer"] = {"smoothing": 2.0}
    assert "[localizer]: expected a level with cells, found pool alone" in check(small_recipe)


def test_what_a_coreset_takes_is_told(small_recipe):
    small_recipe["scorer"] = {"use": "knn", "coreset": 0.1}
    assert "fitting the scorer takes at most" in check(small_recipe, [])
    small_recipe["scorer"] = {"use": "knn"}
    assert "operations" not in check(small_recipe, [])
