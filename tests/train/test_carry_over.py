import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.finetune.stages import make_stages
from jaxtl.train.carry_over import carry_over
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState

VARIABLES = {
    "params": {
        "base": {"kernel": jnp.full((2, 2), 1.0)},
        "body": {"kernel": jnp.full((2, 2), 2.0)},
        "head": {"kernel": jnp.full((2, 2), 3.0)},
    },
    "batch_stats": {"body": {"mean": jnp.full((2,), 4.0)}},
}
LABELS = [
    {"base/kernel": "frozen", "body/kernel": "frozen", "head/kernel": "head"},
    {"base/kernel": "frozen", "body/kernel": "body", "head/kernel": "head"},
    {"base/kernel": "base", "body/kernel": "body", "head/kernel": "frozen"},
]
STAGES = make_stages([2, 2, 2], LABELS, [1.0, 1.0, 1.0])
OPTIMIZERS = [make_optimizer(stage.labels, OptimizerOptions(name="sgd", momentum=0.9)) for stage in STAGES]


def velocities(state):
    """The momentum of each parameter, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return {path[-2].key: float(leaf[0, 0]) for path, leaf in leaves if leaf.ndim == 2}


def trained(ema):
    """The state at the end of the first stage, with a momentum of 7."""
    state = TrainState.create(VARIABLES, OPTIMIZERS[0], jax.random.key(0), ema=ema)
    moved = jax.tree.map(lambda x: jnp.full_like(x, 7.0) if x.ndim else x, state.opt_state)
    return state.replace(opt_state=moved, step=jnp.asarray(2))


def test_what_goes_on_keeps_its_momentum_and_what_leaves_loses_it():
    first = trained(None)
    assert velocities(first) == {"head": 7.0}
    second = carry_over(first, STAGES[1], OPTIMIZERS[1])
    assert velocities(second) == {"head": 7.0, "body": 0.0}
    moved = jax.tree.map(lambda x: x + 1 if x.ndim else x, second.opt_state)
    third = carry_over(second.replace(opt_state=moved), STAGES[2], OPTIMIZERS[2])
    # The body goes on from its own momentum; the head has stopped.
    assert velocities(third) == {"base": 0.0, "body": 1.0}
    assert jax.tree.structure(third.opt_state) == jax.tree.structure(OPTIMIZERS[2].init(VARIABLES["params"]))


def test_averages_go_on_or_start_from_the_weights_as_they_are():
    state = carry_over(trained({"params/head/kernel": jnp.full((2, 2), 5.0)}), STAGES[1], OPTIMIZERS[1])
    assert {path: float(leaf.reshape(-1)[0]) for path, leaf in state.ema.items()} == {
        "params/head/kernel": 5.0,
        "params/body/kernel": 2.0,
        "batch_stats/body/mean": 4.0,
    }
    assert carry_over(trained(None), STAGES[1], OPTIMIZERS[1]).ema == {}


def test_weights_and_steps_stay():
    state = carry_over(trained(None), STAGES[1], OPTIMIZERS[1])
    assert int(state.step) == 2
    jax.tree.map(np.testing.assert_array_equal, state.variables, VARIABLES)
