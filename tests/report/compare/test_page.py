"""The page of a comparison, and in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adkit import run
from adkit.errors import UserError
from adkit.report.compare.comparison import compare
from adkit.report.compare.page import write_comparison
from tests.data.categories import write_category
from tests.recipe.small import write_small
from tests.report.compare.test_comparison import noisy
from tests.report.page.browser import Browser, axe_script

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs on one category, which has an image with a hostile name."""
    folder = tmp_path_factory.mktemp("page")
    recipe = write_small(folder)
    write_category(folder / "data" / "stripes", train=24, good=12, bad=12, seed=1)
    bad = folder / "data" / "stripes" / "test"
    first = sorted((bad / "good").glob("*.png"))[0]
    first.rename(first.with_name(HOSTILE))
    runs = []
    for name, seed in (("one", 0), ("other", 5)):
        recipe["run"] = recipe["run"] | {"name": name, "seed": seed}
        runs.append(run(recipe).folder)
    return write_comparison(compare(runs), folder / "comparison.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    one = Browser()
    yield one
    one.driver.quit()


def test_differences_and_what_they_mean_stand_in_the_page(tmp_path: Path) -> None:
    found = compare(noisy(tmp_path))
    text = write_comparison(found, tmp_path / "page.html").read_text(encoding="utf-8")
    (apart,) = found.differences
    assert apart.interval is not None
    assert f"{apart.value:+.3f} [{apart.interval[0]:+.3f}, {apart.interval[1]:+.3f}]" in text
    assert "no difference beyond its error (95% interval by DeLong)" in " ".join(text.split())
    assert "<script" not in text


def test_names_are_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "onerror=alert(1)&gt;.png" in text
    assert "<img src=x" not in text


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"page.html: expected that the page can be written there"):
        write_comparison(compare(noisy(tmp_path)), tmp_path / "0" / "scores.csv" / "page.html")


@pytest.mark.browser
def test_a_browser_shows_it_without_a_complaint_or_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.driver.get_log("browser") == []
    assert browser.requests == [page.absolute().as_uri()]
    assert browser.run("return document.querySelectorAll('.disagreements > li').length") > 0
    assert browser.run("return [...document.querySelectorAll('.frame img')].every((one) => one.naturalWidth > 0)")


@pytest.mark.browser
@pytest.mark.parametrize("system", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, page: Path, tmp_path: Path, system: str) -> None:
    browser.open(page)
    browser.show_as(system)
    assert browser.serious(axe_script(tmp_path)) == []


@pytest.mark.browser
def test_it_fits_a_narrow_screen(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.width_on(360) == 360
