"""``adkit check`` on every recipe that ships and whose weights are packaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from adkit.cli.check import check
from tests.data.categories import write_category

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_a_shipped_recipe_is_checked_on_other_images(name, tmp_path):
    write_category(tmp_path / "data" / "stripes", train=40)
    overrides = [f"data={{format='mvtec', root='{tmp_path / 'data'}', image_size=64}}"]
    if "[auxiliary]" in (RECIPES / f"{name}.toml").read_text(encoding="utf-8"):
        overrides.append(f"auxiliary={{format='textures', root='{tmp_path / 'textures'}'}}")
    assert "stripes: " in check(RECIPES / f"{name}.toml", overrides)
