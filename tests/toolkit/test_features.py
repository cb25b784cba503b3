"""The table ``[features]`` on levels small enough to work out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from adkit.errors import UserError
from adkit.plugin.types import Features, Geometry, Level
from adkit.toolkit.features import FeaturesTable, FeatureTransform

SIZE = (16, 16)
LEVELS = {
    "fine": Level(2, (4, 4), Geometry.covering((4, 4), SIZE)),
    "coarse": Level(3, (2, 2), Geometry.covering((2, 2), SIZE)),
    "pool": Level(5, (1, 1), Geometry.covering((1, 1), SIZE)),
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def features(levels: dict[str, Level] = LEVELS, images: int = 2) -> Features:
    random = generator()
    tensors = {
        name: torch.randn(images, *level.grid, level.channels, generator=random) for name, level in levels.items()
    }
    return Features(tensors, {name: level.geometry for name, level in levels.items()})


def transform(levels: dict[str, Level] = LEVELS, **table: object) -> FeatureTransform:
    return FeatureTransform(FeaturesTable.model_validate(table), levels, generator())


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"neighborhood": 3},
        {"standardize": "image"},
        {"standardize": "location", "channels": 2},
        {"combine": "concat"},
        {"channels": 2},
        {"combine": "concat", "neighborhood": 3, "channels": (4, 0)},
    ],
)
def test_levels_state_what_calling_gives(table: dict[str, object]) -> None:
    change = transform(**table)
    given = change(features())
    assert list(given) == list(change.levels)
    for name, level in change.levels.items():
        assert given[name].shape == (2, *level.grid, level.channels)
        assert given.geometry[name] == level.geometry


def test_the_default_changes_nothing() -> None:
    given = features()
    assert transform()(given) is given


def test_neighborhood_is_the_mean_of_the_cells_that_there_are() -> None:
    given = features()
    averaged = transform(neighborhood=3)(given)
    torch.testing.assert_close(averaged["fine"][:, 0, 0], given["fine"][:, :2, :2].mean((1, 2)))
    torch.testing.assert_close(averaged["fine"][:, 1, 2], given["fine"][:, 0:3, 1:4].mean((1, 2)))
    assert torch.equal(averaged["pool"], given["pool"])


def test_a_neighborhood_may_count_zeros_over_the_border() -> None:
    ones = Features({"fine": torch.ones(1, 4, 4, 2)}, {"fine": Geometry.covering((4, 4), (8, 8))})
    table = FeaturesTable(neighborhood=3, border="zero")
    level = Level(2, (4, 4), Geometry.covering((4, 4), (8, 8)))
    averaged = FeatureTransform(table, {"fine": level}, torch.Generator())(ones)["fine"]
    assert averaged[0, 1, 1, 0] == 1
    assert averaged[0, 0, 1, 0] == pytest.approx(6 / 9)
    assert averaged[0, 0, 0, 0] == pytest.approx(4 / 9)


def test_a_neighborhood_wider_than_the_grid_is_its_mean() -> None:
    given = features()
    averaged = transform(neighborhood=9)(given)["coarse"]
    torch.testing.assert_close(averaged, given["coarse"].mean((1, 2), keepdim=True).expand_as(averaged))


def test_concat_stands_at_the_first_spatial_level_and_leaves_pool() -> None:
    change = transform(combine="concat")
    assert list(change.levels) == ["concat", "pool"]
    assert change.levels["concat"] == Level(5, (4, 4), LEVELS["fine"].geometry)


def test_concat_reads_other_levels_at_the_first_ones_cells() -> None:
    given = features()
    joined = transform(combine="concat")(given)
    assert torch.equal(joined["concat"][..., :2], given["fine"])
    corner, right = given["coarse"][:, 0, 0], given["coarse"][:, 0, 1]
    torch.testing.assert_close(joined["concat"][:, 0, 0, 2:], corner)  # before the first center: clamped
    torch.testing.assert_close(joined["concat"][:, 0, 1, 2:], 0.75 * corner + 0.25 * right)  # 6 between 4 and 12
    assert torch.equal(joined["pool"], given["pool"])


def test_concat_follows_shifted_geometry() -> None:
    levels = {
        "fine": Level(1, (4, 4), Geometry((0.5, 0.5), (4, 4))),
        "coarse": Level(1, (2, 2), Geometry((0.5, 0.5), (8, 8))),
    }
    given = features(levels)
    joined = transform(levels, combine="concat")(given)["concat"]
    torch.testing.assert_close(joined[:, ::2, ::2, 1], given["coarse"][..., 0])


def test_thinning_before_or_after_concat_is_the_same() -> None:
    whole = transform(combine="concat", neighborhood=3)(features())["concat"]
    thinned = transform(combine="concat", neighborhood=3, channels=(4, 0, 3))(features())["concat"]
    assert torch.equal(thinned, whole[..., [0, 3, 4]])


def test_random_channels_follow_the_generator() -> None:
    levels = {"wide": Level(100, (2, 2), Geometry.covering((2, 2), SIZE))}
    first, same = (transform(levels, channels=10)(features(levels))["wide"] for _ in range(2))
    other = FeatureTransform(FeaturesTable(channels=10), levels, torch.Generator().manual_seed(1))
    assert torch.equal(first, same)
    assert first.shape[3] == 10
    assert not torch.equal(first, other(features(levels))["wide"])


def test_random_channels_keep_their_values_and_order() -> None:
    levels = {"wide": Level(100, (1, 2), Geometry.covering((1, 2), SIZE))}
    ramp = Features({"wide": torch.arange(100.0).expand(1, 1, 2, 100)}, {"wide": levels["wide"].geometry})
    kept = transform(levels, channels=10)(ramp)["wide"][0, 0, 0].tolist()
    assert kept == sorted(set(kept))


def test_gradients_flow_through() -> None:
    given = features()
    for tensor in given.values():
        tensor.requires_grad_()
    transform(combine="concat", neighborhood=3)(given)["concat"].sum().backward()
    assert given["fine"].grad is not None
    assert given["coarse"].grad is not None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"channels": 4}, "features.channels: expected at most 2, which level 'fine' has, found 4: keep fewer"),
        (
            {"channels": (0, 7), "combine": "concat"},
            "features.channels: expected channels from 0 to 4, which level 'concat' has, found 7: name others",
        ),
    ],
)
def test_channels_that_a_level_lacks(table: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        transform(**table)
    assert str(caught.value) == sentence


def test_concat_without_a_spatial_level() -> None:
    with pytest.raises(UserError, match=r'"concat" needs at least one spatial level, found only pool'):
        transform({"pool": LEVELS["pool"]}, combine="concat")


@pytest.mark.parametrize("table", [{"neighborhood": 2}, {"neighborhood": 0}, {"channels": 0}, {"channels": ()}])
def test_out_of_range(table: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FeaturesTable.model_validate(table)


def test_a_recipe_reads_the_table_as_json() -> None:
    table = FeaturesTable.model_validate_json('{"combine": "concat", "channels": [3, 1]}')
    assert table.channels == (3, 1)
    with pytest.raises(ValidationError):
        FeaturesTable.model_validate_json('{"channels": [1, 1]}')


def test_the_table_needs_no_torch() -> None:
    code = "import sys, adkit.toolkit.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_standardized_channels_have_mean_0_and_deviation_1_in_each_image() -> None:
    change = transform(standardize="image")
    given = change(features())
    for name in ("fine", "coarse"):
        torch.testing.assert_close(given[name].mean((1, 2)), torch.zeros(2, LEVELS[name].channels), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            given[name].std((1, 2), correction=0), torch.ones(2, LEVELS[name].channels), atol=1e-6, rtol=0
        )


def test_standardizing_leaves_a_pooled_level_alone() -> None:
    before = features()
    assert torch.equal(transform(standardize="image")(before)["pool"], before["pool"])


def test_a_gain_and_an_offset_of_an_image_do_not_change_its_standardized_features() -> None:
    before = features()
    gain, offset = torch.tensor([2.0, 0.5]).reshape(2, 1, 1, 1), torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1)
    changed = Features({name: gain * level + offset for name, level in before.items()}, before.geometry)
    change = transform(standardize="image")
    torch.testing.assert_close(change(changed)["fine"], change(before)["fine"], atol=1e-5, rtol=0)


def test_a_channel_that_hardly_varies_is_not_blown_up() -> None:
    level = torch.zeros(1, 4, 4, 2)
    level[..., 0] = torch.randn(4, 4, generator=generator())
    level[0, 0, 0, 1] = 1e-9
    levels = {"fine": LEVELS["fine"]}
    given = transform(levels, standardize="image")(Features({"fine": level}, {"fine": LEVELS["fine"].geometry}))
    assert given["fine"][..., 1].abs().max() < 1e-6


def test_standardized_locations_have_mean_0_and_deviation_1_over_channels() -> None:
    given = transform(standardize="location")(features())
    for name in ("fine", "coarse"):
        torch.testing.assert_close(given[name].mean(3), torch.zeros(2, *LEVELS[name].grid), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            given[name].std(3, correction=0), torch.ones(2, *LEVELS[name].grid), atol=1e-4, rtol=0
        )


def test_channels_are_standardized_with_those_that_are_left_out() -> None:
    whole = transform(standardize="location")(features())["coarse"]
    assert torch.equal(transform(standardize="location", channels=(1,))(features())["coarse"], whole[..., 1:2])
