import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from jaxtl.report.figure import new_figure, style, to_svg
from jaxtl.report.page import image_uri, number, percent, render


def test_text_is_escaped_and_a_missing_name_is_an_error(facts):
    with pytest.raises(UndefinedError):
        render("run.html", {"headline": "<b>"})


def test_numbers_for_readers():
    assert [percent(share) for share in (0.12345, 0.0, None)] == ["12.3 %", "0.0 %", "–"]
    assert [number(value) for value in (1234567, 0.000123456, 12.0, None)] == ["1,234,567", "0.0001235", "12", "–"]


def test_a_picture_is_its_own_address():
    uri = image_uri(np.full((300, 200, 3), 128, np.uint8), side=160)
    header, _, content = uri.partition(",")
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (107, 160)
    # Transparent ones, too: a JPEG has none of that.
    assert image_uri(Image.new("RGBA", (4, 4))).startswith(header)


def test_a_chart_has_the_colour_of_the_text_and_a_name():
    def draw():
        with style():
            figure, axes = new_figure()
            axes.plot([0, 1], [0, 1])
            axes.set_title("a < b")
            return to_svg(figure, 'rising "line"')

    svg = draw()
    assert 'aria-label="rising &#34;line&#34;"' in svg
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "a &lt; b</text>" in svg
    assert draw() == svg
