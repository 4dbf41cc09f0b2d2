import numpy as np
from linear import Linear, Maps, draw, normal

from jaxtl.explain.integrated_gradients import attributions, integrated_gradients


def test_of_a_linear_model_it_is_weight_times_pixel():
    model, images, classes = Linear(), normal(2, 4, 4, 3), np.array([2, 0])
    variables = draw(model)
    kernel = variables["params"]["head"]["kernel"].reshape(4, 4, 3, 3)
    expected = images * np.moveaxis(kernel, -1, 0)[classes]
    np.testing.assert_allclose(attributions(model, variables, images, classes, steps=2), expected, rtol=1e-5, atol=1e-6)
    found = integrated_gradients(model, variables, images, classes)
    np.testing.assert_allclose(found, np.maximum(expected.sum(-1), 0), rtol=1e-4, atol=1e-6)


def test_attributions_add_up_to_the_difference_of_the_logits():
    model, images, classes = Maps(), normal(4, 8, 8, 3), np.array([2, 0, 1, 1])
    variables = draw(model)
    logits, grey = (np.asarray(model.apply(variables, x))[np.arange(4), classes] for x in (images, 0 * images))
    found = np.asarray(attributions(model, variables, images, classes)).sum((1, 2, 3))
    np.testing.assert_allclose(found, logits - grey, atol=0.01 * np.abs(logits - grey).max())
