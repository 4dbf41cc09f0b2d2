"""A real browser, for tests that look at pages; without one they say so."""

import shutil

import pytest

LOOKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no browser: `apt-get install chromium chromium-driver` on Debian",
    ),
]


def open_browser():
    """Opens Chromium without a window; who opens it calls its `quit`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
