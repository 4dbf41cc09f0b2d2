"""What stays of a layer, fitted to what all of it gave: against least squares by numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.compress.input_norms import NORMS
from jaxtl.compress.refitting import add_grams, refit, refit_rows
from jaxtl.trees import flatten


@pytest.fixture
def layer():
    """Inputs of which some say what others do, a kernel, and a mask."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(200, 8))
    return inputs.astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32), rng.random((8, 5)) < 0.5


def test_weights_that_stay_are_those_of_least_squares(layer):
    inputs, kernel, mask = layer
    found = np.asarray(refit(kernel, mask, inputs.T @ inputs))
    assert not found[~mask].any()
    damping = np.sqrt(0.01 * (inputs**2).sum(0).mean())
    rows = np.concatenate([inputs, damping * np.eye(8)])  # What the damping stands for: a ridge.
    for unit in range(5):
        stays = mask[:, unit]
        expected, *_ = np.linalg.lstsq(rows[:, stays], rows @ kernel[:, unit], rcond=None)
        np.testing.assert_allclose(found[stays, unit], expected, rtol=1e-3, atol=1e-4)
    cut = np.where(mask, kernel, 0)
    lost, left = (np.square(inputs @ kernel - inputs @ each).sum() for each in (cut, found))
    assert left < 0.2 * lost


def test_a_unit_that_loses_nothing_stays_as_it_is(layer):
    inputs, kernel, _ = layer
    found = refit(kernel, np.ones_like(kernel, bool), inputs.T @ inputs)
    np.testing.assert_allclose(found, kernel, rtol=1e-3, atol=1e-3)


def test_inputs_that_are_all_zero_leave_what_stays(layer):
    _, kernel, mask = layer
    zeros = np.zeros((8, 8), np.float32)
    found = np.asarray(refit(kernel, mask, zeros))
    np.testing.assert_allclose(found[mask], kernel[mask], rtol=1e-5)
    assert not found[~mask].any()
    np.testing.assert_allclose(refit_rows(kernel, np.array([1, 4]), zeros), kernel[[1, 4]], rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-36, 1e30])
def test_how_large_inputs_are_makes_no_difference(factor, layer):
    inputs, kernel, mask = layer
    gram = inputs.T @ inputs / len(inputs)
    np.testing.assert_allclose(refit(kernel, mask, gram * np.float32(factor)), refit(kernel, mask, gram), atol=1e-3)


def test_rows_that_stay_give_most_of_what_all_gave(layer):
    inputs, kernel, _ = layer
    rows = np.array([0, 2, 3, 5, 7])
    found = refit_rows(kernel, rows, inputs.T @ inputs)
    assert found.shape == (5, 5)
    lost = np.square(inputs @ kernel - inputs[:, rows] @ kernel[rows]).sum()
    assert np.square(inputs @ kernel - inputs[:, rows] @ found).sum() < 0.1 * lost


def test_products_are_added_up_of_matrices():
    sums, variables = measured("vit_ti16:depth=1,width=16,heads=2,patch=8,image_size=16")
    for path, leaf in flatten(variables["params"]).items():
        if path.endswith("kernel"):
            assert (path.replace("kernel", "gram") in sums) == (leaf.ndim == 2), path
    gram = sums["block0/mlp/fc2/gram"]
    np.testing.assert_allclose(jnp.diag(gram), sums["block0/mlp/fc2/squares"], rtol=1e-5)


def test_products_of_a_convolution_are_those_of_its_windows():
    sums, variables = measured("resnet20_cifar:blocks=1,width=4,image_size=16")
    leaves = flatten(variables["params"])
    kernels = [path for path in leaves if path.endswith("kernel")]
    assert {path.replace("kernel", "gram") for path in kernels} == {path for path in sums if path.endswith("gram")}
    kernel = leaves["conv1/kernel"]
    outputs = jax.lax.conv_general_dilated(IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    flat = kernel.reshape(-1, kernel.shape[-1])
    # What the products say of the outputs is what the outputs are.
    np.testing.assert_allclose(
        jnp.diag(flat.T @ sums["conv1/gram"] @ flat), jnp.square(outputs).sum((0, 1, 2)), rtol=1e-4
    )


IMAGES = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))


def measured(name):
    """Returns the sums over four images in two batches, by path, and the variables of a network."""
    module = models.build(name, num_classes=3)
    variables = module.init(jax.random.key(1), IMAGES)
    found = {}
    for half in (IMAGES[:2], IMAGES[2:]):
        with nn.intercept_methods(add_grams):
            _, changed = module.apply({**variables, **found}, half, mutable=[NORMS])
        found = dict(changed)
    return flatten(found[NORMS]), variables
