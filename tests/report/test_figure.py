"""Charts by matplotlib."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

import pytest

from jaxtl.report import figure


def _draw():
    with figure.style():
        return figure.to_pixels(figure.new_figure()[0])


def test_a_drawing_waits_for_an_import_in_another_thread():
    # Without, a process found half of matplotlib: "module 'matplotlib' has no attribute 'get_data_path'".
    with ThreadPoolExecutor(1) as pool:
        with figure._importing:
            drawing = pool.submit(_draw)
            with pytest.raises(Late):
                drawing.result(timeout=0.3)
        assert drawing.result(timeout=60).shape[2] == 3
