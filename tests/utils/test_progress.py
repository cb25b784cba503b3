import io
import re
import time

from rich.console import Console

import adkit.utils.progress
from adkit.utils.progress import Display, steps


def shown(**options):
    return Console(file=io.StringIO(), width=100, **options)


def test_plain_lines_when_not_on_a_terminal():
    console = shown()
    with Display(console) as display, display.stage("fit", "tile", 3) as advance:
        advance(3)
    assert re.match(r"tile: fit: 3 images, \d+\.\d s", console.file.getvalue())


def test_seconds_of_stages_of_one_name_add_up():
    display = Display(quiet=True)
    with display:
        with display.stage("fit", "a", 1):
            time.sleep(0.05)
        first = display.timings["fit"]
        with display.stage("fit", "b", 1):
            time.sleep(0.05)
    assert list(display.timings) == ["fit"]
    assert first >= 0.05
    assert display.timings["fit"] >= first + 0.05


def test_quiet_says_nothing():
    console = shown()
    with Display(console, quiet=True) as display, display.stage("fit", "tile", 3) as advance:
        advance(3)
        display.say("hello")
    assert console.file.getvalue() == ""


def test_bars_on_a_terminal_show_rate_and_count():
    console = shown(force_terminal=True)
    with Display(console) as display, display.stage("fit", "tile", 3) as advance:
        advance(3)
        display._bars.refresh()
    text = console.file.getvalue()
    assert "tile: fit" in text
    assert "3/3" in text


def test_a_second_walk_over_the_images_adds_to_their_number(monkeypatch):
    monkeypatch.setattr(adkit.utils.progress, "PLAIN_INTERVAL", 0.0)
    console = shown()
    with Display(console) as display, display.stage("fit", "tile", 80) as advance:
        for images in (40, 40, 40, 40):
            advance(images)
    counts = re.findall(r"^tile: fit: (\d+ of \d+) images, \d", console.file.getvalue(), re.MULTILINE)
    assert counts == ["40 of 80", "80 of 80", "120 of 160", "160 of 160"]


def test_a_second_walk_moves_the_bar_on():
    console = shown(force_terminal=True)
    with Display(console) as display, display.stage("fit", "tile", 80) as advance:
        advance(80)
        advance(40)
        display._bars.refresh()
    text = console.file.getvalue()
    assert "120/160" in text
    assert "120/80" not in text


def test_a_component_shows_its_own_steps_inside_a_stage(monkeypatch):
    monkeypatch.setattr(adkit.utils.progress, "PLAIN_INTERVAL", 0.0)
    console = shown()
    with Display(console) as display, display.stage("fit", "tile", 3), steps("coreset", 40, "feature") as advance:
        advance(10)
        advance(30)
    counts = re.findall(r"^coreset: (\d+ of \d+) features, .*/s", console.file.getvalue(), re.MULTILINE)
    assert counts == ["10 of 40", "40 of 40"]
    assert list(display.timings) == ["fit"]


def test_without_a_display_steps_are_shown_nowhere():
    with steps("coreset", 40, "feature") as advance:
        advance(10)


def test_bars_say_what_steps_are_of():
    console = shown(force_terminal=True)
    with Display(console) as display, steps("coreset", 40, "feature") as advance:
        advance(20)
        time.sleep(0.01)
        advance(20)
        display._bars.refresh()
    assert re.search(r"\d features?/s", console.file.getvalue())
