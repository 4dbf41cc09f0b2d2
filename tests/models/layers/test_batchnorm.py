"""Batch normalisation has the statistics of PyTorch and Keras, and on CPUs and GPUs the same values and gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, assert_same_form, normal
from jax.sharding import NamedSharding, PartitionSpec

from jaxtl.models.layers.batchnorm import BatchNorm, normalize_batch
from jaxtl.parallel.backend import compiling_for

X = normal(4, 3, 3, 5, mean=2, scale=3)
VARIABLES = {
    "params": {"scale": normal(5, seed=1), "bias": normal(5, seed=2)},
    "batch_stats": {"mean": normal(5, seed=3), "var": np.square(normal(5, seed=4))},
}


def apply(norm, variables, x, *, averaged=False):
    # A new function each time: JAX keeps what it traced by function, whatever the backend was.
    def run(variables, x):
        return norm.apply(variables, x, use_running_average=averaged, mutable=["batch_stats"])

    return jax.jit(run)(variables, x)


def train(norm):
    """A function for `differentiate`: the normalised batch, and the new running statistics."""

    def function(x, params):
        return apply(norm, {"params": params, "batch_stats": VARIABLES["batch_stats"]}, x)

    return function


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("unbiased", [True, False], ids=["torch", "keras"])
def test_running_statistics(unbiased, backend):
    import torch  # Here, as a GPU runs other tests of this file, maybe without it.

    norm = BatchNorm(unbiased=unbiased)
    variables = jax.jit(partial(norm.init, use_running_average=True))(jax.random.key(0), X)
    with compiling_for(backend):
        y, updated = apply(norm, variables, X)
    reference = torch.nn.BatchNorm2d(5)
    expected = reference(torch.from_numpy(X).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], reference.running_mean, rtol=1e-5)
    variance = 0.9 + 0.1 * X.reshape(-1, 5).var(axis=0, ddof=int(unbiased))
    np.testing.assert_allclose(updated["batch_stats"]["var"], variance, rtol=1e-5)
    if unbiased:
        np.testing.assert_allclose(updated["batch_stats"]["var"], reference.running_var, rtol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_running_statistics_over_a_mapped_axis_are_those_of_the_global_batch(backend):
    x = normal(4, 2, 2, 3)
    norm = BatchNorm(relu=True)
    variables = jax.jit(partial(norm.init, use_running_average=True))(jax.random.key(0), x)
    whole = apply(norm, variables, x)
    mapped = norm.clone(axis_name="batch")
    with compiling_for(backend):
        y, parts = jax.vmap(lambda x: apply(mapped, variables, x), axis_name="batch")(x.reshape(2, 2, 2, 2, 3))
    np.testing.assert_allclose(y.reshape(x.shape), whole[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-6), parts, whole[1])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("relu", [False, True])
def test_frozen_statistics_are_used_and_kept(relu, backend):
    with compiling_for(backend):
        y, updated = apply(BatchNorm(relu=relu), VARIABLES, X, averaged=True)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], VARIABLES["batch_stats"])
    (scale, bias), (mean, var) = (VARIABLES[name].values() for name in ("params", "batch_stats"))
    expected = (X - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[1, 2])
def devices(request, monkeypatch):
    """One device has a reduction of two arrays, several have two."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("backend", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("relu", [False, True])
def test_value_gradients_and_statistics_are_the_same(relu, backend, devices):
    assert_same_form(train(BatchNorm(relu=relu)), X, VARIABLES["params"], backend=backend)


@pytest.mark.skipif(jax.device_count("cpu") < 2, reason="needs two devices")
def test_several_gpus_sum_what_each_has_and_gather_nothing():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices("cpu")[:2])
    whole, parted = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))

    def total(params, x):
        y, updated = train(BatchNorm(relu=True))(x, params)
        return (y**2).sum(), updated

    with compiling_for("gpu"):
        step = jax.jit(jax.grad(total, has_aux=True), in_shardings=(whole, parted), out_shardings=whole)
        text = step.lower(VARIABLES["params"], X).compile().as_text()
    assert "all-reduce(" in text
    assert "all-gather(" not in text


@pytest.mark.parametrize("options", [{"unbiased": False, "momentum": 0.99}, {"epsilon": 0.1}, {"dtype": jnp.float32}])
def test_on_a_gpu_options_hold(options):
    assert_same_form(train(BatchNorm(relu=True, **options)), X, VARIABLES["params"])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_rows_are_normalised_as_maps_are(backend):
    assert_same_form(train(BatchNorm()), X.reshape(-1, 5), VARIABLES["params"], backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_examples_of_a_vmapped_batch_stay_apart(backend):
    def function(x, params):
        return jax.vmap(lambda x: train(BatchNorm(relu=True))(x, params))(x)

    assert_same_form(function, X.reshape(2, 2, 3, 3, 5), VARIABLES["params"], backend=backend)


@pytest.mark.parametrize("relu", [False, True])
def test_mean_and_variance_are_those_of_the_batch(relu):
    scale, bias = VARIABLES["params"].values()
    y, mean, variance = normalize_batch(X, scale, bias, 1e-5, relu)
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, X.var((0, 1, 2)), rtol=1e-5)
    expected = (X - X.mean((0, 1, 2))) / X.std((0, 1, 2)) * scale + bias
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=1e-4)


def test_bfloat16_has_float32_statistics():
    with compiling_for("gpu"):
        y, updated = apply(BatchNorm(dtype=jnp.bfloat16), VARIABLES, X.astype(jnp.bfloat16))
    plain, expected = apply(BatchNorm(), VARIABLES, X.astype(jnp.bfloat16).astype(np.float32))
    assert y.dtype == jnp.bfloat16
    assert_close(y, plain, 2**-8)
    assert_close(updated, expected)


@pytest.mark.parametrize("options", [{"use_scale": False}, {"use_bias": False}])
def test_what_is_not_usual_is_left_to_flax(options):
    norm, flax = BatchNorm(unbiased=False, **options), nn.BatchNorm(momentum=0.9, **options)
    variables = jax.jit(partial(flax.init, use_running_average=True))(jax.random.key(0), X)
    with compiling_for("gpu"):
        found = apply(norm, variables, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, apply(flax, variables, X))
