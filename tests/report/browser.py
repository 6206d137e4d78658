# SPDX-License-Identifier: Apache-2.0
"""A real browser, headless, for tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

IS_HERE = bool(shutil.which("chromium") and shutil.which("chromedriver"))
WHY_NOT = "needs chromium and chromium-driver"

Browser = Any  # selenium has types only where it is installed


def driver() -> Iterator[Browser]:
    """A browser that notes what its console says and what is asked of the network."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield found
    found.quit()


def show(browser: Browser, html: str, directory: Path) -> None:
    path = directory / "report.html"
    path.write_text(html, encoding="utf-8")
    browser.get(path.as_uri())


def colours(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def width(browser: Browser, pixels: int) -> None:
    metrics = {"width": pixels, "height": 1400, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(browser: Browser, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def click(browser: Browser, selector: str) -> None:
    browser.execute_script("arguments[0].click()", find(browser, selector))


def settle(browser: Browser) -> None:
    """Wait for two frames."""
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


# The pixels of a chart, read from a copy: reading a canvas itself makes the browser complain.
CANVAS = """
  const canvas = document.querySelector(arguments[0] + " canvas"), copy = document.createElement("canvas");
  copy.width = canvas.width;
  copy.height = canvas.height;
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
"""


def pixels(browser: Browser, chart: str) -> int:
    """How many pixels of a chart's canvas have something on them."""
    script = """
      let count = 0;
      for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
      return count;"""
    settle(browser)
    return int(browser.execute_script(CANVAS + script, chart))


def has_colour(browser: Browser, chart: str, variable: str) -> bool:
    """Whether a chart has pixels of the colour of a CSS variable."""
    script = """
      const probe = document.createElement("i");
      probe.style.color = "var(" + arguments[1] + ")";
      document.body.append(probe);
      const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
      probe.remove();
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] > 200 && wanted.every((value, k) => Math.abs(value - data[i + k]) < 12)) return true;
      return false;"""
    settle(browser)
    return bool(browser.execute_script(CANVAS + script, chart, variable))


def scale(browser: Browser, chart: int) -> list[float]:
    script = "const x = GaffCharts.charts[arguments[0]].u.scales.x; return [x.min, x.max]"
    return list(browser.execute_script(script, chart))
