"""The time left of a run, by stages of known lengths."""

import io
import re

import pytest
from rich.console import Console

import adkit.utils.progress
from adkit.utils.progress import Display
from adkit.utils.time_left import Ahead, Left, TimeLeft, in_words


def of_two(**traits):
    left = TimeLeft()
    left.expect(
        [
            *(Ahead("fit", "a", 10, 1.0), Ahead("test", "a", 20, 2.0)),
            *(Ahead("fit", "b", 30, 1.0), Ahead("test", "b", 10, 2.0, **traits)),
        ]
    )
    return left


def test_nothing_is_said_before_anything_is_known():
    left = of_two()
    assert left.left(0, 0) is None
    left.begin("fit", "a", 0)
    assert left.left(0, 5) is None
    assert TimeLeft().left(0, 0) is None


def test_the_first_stage_tells_the_others_by_their_weights():
    left = of_two()
    left.begin("fit", "a", 100)
    # Half of 10 images took 5 s: 1 s each, so 5 s more, and 40 + 30 + 20.
    assert left.left(0.5, 105) == Left(95, False)


def test_a_stage_that_was_seen_tells_its_next():
    left = of_two()
    left.begin("fit", "a", 0)
    left.end(10)
    left.begin("test", "a", 10)
    left.end(20)  # 0.5 s an image, whatever its weight
    assert left.left(0, 20) == Left(30 + 5, False)
    left.begin("fit", "b", 20)
    left.end(80)  # 70 s for 40 images
    assert left.left(0, 80) == Left(5, False)


def test_its_own_pace_counts_the_more_the_further_a_stage_has_come():
    left = of_two()
    left.begin("fit", "a", 0)
    left.end(10)
    left.begin("fit", "b", 10)
    # Expected are 30 s. At a tenth after 6 s its own pace says 60 s, and both count alike.
    assert left.left(0.1, 16).seconds == pytest.approx(45 - 6 + 10 * 2)


def test_stages_that_were_passed_over_are_not_waited_for():
    left = of_two()
    left.begin("fit", "a", 0)
    left.end(10)
    left.begin("fit", "b, fold 1 of 2", 10)
    left.end(40)
    assert left.left(0, 40) == Left(20, False)


def test_a_stage_that_nobody_expected_takes_none_away():
    left = of_two()
    left.begin("fit", "a", 0)
    left.end(10)
    assert left.begin("draw", "a", 10) == 0
    assert left.left(0, 12) == Left(90, False)


def test_what_may_end_early_is_counted_whole_and_said_to_be():
    left = of_two(at_most=True)
    left.begin("fit", "a", 0)
    left.end(10)
    assert left.left(0, 10).at_most
    left.begin("test", "b", 10)
    assert left.left(0, 10).at_most
    left.end(20)
    assert left.left(0, 20) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "5 s"), (7, "5 s"), (8, "10 s"), (57, "55 s"), (58, "1 min"), (89, "1 min"), (91, "2 min")),
        *((3599, "1 h"), (5400, "1 h 30 min"), (86400, "24 h")),
    ],
)
def test_durations_as_people_say_them(seconds, words):
    assert in_words(seconds) == words


def test_lines_say_the_time_left_of_the_run(monkeypatch):
    monkeypatch.setattr(adkit.utils.progress, "PLAIN_INTERVAL", 0.0)
    console = Console(file=io.StringIO(), width=100)
    with Display(console) as display:
        display.expect([Ahead("fit", "tile", 4, 1.0, at_most=True)])
        with display.stage("fit", "tile", 4) as advance:
            advance(2)
    assert re.search(r"^tile: fit: 2 of 4 images, .*; run: at most 5 s left$", console.file.getvalue(), re.MULTILINE)


def test_bars_say_the_time_left_of_the_run():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Display(console) as display:
        display.expect([Ahead("adapt", "tile", 4, 1.0), Ahead("fit", "tile", 4, 1.0)])
        with display.stage("adapt", "tile") as advance:
            advance(2)
            display._bars.refresh()
    assert "run: 5 s left" in console.file.getvalue()
