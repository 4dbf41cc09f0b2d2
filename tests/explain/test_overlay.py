import numpy as np

from jaxtl.explain.overlay import overlay, to_unit


def test_a_map_is_stretched_and_an_even_one_shows_nothing():
    maps = np.array([[[1.0, 3.0], [5.0, 5.0]], [[2.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
    np.testing.assert_allclose(to_unit(maps)[0], [[0, 0.5], [1, 1]])
    assert not to_unit(maps)[1:].any()
    one = np.zeros((1, 20, 20), np.float32)
    one[0, 3, 4] = 7
    np.testing.assert_array_equal(to_unit(one), one / 7)


def test_the_image_is_grey_under_the_colours():
    images = np.full((1, 2, 2, 3), (200, 100, 0), np.uint8)
    found = overlay(images, np.array([[[0.0, 0.0], [0.0, 1.0]]]))
    assert (found.shape, found.dtype) == ((1, 2, 2, 3), np.uint8)
    # Inferno begins near black and ends in light yellow.
    assert np.ptp(found[0, 0, 0].astype(int)) <= 2
    assert found[0, 1, 1].sum() > 2 * found[0, 0, 0].sum()
