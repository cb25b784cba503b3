from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adkit.data.samples import Sample
from adkit.data.splits import folded, hold_out, one_per_group
from adkit.errors import UserError


def samples(count: int) -> list[Sample]:
    return [Sample(f"{n}.png", Path(f"{n}.png"), 0, "good") for n in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [(10, 0.2, 2), (10, 0, 0), (3, 0.2, 1), (3, 0.1, 1), (100, 0.001, 1), (1, 0.9, 0), (2, 0.9, 1), (0, 0.5, 0)],
)
def test_how_many_are_held_out(count: int, share: float, held: int) -> None:
    assert len(hold_out(samples(count), share, 0, "calibration")[1]) == held


def test_nothing_is_lost_and_order_is_kept() -> None:
    whole = samples(50)
    kept, held = hold_out(whole, 0.3, 0, "calibration")
    assert sorted(kept + held, key=whole.index) == whole
    assert kept == sorted(kept, key=whole.index)
    assert held == sorted(held, key=whole.index)


def test_this_split_for_ever() -> None:
    # A new version that drew others would change every published value.
    assert [sample.id for sample in hold_out(samples(10), 0.3, 0, "calibration")[1]] == [
        "4.png",
        "5.png",
        "7.png",
    ]


def test_seed_decides() -> None:
    assert hold_out(samples(50), 0.5, 0, "test") != hold_out(samples(50), 0.5, 1, "test")


def test_purposes_draw_apart() -> None:
    assert hold_out(samples(50), 0.5, 0, "test") != hold_out(samples(50), 0.5, 0, "calibration")


def test_order_given_does_not_matter() -> None:
    whole = samples(50)
    forth, back = (hold_out(list(order), 0.3, 0, "test")[1] for order in (whole, whole[::-1]))
    assert set(forth) == set(back)


def test_a_new_image_moves_at_most_one() -> None:
    before = set(hold_out(samples(50), 0.2, 0, "test")[1])
    after = set(hold_out(samples(51), 0.2, 0, "test")[1])
    assert len(before - after) <= 1


def in_pairs(samples: list[Sample]) -> dict[str, str]:
    return {sample.id: str(number // 2) for number, sample in enumerate(samples)}


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_separated(seed: int) -> None:
    whole = samples(20)
    groups = in_pairs(whole)
    kept, held = hold_out(whole, 0.3, seed, "stopper", groups)
    assert not {groups[sample.id] for sample in kept} & {groups[sample.id] for sample in held}
    assert (len(kept), len(held)) == (14, 6)


@pytest.mark.parametrize(("share", "held"), [(0.05, 4), (0.3, 4), (0.45, 4), (0.5, 8), (0.6, 8), (0.9, 8)])
def test_shares_are_met_as_nearly_as_groups_allow(share: float, held: int) -> None:
    whole = samples(12)  # three groups of four
    groups = {sample.id: str(number // 4) for number, sample in enumerate(whole)}
    assert len(hold_out(whole, share, 0, "calibration", groups)[1]) == held


def test_one_group_is_never_held_out() -> None:
    whole = samples(6)
    assert hold_out(whole, 0.5, 0, "calibration", dict.fromkeys((s.id for s in whole), "a")) == (whole, [])


@pytest.mark.parametrize("seed", range(10))
def test_folds_separate_no_group(seed: int) -> None:
    whole = samples(21)
    groups = {sample.id: str(number // 3) for number, sample in enumerate(whole)}
    folds = folded(whole, 3, seed, groups, "run.folds", "a")
    keys = [{groups[sample.id] for sample in fold} for fold in folds]
    assert sum(map(len, keys)) == 7
    assert sorted(map(len, folds)) == [6, 6, 9]


def test_fewer_groups_than_folds_are_refused() -> None:
    whole = [replace(sample, group=sample.id[0]) for sample in samples(20)]  # "0" to "9", "1" with 11 images
    groups = {sample.id: str(sample.group) for sample in whole}
    with pytest.raises(UserError, match=r"run\.folds: expected at least 11 groups of normal images in a, .*, found 10"):
        folded(whole, 11, 0, groups, "run.folds", "a")


def test_one_image_is_drawn_from_each_group() -> None:
    whole = samples(12)
    groups = {sample.id: str(number // 4) for number, sample in enumerate(whole)}
    drawn = one_per_group(whole, 0, groups)
    assert [place // 4 for place in drawn] == [0, 1, 2]


def test_each_image_of_a_group_is_drawn_as_often_as_the_others() -> None:
    whole = samples(4)
    groups = dict.fromkeys((sample.id for sample in whole), "a")
    drawn = Counter(one_per_group(whole, seed, groups)[0] for seed in range(4000))
    assert all(abs(count - 1000) < 150 for count in drawn.values())  # 5.5 standard deviations
