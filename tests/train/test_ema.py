import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.train import ema

GROUPS = {"stem/kernel": "frozen", "bn1/scale": "frozen", "bn2/scale": "body", "head/kernel": "head"}
VARIABLES = {
    "params": {
        "stem": {"kernel": jnp.array([1.0])},
        "bn1": {"scale": jnp.array([1.0])},
        "bn2": {"scale": jnp.array([2.0])},
        "head": {"kernel": jnp.array([0.3])},
    },
    "batch_stats": {"bn1": {"mean": jnp.array([5.0])}, "bn2": {"mean": jnp.array([6.0])}},
}


def test_only_what_training_moves_has_an_average():
    assert set(ema.trained_leaves(VARIABLES, GROUPS)) == {
        "params/bn2/scale",
        "params/head/kernel",
        "batch_stats/bn2/mean",
    }


def test_the_decay_warms_up():
    average = {"params/head/kernel": jnp.array([0.0])}
    variables = {"params": {"head": {"kernel": jnp.array([1.0])}}}
    for step, decay in ((0, 0.1), (1, 2 / 11), (30, 31 / 40), (1000, 0.9)):
        updated = ema.update(average, variables, decay=0.9, step=jnp.array(step), since={})
        np.testing.assert_allclose(updated["params/head/kernel"], [1 - decay], rtol=1e-6)


def test_a_leaf_that_began_later_warms_up_later_and_its_statistics_with_it():
    average = jax.tree.map(jnp.zeros_like, ema.trained_leaves(VARIABLES, GROUPS))
    updated = ema.update(average, VARIABLES, decay=0.9, step=jnp.array(30), since={"bn2/scale": 30, "head/kernel": 0})
    np.testing.assert_allclose(updated["params/bn2/scale"], [0.9 * 2.0], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats/bn2/mean"], [0.9 * 6.0], rtol=1e-6)
    np.testing.assert_allclose(updated["params/head/kernel"], [9 / 40 * 0.3], rtol=1e-6)


def test_an_average_that_has_arrived_stays_to_the_bit():
    average = ema.trained_leaves(VARIABLES, GROUPS)
    updated = ema.update(average, VARIABLES, decay=0.999, step=jnp.array(77), since={})
    for path, leaf in average.items():
        np.testing.assert_array_equal(updated[path], leaf)


def test_averaged_replaces_what_trains():
    variables = ema.averaged(VARIABLES, {"params/head/kernel": jnp.array([9.0])})
    assert variables["params"]["head"]["kernel"][0] == 9.0
    assert variables["batch_stats"] == VARIABLES["batch_stats"]
