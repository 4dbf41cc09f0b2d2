import numpy as np
from linear import Linear, draw, normal

from jaxtl.explain.faithfulness import area, blur, center_map, deletion_curve, insertion_curve


def test_curves_of_a_linear_model_by_hand():
    model, images, classes = Linear(), normal(2, 4, 4, 3), np.array([2, 0])
    variables = draw(model)
    maps = normal(2, 4, 4, seed=1)
    maps[1, :2] = 5.0  # Equal ones go row by row.
    order = np.argsort(-maps.reshape(2, 16), axis=1, kind="stable")

    def probability(x):
        logits = np.asarray(model.apply(variables, x))
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return shares[np.arange(2), classes]

    deleted, inserted = images.reshape(2, 16, 3).copy(), np.array(blur(images)).reshape(2, 16, 3)
    expected = [[probability(deleted.reshape(images.shape))], [probability(inserted.reshape(images.shape))]]
    for part in range(4):
        rows, taken = np.arange(2)[:, None], order[:, 4 * part : 4 * part + 4]
        deleted[rows, taken] = 0
        inserted[rows, taken] = images.reshape(2, 16, 3)[rows, taken]
        expected[0].append(probability(deleted.reshape(images.shape)))
        expected[1].append(probability(inserted.reshape(images.shape)))
    found = [curve(model, variables, images, classes, maps, steps=4) for curve in (deletion_curve, insertion_curve)]
    np.testing.assert_allclose(found, np.moveaxis(np.array(expected), 1, 2), rtol=1e-4)


def test_area_is_that_of_trapezoids():
    np.testing.assert_allclose(area(np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])), [0.5, 1.0])


def test_blurring_keeps_an_even_image_and_the_centre_is_in_the_middle():
    even = np.full((1, 40, 30, 3), 0.7, np.float32)
    np.testing.assert_allclose(blur(even), even, rtol=1e-5)
    assert np.asarray(blur(normal(1, 40, 40, 3))).std() < 0.25
    assert np.unravel_index(center_map(5, 7).argmax(), (5, 7)) == (2, 3)
