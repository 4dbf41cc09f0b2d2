"""The page to drop a photograph on, in a real browser."""

import numpy as np
import pytest
from browser import LOOKS, open_browser
from PIL import Image
from serve_client import CLASSES, running

pytestmark = LOOKS


@pytest.fixture(scope="module")
def browser():
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture
def photographs(tmp_path):
    for number, name in enumerate(CLASSES):
        pixels = np.zeros((20, 24, 3), np.uint8)
        pixels[..., number] = 200
        Image.fromarray(pixels).save(tmp_path / f"<b>{name}.png")
    (tmp_path / "notes.png").write_text("Buy milk")
    return [*(tmp_path / f"<b>{name}.png" for name in CLASSES), tmp_path / "notes.png"]


# As if files were dropped: the browser makes them of what the file chooser holds.
DROP = """
const files = new DataTransfer();
for (const file of document.getElementById("files").files) files.items.add(file);
const event = new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
document.getElementById("drop").dispatchEvent(event);
"""


def test_photographs_are_answered_in_the_page(browser, photographs):
    from selenium.webdriver.support.ui import WebDriverWait

    with running() as client:
        browser.get(f"http://127.0.0.1:{client.port}/")
        chooser = browser.find_element("id", "files")
        chooser.send_keys("\n".join(map(str, photographs)))

        def texts(selector):
            return [each.text for each in browser.find_elements("css selector", selector)]

        def wait_for(count):
            WebDriverWait(browser, 30).until(lambda _: len(texts("article")) == count)

        wait_for(4)
        assert texts("article h2") == list(CLASSES)
        assert texts("article .error") == ["the file is none of " + ", ".join(formats()) + ", which are taken"]
        assert texts("article:first-child th") == list(CLASSES)
        assert texts("article:first-child td")[0].startswith("100.0 %")
        assert [each.get_attribute("alt") for each in browser.find_elements("css selector", "img")] == [
            path.name for path in photographs
        ]
        assert browser.find_elements("css selector", "b") == []  # Names are texts, whatever they hold.
        browser.execute_script("document.getElementById('answers').replaceChildren()")
        browser.execute_script(DROP)
        wait_for(4)
        assert texts("article h2") == list(CLASSES)
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        browser.get(f"http://127.0.0.1:{client.port}/docs")
        assert "POST /predict" in texts("h2")
        assert browser.get_log("browser") == []
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []


def formats():
    from jaxtl.deploy.serve.reading import _taken

    return _taken()
