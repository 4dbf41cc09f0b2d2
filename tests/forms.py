"""Compares the forms that operations have for the backends: what they give, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.parallel.backend import compiling_for


def differentiate(function, *arguments, backend):
    """Compiles a function for a backend and differentiates a weighted sum of what it gives, by its arguments.

    Args:
      function: gives (output, auxiliary).
      *arguments: pytrees of arrays.
      backend: what `jaxtl.parallel.backend.backend` says while it is traced; None for where it runs.

    Returns:
      The output, the auxiliary results and the gradients, as NumPy arrays.
    """

    # A new function each time: JAX keeps what it traced by function, whatever the backend was.
    def total(*arguments):
        output, auxiliary = function(*arguments)
        weights = np.random.default_rng(7).normal(size=output.shape).astype(np.float32)
        return (output.astype(jnp.float32) * weights).sum(), (output, auxiliary)

    with compiling_for(backend or ""):
        compiled = jax.jit(jax.grad(total, argnums=tuple(range(len(arguments))), has_aux=True))
        gradients, (output, auxiliary) = compiled(*arguments)
    return jax.device_get({"output": output, "auxiliary": auxiliary, "gradients": gradients})


def assert_close(found, expected, tolerance=1e-5):
    """Every array is right to a share of its largest element, or of a tenth of the largest of all."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    largest = max((np.abs(np.asarray(x, np.float32)).max(initial=0.0) for x in jax.tree.leaves(expected)), default=0.0)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(expected)]
    for path, a, b in zip(paths, jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        scale = max(np.abs(b).max(initial=0.0), largest / 10)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=path)


def assert_same_form(function, *arguments, backend="gpu", tolerance=1e-5):
    """What a backend gets is what the plain form gives, value and gradients."""
    found, expected = (differentiate(function, *arguments, backend=name) for name in (backend, "none"))
    for part in ("output", "auxiliary", "gradients"):
        assert_close(found[part], expected[part], tolerance)


def normal(*shape, seed=0, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(mean, scale, shape).astype(np.float32)


def filled(model, images):
    """Variables that keep the size of what goes through, and are not zero anywhere, as a new head is."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    generator = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return generator.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def run(model, images, **options):
    """A function of params and the other variables for `differentiate`: the logits, and what training updates."""

    def function(params, rest):
        output, updated = model.apply({"params": params, **rest}, images, mutable=["batch_stats"], **options)
        return output, updated

    return function
