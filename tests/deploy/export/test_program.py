import jax
import numpy as np
import pytest
from programs import CLASSES, RESNET, program

from jaxtl.data.normalize import normalize
from jaxtl.deploy.export.program import normalized
from jaxtl.deploy.export.verification import draw_views


@pytest.fixture(scope="module")
def resnet():
    return program(RESNET)


def test_pixels_are_normalised_as_in_training():
    views = draw_views(16)
    pixels = program().pixels
    np.testing.assert_allclose(normalized(views, pixels), normalize(views, pixels), rtol=0, atol=1e-6)


def test_logits_are_those_of_the_module_with_the_pixels_within_or_not(resnet):
    views = draw_views(32, count=3)
    expected = resnet.module.apply(resnet.variables, normalized(views, resnet.pixels))
    outside = jax.jit(lambda x: resnet.logits(x, with_pixels=False))(normalized(views, resnet.pixels))
    within = jax.jit(lambda x: resnet.logits(x, with_pixels=True))(views)
    for found in (outside, within, resnet.reference(views).logits):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_reference_has_drawn_views_unless_some_are_given_and_any_number_of_them(resnet):
    drawn = resnet.reference()
    assert (drawn.views.shape, drawn.logits.shape, drawn.tolerance) == ((4, 32, 32, 3), (4, 5), 1e-4)
    many = resnet.reference(draw_views(32, count=10), tolerance=0.02)
    assert (many.logits.shape, many.tolerance) == ((10, 5), 0.02)
    np.testing.assert_allclose(many.logits[:4], drawn.logits, rtol=0, atol=1e-5)


def test_facts_are_plain_values(resnet):
    facts = resnet.facts()
    assert (facts["classes"], facts["probabilities"], facts["calibration"]) == (list(CLASSES), "softmax", None)
    assert facts["pixels"]["resize"] == 40
    assert resnet.shape == (32, 32, 3)
    assert program(channels=1).shape == (32, 32, 1)
