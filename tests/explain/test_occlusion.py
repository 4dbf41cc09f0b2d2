import numpy as np
from linear import Linear, draw, normal

from jaxtl.explain.occlusion import occlusion


def test_of_a_linear_model_it_is_the_mean_of_what_the_patches_over_a_pixel_hide():
    model, images, classes = Linear(), normal(2, 4, 4, 3), np.array([2, 0])
    variables = draw(model)
    kernel = variables["params"]["head"]["kernel"].reshape(4, 4, 3, 3)
    shares = (images * np.moveaxis(kernel, -1, 0)[classes]).sum(-1)
    np.testing.assert_allclose(
        occlusion(model, variables, images, classes, window=1), np.maximum(shares, 0), rtol=1e-3, atol=1e-5
    )
    hidden = shares.reshape(2, 2, 2, 2, 2).sum((2, 4))
    expected = np.maximum(hidden, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(
        occlusion(model, variables, images, classes, window=2, stride=2), expected, rtol=1e-3, atol=1e-5
    )
