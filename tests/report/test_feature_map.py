import re

import numpy as np

from jaxtl.report.feature_map import map_chart


def titles(classes, count):
    places = np.random.default_rng(0).normal(size=(count, 2))
    names = [f"<{i}>.jpg" for i in range(count)]
    svg = map_chart(places, np.arange(count) % classes, names, [f"class {c}" for c in range(classes)], "t-SNE, test")
    return svg, re.findall(r"<title>(.*?)</title>", svg)


def test_each_image_has_its_name_and_class():
    svg, found = titles(3, 7)
    assert sorted(found) == sorted(f"&lt;{i}&gt;.jpg: class {i % 3}" for i in range(7))
    assert 'aria-label="t-SNE, test of 7 images of 3 classes."' in svg


def test_the_name_stands_at_the_place_of_its_image():
    places = np.array([[0.0, 0.0], [1.0, 5.0], [2.0, 1.0]])
    svg = map_chart(places, np.array([1, 0, 1]), ["left", "middle", "right"], ["a", "b"], "PCA")
    points = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*><title>(\w+)', svg)
    assert [name for _, _, name in sorted(points, key=lambda point: float(point[0]))] == ["left", "middle", "right"]
    assert min(points, key=lambda point: float(point[1]))[2] == "middle"


def test_many_classes_have_no_legend():
    svg, found = titles(102, 204)
    assert len(found) == 204
    assert ">class 5</text>" not in svg
