"""The page in a real browser: without an error, with tables that can be sorted, and as wide as its window."""

import itertools
import json

import numpy as np
import pytest
from browser import LOOKS, open_browser

from jaxtl.report.run_page import run_page

pytestmark = LOOKS


@pytest.fixture(scope="module")
def browser():
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, facts, tmp_path):
    """Opens the page of 24 classes; returns the browser and the facts."""
    rng = np.random.default_rng(1)
    labels = np.arange(240) % 24
    made = facts(24, labels=labels, logits=rng.normal(size=(240, 24)) + 2 * np.eye(24)[labels])
    path = tmp_path / "index.html"
    path.write_text(run_page(made, {}), encoding="utf-8")
    browser.get(path.as_uri())
    return browser, made


def column(browser, number):
    script = f"return [...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[{number}].textContent)"
    return browser.execute_script(script)


def test_nothing_is_wrong_and_nothing_is_loaded(opened):
    browser, _ = opened
    assert browser.get_log("browser") == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    broken = "return [...document.images].filter(i => { i.loading = 'eager'; return i.complete && !i.naturalWidth })"
    assert browser.execute_script(broken + ".length") == 0


def test_figures_are_those_of_results_json(opened):
    browser, made = opened
    results = json.loads(json.dumps(made.results))["test"]
    cards = browser.execute_script("return [...document.querySelectorAll('.card dd')].map(e => e.textContent)")
    assert cards[0] == f"{100 * results['accuracy']:.1f} %"
    assert dict(zip(column(browser, 0), column(browser, 2), strict=True)) == {
        name: f"{100 * metrics['f1']:.1f} %" for name, metrics in results["per_class"].items()
    }


def test_a_press_sorts_and_another_turns_it_round(opened):
    browser, made = opened
    recalls = [row["recall"] for row in made.results["test"]["per_class"].values()]
    button = browser.find_elements("css selector", "table.sortable thead button")[4]
    button.click()
    assert column(browser, 4) == [f"{100 * recall:.1f} %" for recall in sorted(recalls, reverse=True)]
    assert browser.execute_script("return document.querySelectorAll('[aria-sort=descending]').length") == 1
    # By the keyboard, too.
    button.send_keys("\ue007")
    assert column(browser, 4) == [f"{100 * recall:.1f} %" for recall in sorted(recalls)]
    browser.find_elements("css selector", "table.sortable thead button")[0].click()
    assert column(browser, 0) == sorted(made.classes)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_no_wider_than_its_window(opened, width):
    browser, _ = opened
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_paper(opened, scheme):
    browser, _ = opened
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )

    def luminance(selector, property):
        script = f"return getComputedStyle(document.querySelector('{selector}')).{property}"
        rgb = np.array([int(x) for x in browser.execute_script(script).strip("rgba()").split(",")[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    paper = luminance("body", "backgroundColor")
    for selector in ("body", ".quiet", "nav a", ".bad"):
        light, dark = sorted([paper, luminance(selector, "color")], reverse=True)
        # WCAG 2.2, level AA.
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector
    assert (paper > 0.5) == (scheme == "light")


def test_each_picture_has_words_and_headings_go_down_one_by_one(opened):
    browser, _ = opened
    without = "return document.querySelectorAll('img:not([alt]), img[alt=\"\"], svg:not([aria-label])').length"
    assert browser.execute_script(without) == 0
    script = "return [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))"
    levels = browser.execute_script(script)
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
