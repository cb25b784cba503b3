"""Debian's Chromium, headless, with a page from a file in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait


def axe_script(folder: Path) -> str:
    """The script of axe-core, fetched from npm into ``folder``."""
    subprocess.run(["npm", "pack", "--silent", "axe-core@4.10.3"], cwd=folder, check=True, timeout=120)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


class Browser:
    """A browser and what tests ask of the page in it."""

    def __init__(self) -> None:
        programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
        if missing := [name for name, path in programs.items() if path is None]:
            pytest.fail(f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver, as .ci/run does")
        options = ChromeOptions()
        options.binary_location = str(programs["chromium"])
        # The sandbox takes rights that a container's root has not; the page is our own.
        # Where pages scroll smoothly, what is to be clicked is still moving.
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "force-prefers-reduced-motion"):
            options.add_argument(f"--{argument}")
        options.add_argument("--window-size=1280,900")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options=options, service=Service(str(programs["chromedriver"])))

    def open(self, page: Path) -> None:
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(page.absolute().as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent.trim()", selector))

    def texts(self, selector: str) -> list[str]:
        """The text of each element, in the order of the page."""
        return list(
            self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())", selector)
        )

    def choose(self, name: str, text: str) -> None:
        """Choose another option of the tools over the images by its text; the page has heard of it then."""
        self.run(
            "document.getElementById('tools').addEventListener('change', () => (window.heard = 1), { once: true })"
        )
        Select(self.find(f'#tools [name="{name}"]')).select_by_visible_text(text)
        self.until("const once = window.heard; delete window.heard; return once")

    def keys(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def show_as(self, system: str) -> None:
        """Let the system be ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": system}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def serious(self, axe: str) -> list[tuple[str, list[Any]]]:
        """What axe-core finds in the page that is serious, with some of the elements."""
        self.run(axe)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run({ resultTypes: ['violations'] }).then((found) => done(found.violations))"
        )
        return [
            (one["id"], [node["target"] for node in one["nodes"]][:3])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]

    def width_on(self, narrow: int) -> int:
        """How wide the page is on a screen of this width."""
        size = {"width": narrow, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            return int(self.run("return document.documentElement.scrollWidth"))
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def until(self, script: str) -> Any:
        """Wait until a script gives something, and return that."""
        return WebDriverWait(self.driver, 20).until(lambda driver: driver.execute_script(script))

    @property
    def requests(self) -> Sequence[str]:
        """The addresses of all that was asked for since the page was opened, other than what it holds itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = (m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent")
        return [url for url in sent if not url.startswith("data:")]
