import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.train.state import TrainState, with_params

VARIABLES = {"params": {"w": jnp.array([1.0, 2.0])}, "batch_stats": {"bn": {"mean": jnp.array([3.0])}}}


def test_a_state_before_its_first_step():
    state = TrainState.create(VARIABLES, optax.trace(0.9), jax.random.key(7))
    assert (int(state.step), state.step.dtype) == (0, jnp.int32)
    assert (list(state.params), list(state.model_state)) == (["w"], ["batch_stats"])
    np.testing.assert_array_equal(state.opt_state.trace["w"], [0.0, 0.0])
    np.testing.assert_array_equal(jax.random.key_data(state.rng), [0, 7])
    assert (state.ema, state.scaling) == ({}, {})
    assert state.variables == VARIABLES


def test_averages_and_loss_scaling_are_there_when_asked_for():
    average = {"params/w": jnp.array([1.0, 2.0])}
    state = TrainState.create(VARIABLES, optax.identity(), jax.random.key(0), ema=average, loss_scale=8.0)
    assert state.ema == average
    assert state.ema is not average
    assert {key: float(value) for key, value in state.scaling.items()} == {"scale": 8.0, "streak": 0.0}


def test_a_state_is_a_tree_of_arrays():
    state = TrainState.create(VARIABLES, optax.trace(0.9), jax.random.key(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert len(jax.tree.leaves(state)) == 5  # Step, weight, mean, momentum and key.


def test_parameters_are_changed_in_states_and_variables_and_nothing_else():
    def double(params):
        return {"w": 2 * params["w"]}

    state = with_params(TrainState.create(VARIABLES, optax.identity(), jax.random.key(0)), double)
    np.testing.assert_array_equal(state.params["w"], [2.0, 4.0])
    changed = with_params(VARIABLES, double)
    np.testing.assert_array_equal(changed["params"]["w"], [2.0, 4.0])
    assert changed["batch_stats"] is VARIABLES["batch_stats"]
    np.testing.assert_array_equal(VARIABLES["params"]["w"], [1.0, 2.0])
    scalars = {"loss": 1.0}
    assert with_params(scalars, double) is scalars
