from __future__ import annotations

from pathlib import Path

import pytest

from adkit.data.samples import Sample
from adkit.data.splits import hold_out


def samples(count: int) -> list[Sample]:
    return [Sample(f"{n}.png", Path(f"{n}.png"), 0, "good") for n in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.2, 2), (10, 0, 0), (3, 0.2, 1), (1, 0.9, 0), (2, 0.9, 1), (0, 0.5, 0)]
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


def test_a_image_that_a_kept_one_equals_is_not_held_out():
    whole = samples(20)
    equal = {sample.id: number // 2 for number, sample in enumerate(whole)}
    kept, held = hold_out(whole, 0.3, 0, "stopper", equal)
    assert not {equal[sample.id] for sample in kept} & {equal[sample.id] for sample in held}
    assert len(kept) + len(held) == 20
