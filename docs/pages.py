"""Screenshots of a run's page for the documentation; they take Debian's chromium and chromium-driver, and selenium."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

COMPARISON: Final = "compare-light"
"""The screenshot of the page of ``adkit compare``."""
NAMES: Final = ("report-light", "report-dark", "report-narrow", "report-evidence")
WIDE, NARROW = 1280, 390
COMPARED = 1150
"""Height of what is shown of a comparison."""
ROWS_BELOW = 535
"""Pixels of the grid of images that are shown: two rows of it and a bit."""


def draw(page: Path, path_of: Callable[[str], Path], names: Sequence[str] = NAMES) -> None:
    """Save screenshots of the page of a run on the textures, or of several such runs."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "force-prefers-reduced-motion"):
        options.add_argument(f"--{argument}")
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        for name in names:
            _save(_shot(driver, page, name), path_of(name))
    finally:
        driver.quit()


def _shot(driver: Chrome, page: Path, name: str) -> Image.Image:
    width = NARROW if name == "report-narrow" else WIDE
    theme = {"name": "prefers-color-scheme", "value": "dark" if name == "report-dark" else "light"}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == NARROW}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    driver.get(page.absolute().as_uri())
    if name == "report-narrow":
        return _cut(driver, 0, 0, width, 1500)
    if name == COMPARISON:
        return _cut(driver, 0, 0, width, COMPARED)
    _choose(driver, "#category", "2")
    if name != "report-dark":
        _choose(driver, "#tools [name=category]", "")
    _choose(driver, "#tools [name=sort]", "high")
    if name == "report-evidence":
        driver.execute_script("document.querySelector('.card').click(); document.activeElement.blur()")
    time.sleep(2)  # until all maps are drawn
    if name == "report-evidence":
        box = driver.execute_script("return document.getElementById('closer').getBoundingClientRect()")
        return _cut(driver, box["x"], box["y"], box["width"], box["height"])
    top = driver.execute_script("return document.getElementById('grid').getBoundingClientRect().top + scrollY")
    return _cut(driver, 0, 0, width, top + ROWS_BELOW)


def _choose(driver: Chrome, selector: str, value: str) -> None:
    script = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
    driver.execute_script(f"{script} e.dispatchEvent(new Event('change', {{ bubbles: true }}))", selector, value)


def _cut(driver: Chrome, x: float, y: float, width: float, height: float) -> Image.Image:
    clip: dict[str, Any] = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")


def _save(image: Image.Image, path: Path) -> None:
    """With 256 colors a file is a third as large."""
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
