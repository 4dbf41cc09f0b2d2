import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.parallel import make_placement


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_put_and_get(name):
    placement = make_placement(name)
    state = {"a": jnp.arange(3.0), "key": jax.random.key(0)}
    placed = placement.put_state(state)
    np.testing.assert_array_equal(placement.get(placed)["a"], [0, 1, 2])
    assert placement.devices == jax.device_count() == 2


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_each_device_holds_half_of_the_rows(name):
    placement = make_placement(name)
    batch = placement.put_batch({"image": np.arange(8.0).reshape(4, 2)})

    def step(weights, batch, axis_name=None):
        total = (batch["image"] * weights[None]).sum()
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    weights = placement.put_state(jnp.ones(2))
    assert float(placement.get(placement.compile(step, weights, batch)(weights, batch))) == 28


@pytest.mark.parametrize("name", ["jit", "pmap"])
def test_donation_reuses_the_buffers_and_spares_the_original(name):
    placement = make_placement(name)
    original = jnp.zeros((256, 256))
    placed = placement.put_state(original)
    batch = placement.put_batch({"x": np.ones((2, 256), np.float32)})
    compiled = placement.compile(lambda w, b, axis_name=None: (w + 1.0, {}), placed, batch, donate=True)
    after, _ = compiled(placed, batch)
    assert placed.is_deleted()
    np.testing.assert_array_equal(placement.get(after), 1.0)
    np.testing.assert_array_equal(original, 0.0)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="jit, pmap"):
        make_placement("tpu")
