import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models.layers.inverted_residual import BlockSpec, InvertedResidual

NORM = {"epsilon": 1e-5}


def run(spec, x, zero=False):
    block = InvertedResidual(spec, NORM, "relu", "sigmoid", "centred")
    variables = jax.jit(block.init, static_argnums=2)(jax.random.key(0), x, False)
    if zero:
        variables["params"]["project_bn"]["scale"] = jnp.zeros(spec.width)
    return variables["params"], jax.jit(block.apply, static_argnums=2)(variables, x, False)


@pytest.mark.slow
def test_a_block_of_the_same_shape_adds_to_its_input():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32))
    np.testing.assert_array_equal(run(BlockSpec(8, 16, 3, 1, 4, "relu6"), x, zero=True)[1], x)
    np.testing.assert_array_equal(run(BlockSpec(16, 16, 3, 1, 4, "relu6"), x, zero=True)[1], jnp.zeros((2, 6, 6, 16)))


def test_what_is_as_wide_between_is_not_expanded():
    x = jnp.zeros((1, 6, 6, 8))
    assert set(run(BlockSpec(8, 8, 3, 1, 0, "relu"), x)[0]) == {"depthwise", "depthwise_bn", "project", "project_bn"}
    expanded, _ = run(BlockSpec(8, 16, 5, 1, 4, "relu"), x)
    assert {*expanded} - {"depthwise", "depthwise_bn", "project", "project_bn"} == {"expand", "expand_bn", "squeeze"}
    assert expanded["depthwise"]["kernel"].shape == (5, 5, 1, 16)


def test_a_fused_block_convolves_all_channels_at_once():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32))
    plain, _ = run(BlockSpec(8, 8, 3, 1, 0, "swish", fused=True), x)
    assert set(plain) == {"project", "project_bn"}
    assert plain["project"]["kernel"].shape == (3, 3, 8, 8)
    expanded, y = run(BlockSpec(12, 32, 3, 2, 0, "swish", fused=True), x)
    assert {name: layer["kernel"].shape for name, layer in expanded.items() if "kernel" in layer} == {
        "expand": (3, 3, 8, 32),
        "project": (1, 1, 32, 12),
    }
    assert y.shape == (2, 3, 3, 12)


@pytest.mark.parametrize(
    ("padding", "side", "corner"),
    [
        ("centred", 4, 4),
        ("tensorflow", 4, 9),
        ("shifted", 4, 9),
        # Of an odd side TensorFlow pads both ends, transformers the end alone.
        ("centred", 5, 4),
        ("tensorflow", 5, 4),
        ("shifted", 5, 9),
    ],
)
def test_paddings_at_stride_two(padding, side, corner):
    x = jnp.ones((1, side, side, 1))
    block = InvertedResidual(BlockSpec(1, 1, 3, 2, 0, "relu"), NORM, "relu", "sigmoid", padding)
    variables = jax.jit(block.init, static_argnums=2)(jax.random.key(0), x, False)
    variables["params"]["depthwise"]["kernel"] = jnp.ones((3, 3, 1, 1))
    variables["params"]["project"]["kernel"] = jnp.ones((1, 1, 1, 1))
    y = jax.jit(block.apply, static_argnums=2)(variables, x, False)
    assert y.shape == (1, 2 if padding == "shifted" else -(-side // 2), y.shape[1], 1)
    np.testing.assert_allclose(y[0, 0, 0, 0], corner, rtol=1e-4)
