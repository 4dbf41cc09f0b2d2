import numpy as np

from jaxtl.audit.looks import measure
from jaxtl.audit.quality import few_images, find_poor


def test_poor_images_and_no_others(photograph, blurred):
    pictures = [np.asarray(photograph(seed)) for seed in range(12)]
    pictures += [
        np.full((90, 120, 3), 130, np.uint8),
        (pictures[0] // 5).astype(np.uint8),
        np.asarray(blurred(photograph(1))),
        np.asarray(photograph(2, size=(600, 90))),
        np.asarray(photograph(3, size=(30, 15))),
        np.asarray(photograph(4, size=(480, 450))),
    ]
    found = find_poor({i: measure(picture) for i, picture in enumerate(pictures)})
    assert [(i, problem) for i, problem, _ in found] == [
        (12, "blank"),
        (13, "dark"),
        (14, "blurred"),
        (15, "odd size"),
        (16, "odd size"),
        (17, "odd size"),
    ]
    assert found[4][2] == "30 x 15 pixels; the usual shorter side is 90"
    assert find_poor({}) == []


def test_classes_with_few_images():
    assert few_images(np.array([50, 3, 12, 0, 9]), tuple("abcde")) == {"d": 0, "b": 3, "e": 9}
    assert few_images(np.array([1000, 900, 80]), tuple("abc")) == {"c": 80}
