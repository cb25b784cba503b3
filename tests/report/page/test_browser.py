"""The page of a real run in a real browser."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from adkit import Report, run
from adkit.report.page.page import page
from adkit.report.page.pictures import Cell, Thumbnails, mean_patches, patches
from adkit.report.page.record import Evidence, PageRecord, by_interest, packed, unpacked
from adkit.threshold import by_hand, wilson_interval
from tests.data.categories import write_category
from tests.recipe.small import write_small
from tests.report.page.browser import Browser, axe_script
from tests.report.page.records import VIEW, record, report, sample, thumbnails

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    one = Browser()
    yield one
    one.driver.quit()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run of two categories, with a hostile name among the normal images and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("page")
    recipe = write_small(folder)
    for seed, name in enumerate(("stripes", "waves")):
        write_category(folder / "data" / name, train=24, good=20, bad=24, seed=seed)
    good = folder / "data" / "stripes" / "test" / "good"
    (good / "000.png").rename(good / HOSTILE)
    (good / "001.png").write_bytes(b"no image")
    recipe["threshold"] = {"false_positive_rate": 0.25}
    return run(recipe)


@pytest.fixture
def opened(browser: Browser, found: Report) -> Browser:
    browser.open(Path(found.folder, "report.html"))
    return browser


@pytest.fixture(scope="module")
def rows(found: Report) -> list[dict[str, str]]:
    with Path(found.folder, "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def counts_at(rows: list[dict[str, str]], category: str, threshold: float) -> dict[str, int]:
    """How many test images of a category are called what, from the rows of ``scores.csv``."""
    test = [row for row in rows if row["category"] == category and row["split"] == "test"]
    above = np.array([row["score"] for row in test], np.float32) > np.float32(threshold)
    anomalous = np.array([row["label"] == "1" for row in test])
    return {
        "passed": int((~above & ~anomalous).sum()),
        "alarms": int((above & ~anomalous).sum()),
        "missed": int((~above & anomalous).sum()),
        "found": int((above & anomalous).sum()),
    }


def shown_counts(browser: Browser) -> dict[str, int]:
    return {name: int(browser.text(f"#{name}")) for name in ("passed", "alarms", "missed", "found")}


def percent(text: str) -> float:
    return float(text.removesuffix("%")) / 100


def test_it_loads_without_an_error_and_without_a_request(opened):
    opened.until("return document.querySelector('.card canvas').width > 1")
    assert opened.driver.get_log("browser") == []
    assert len(opened.requests) == 1  # for the page itself


def test_a_hostile_name_is_shown_as_text(opened):
    opened.choose("sort", "name")
    opened.find('#tools [name="name"]').send_keys("onerror")
    assert opened.texts(".card .file") == [f"stripes/test/good/{HOSTILE}"]
    assert opened.run("return document.querySelector('img[src=x]')") is None
    assert opened.driver.get_log("browser") == []  # with an alert open, this would fail


def test_what_cannot_be_read_stands_first(opened):
    assert "stripes/test/good/001.png" in opened.text("main section:first-of-type")
    assert "not a" in opened.text("main section:first-of-type .notice.bad")


def test_the_counts_at_the_recipes_threshold_are_those_of_the_report(opened, found, rows):
    for name, one in found.categories.items():
        Select(opened.find("#category")).select_by_visible_text(name)
        assert shown_counts(opened) == counts_at(rows, name, one.threshold.value)
        assert percent(opened.text("#alarm-rate")) == pytest.approx(one.threshold.test_false_positive_rate, abs=6e-4)
        assert percent(opened.text("#found-rate")) == pytest.approx(one.threshold.test_recall, abs=6e-4)
        assert opened.text("#promise") == (
            "The recipe's threshold: it promises at most 25% false alarms on new normal images."
        )


def test_the_slider_changes_the_counts_to_those_computed_here(opened, rows, found):
    slider = opened.find("#position")
    slider.send_keys(Keys.HOME)
    seen = []
    for _ in range(10):
        slider.send_keys(Keys.PAGE_UP)  # a tenth of the way
        threshold = float(slider.get_attribute("data-threshold"))
        assert shown_counts(opened) == counts_at(rows, "stripes", threshold)
        seen.append(tuple(shown_counts(opened).values()))
    assert len(set(seen)) > 3


def test_an_exact_threshold_can_be_typed(opened, rows):
    scores = sorted({float(row["score"]) for row in rows if row["category"] == "stripes" and row["split"] == "test"})
    for score in scores[2:20:4]:  # a score is not above itself
        field = opened.find("#exact")
        field.clear()
        field.send_keys(repr(score))
        assert shown_counts(opened) == counts_at(rows, "stripes", score)


def test_a_moved_threshold_says_what_calibration_lets_expect(opened, found, rows):
    record = PageRecord.load(Path(found.folder, "page", "000000.json"))
    calibration = unpacked(record.calibration, "float32")
    value = float(np.sort(calibration)[2]) + 1e-4
    field = opened.find("#exact")
    field.clear()
    field.send_keys(repr(value))
    expected = by_hand(value, calibration).supported
    assert f"expect about {100 * expected:.1f}".removesuffix(".0") in opened.text("#promise")
    counts = shown_counts(opened)
    low, high = wilson_interval(counts["alarms"], counts["alarms"] + counts["passed"])
    assert opened.text("#alarm-interval") == f"95%: {100 * low:.1f}% to {100 * high:.1f}%".replace(".0%", "%")


def test_the_points_on_the_curves_move_with_the_threshold(opened, rows):
    def points():
        places = "(p) => p.getAttribute('cx') + p.getAttribute('cy')"
        return opened.run(f"return [...document.querySelectorAll('.point')].map({places})")

    before = points()
    assert len(before) == 3  # ROC, precision and recall, PRO
    opened.find("#position").send_keys(Keys.HOME)
    assert opened.text("#curve-roc b") == "100% / 100%"
    assert all(one != other for one, other in zip(before, points(), strict=True))
    opened.find("#reset").click()
    assert points() == before


def test_the_point_on_pro_is_where_the_metric_is_measured(opened, found):
    record = PageRecord.load(Path(found.folder, "page", "000000.json"))
    level = found.categories["stripes"].pixel_threshold.value
    alarms = np.interp(level, record.pro.thresholds, record.pro.alarms)
    shown = percent(opened.text("#curve-pro b").split(" / ")[0])
    assert shown == pytest.approx(alarms, abs=6e-4)


def test_the_promised_rate_is_marked_on_the_roc_curve(opened):
    assert opened.text("#curve-roc .asked + text") == "promised 25%"


@pytest.mark.parametrize(
    ("name", "text", "check"),
    [
        ("label", "anomalous", lambda row: row["label"] == "1"),
        ("kind", "square", lambda row: row["kind"] == "square"),
        ("category", "waves", lambda row: row["category"] == "waves"),
        ("verdict", "false alarm", lambda row: row["label"] == "0" and row["anomalous"] == "1"),
        ("verdict", "missed", lambda row: row["label"] == "1" and row["anomalous"] == "0"),
        ("verdict", "found", lambda row: row["label"] == "1" and row["anomalous"] == "1"),
        ("verdict", "passed", lambda row: row["label"] == "0" and row["anomalous"] == "0"),
        ("verdict", "wrong", lambda row: row["label"] != row["anomalous"]),
    ],
)
def test_filters(opened, rows, name, text, check):
    opened.choose(name, text)
    while opened.run("return !document.getElementById('more').hidden"):
        opened.run("document.getElementById('more').click()")
    wanted = {row["id"] for row in rows if row["split"] == "test" and check(row)}
    assert set(opened.texts(".card .file")) == wanted


def test_sorting_by_score(opened):
    opened.choose("sort", "highest score first")
    scores = [float(text) for text in opened.texts(".card .score")]
    assert scores == sorted(scores, reverse=True)
    opened.choose("sort", "lowest score first")
    assert float(opened.texts(".card .score")[0]) < scores[-1]


def test_the_most_wrong_come_first(opened, rows, found):
    opened.choose("category", "stripes")
    test = [row for row in rows if row["category"] == "stripes" and row["split"] == "test"]
    scores, labels = np.array([float(row["score"]) for row in test]), np.array([int(row["label"]) for row in test])
    order = by_interest(scores, labels, found.categories["stripes"].threshold.value)
    assert opened.texts(".card .file")[:12] == [test[place]["id"] for place in order[:12]]


def test_verdicts_follow_the_threshold(opened):
    opened.choose("category", "stripes")
    opened.find("#position").send_keys(Keys.END)
    assert set(opened.texts(".card .verdict")) == {"✕Missed", "·Passed"}
    opened.choose("verdict", "found")
    assert opened.texts(".card") == []


def test_the_table_of_categories_sorts(opened, found):
    names = sorted(found.categories, key=lambda name: found.categories[name].threshold.value)
    buttons = opened.all("#categories table:first-of-type thead th button")
    by_threshold = next(button for button in buttons if button.text.startswith("threshold"))
    for order in (names, names[::-1]):
        by_threshold.click()
        assert opened.texts("#categories div:first-of-type tbody th") == order


def test_the_opacity_of_heatmaps_and_outlines_can_be_turned_off(opened):
    opened.find('#view [name="opacity"]').send_keys(Keys.HOME)
    assert opened.run("return getComputedStyle(document.querySelector('.card canvas')).opacity") == "0"
    opened.choose("label", "anomalous")
    assert opened.find(".card .mask-paths").is_displayed()
    opened.find('#view [name="mask"]').click()
    assert not opened.find(".card .mask-paths").is_displayed()


def test_the_outline_of_what_the_map_finds_follows_its_threshold(opened):
    opened.choose("sort", "highest score first")
    drawn = "return document.querySelector('.card .contour-line')?.getAttribute('d')"
    before = opened.until(drawn)
    slider = opened.find('#view [name="level"]')
    slider.send_keys(Keys.END)
    opened.until(
        "return document.querySelectorAll('.card .contour-line').length < document.querySelectorAll('.card').length"
    )
    assert opened.run(drawn) != before


def test_the_keyboard_alone_reaches_everything(opened):
    reached = []
    for _ in range(200):
        opened.keys(Keys.TAB)
        element = opened.driver.switch_to.active_element
        label = opened.run(
            "const e = arguments[0]; return e.id || e.name || e.className || e.getAttribute('href') || e.tagName",
            element,
        )
        if label == "BODY":
            break
        reached.append(label)
    wanted = {
        *("skip", "theme", "#images", "category", "position", "exact", "sort", "label", "verdict", "kind", "name"),
        *("opacity", "mask", "contour", "level", "card", "card is-wrong", "more", "copy", "recipe-text", "SUMMARY"),
    }
    assert wanted - set(reached) == set()


def test_an_image_is_looked_at_by_keyboard_and_left_again(opened):
    names = opened.texts(".card .file")
    opened.run("document.querySelector('.card').focus()")
    opened.keys(Keys.ENTER)
    assert opened.text("#closer-title") == names[0]
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.text("#closer-title") == names[1]
    opened.keys(Keys.ARROW_LEFT)
    assert opened.text("#closer-title") == names[0]
    opened.keys(Keys.ESCAPE)
    assert opened.run("return document.getElementById('closer').open") is False
    assert opened.run("return document.activeElement === document.querySelector('.card')") is True


def test_the_p_value_is_that_of_the_row(opened, rows):
    shown = opened.texts(".card .file")[0]
    opened.run("document.querySelector('.card').click()")
    facts = dict(zip(opened.texts("#closer dt"), opened.texts("#closer dd"), strict=True))
    row = next(row for row in rows if row["id"] == shown and row["split"] == "test")
    assert float(facts["p-value"].split(":")[0]) == pytest.approx(float(row["p_value"]), rel=1e-3)
    assert float(facts["Score"].split(",")[0]) == pytest.approx(float(row["score"]), rel=1e-3)


def test_strong_bars_are_what_is_wrong(opened):
    opened.find("#position").send_keys(Keys.HOME)  # everything is called anomalous
    drawn = opened.run(
        "return [...document.querySelectorAll('.bars.strong')].map((bars) => bars.getAttribute('d') !== '')"
    )
    assert drawn == [True, True, False]  # calibration, good, square


def test_the_theme_follows_the_system_until_it_is_chosen(opened):
    def ground(system):
        features = [{"name": "prefers-color-scheme", "value": system}]
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return opened.run("return getComputedStyle(document.body).backgroundColor")

    light, dark = ground("light"), ground("dark")
    assert light != dark
    opened.find("#theme").click()
    assert ground("dark") == light
    opened.find("#theme").click()
    assert ground("light") == dark
    opened.find("#theme").click()  # what was chosen is kept, also for the tests to come
    assert ground("light") == light


def test_the_recipe_is_copied(opened, found):
    assert opened.text("#recipe-text") == Path(found.folder, "recipe.toml").read_text().strip()
    opened.find("#copy").click()
    opened.until("return /Copied|Selected/.test(document.getElementById('copy').textContent)")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return axe_script(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize("looking", [False, True], ids=["page", "image"])
def test_axe_finds_nothing_serious(opened, axe, system, looking):
    opened.show_as(system)
    if looking:
        opened.run("document.querySelector('.card').click()")
    assert opened.serious(axe) == []


def test_it_fits_a_narrow_screen(opened):
    assert opened.width_on(360) == 360


@pytest.mark.parametrize("labels", [[], [0, 0], [1]], ids=["no image", "normal alone", "anomalous alone"])
def test_it_loads_where_there_is_little_to_show(browser, tmp_path, labels):
    scores = np.linspace(0.2, 0.8, len(labels))
    (tmp_path / "report.html").write_text(page(report(), "", [record(scores=scores, labels=labels)]))
    browser.open(tmp_path / "report.html")
    browser.find("#position").send_keys(Keys.HOME)
    assert browser.driver.get_log("browser") == []
    assert sum(shown_counts(browser).values()) == len(labels)
    assert browser.text("#count").startswith(f"{len(labels)} image")


def test_the_mean_of_a_place_is_shown_as_evidence(browser, tmp_path):
    one, cell = sample(tmp_path), Cell((24.0, 40.0), (16.0, 16.0))
    (patch,), (mean,) = patches(one, [cell], VIEW), mean_patches([one] * 3, [cell], VIEW)
    shown = Evidence(level="a", patch=patch, nearest=[], mean=mean)
    picture = thumbnails().of(one, 0, None).model_copy(update={"evidence": shown})
    (tmp_path / "report.html").write_text(page(report(), "", [record(scores=[0.9], labels=[1], pictures=[picture])]))
    browser.open(tmp_path / "report.html")
    browser.run("document.querySelector('.card').focus()")
    browser.keys(Keys.ENTER)
    assert browser.texts(".evidence figcaption") == ["This image, at 50, 15", "Normal there, the mean of 3 images"]


@pytest.mark.parametrize(("per", "alarms", "found"), [("image", "25%", "66.7%"), ("part", "50%", "50%")])
def test_rates_count_parts_as_the_report_does(browser, tmp_path, per, alarms, found):
    # Normal parts 0 (scores 0.9 and 0.1) and 1 (0.2): a share of 1/2 and of 0, so 1/4 on average, and one part of two.
    # Anomalous parts 2 (0.8 and 0.7) and 3 (0.3): two images of three, and one part of two.
    one = record(scores=[0.9, 0.1, 0.2, 0.8, 0.7, 0.3], labels=[0, 0, 0, 1, 1, 1])
    one.group_of = packed([0, 0, 1, 2, 2, 3], "uint32")
    one.group_names = ["a", "b", "c", "d"]
    grouped = report()
    grouped.categories["tile"].threshold.per = per
    (tmp_path / "report.html").write_text(page(grouped, "", [one]))
    browser.open(tmp_path / "report.html")
    assert (browser.text("#alarm-rate"), browser.text("#found-rate")) == (alarms, found)
    browser.choose("group", "c")
    assert browser.texts(".card .file") == ["4.png", "3.png"]


def test_two_thousand_images_are_there_in_three_seconds(browser, tmp_path):
    random = np.random.default_rng(0)
    labels = (np.arange(2000) % 2).tolist()
    scores = random.normal(0.4, 0.1, 2000) + 0.2 * np.array(labels)
    one = sample(tmp_path, size=(256, 256))
    Image.fromarray(random.integers(0, 256, (256, 256, 3), np.uint8)).save(one.source)
    picture = Thumbnails(VIEW, 0, 31_000).of(one, 0, random.random((64, 64)).astype(np.float32))
    pictures = [picture.model_copy(update={"row": row}) for row in range(240)]
    text = page(report(), "", [record(scores=scores, labels=labels, pictures=pictures)])
    (tmp_path / "report.html").write_text(text)
    assert 5e6 < len(text) < 15e6
    took = []
    for _ in range(3):
        browser.open(tmp_path / "report.html")
        took.append(browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
        assert browser.text("#count").startswith("2,000 images of 2,000.")
    assert min(took) < 3000  # milliseconds
