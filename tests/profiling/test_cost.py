"""What a step costs: counted by hand for a network of 51 parameters, and bytes as the compiler names them."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxtl.feature_cache.features import Suffix
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.profiling.cost import computed_gflop, memory_cost, model_gflop, reference_cost, step_cost
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

ROWS = 6
IMAGES = jax.ShapeDtypeStruct((ROWS, 4, 4, 3), jnp.float32)
VARIABLES = jax.eval_shape(tiny.Tiny().init, jax.random.key(0), IMAGES)
OWNERS = groups_lib.assign(VARIABLES["params"], tiny.Tiny().groups())


def prepare(unfreeze, model=None, image=IMAGES, **options):
    """A step and the shapes that it takes."""
    labels = groups_lib.select(OWNERS, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="sgd", momentum=0.9))
    state = jax.eval_shape(lambda tree: TrainState.create(tree, optimizer, jax.random.key(0)), VARIABLES)
    step = partial(
        train_step, model=model or tiny.Tiny(), optimizer=optimizer, groups=labels, options=StepOptions(**options)
    )
    return step, state, {"image": image, "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32)}


@pytest.mark.parametrize(
    ("unfreeze", "flop"),
    [
        # Forward, the gradients of the kernels, and those of what lies between them: images have none.
        ("all", (2 * tiny.STEM) + (3 * tiny.BODY) + (3 * tiny.HEAD)),
        ("1", tiny.STEM + (2 * tiny.BODY) + (3 * tiny.HEAD)),
        ("head", tiny.STEM + tiny.BODY + (2 * tiny.HEAD)),
    ],
)
def test_a_step_is_counted_as_its_products(unfreeze, flop):
    arguments = prepare(unfreeze)
    assert model_gflop(*arguments) == ROWS * flop / 1e9
    assert computed_gflop(*arguments) == ROWS * flop / 1e9


def test_features_cost_what_is_computed_of_them():
    features = jax.ShapeDtypeStruct((ROWS, 4), jnp.float32)
    arguments = prepare("head", Suffix(tiny.Tiny(), "head"), features)
    assert model_gflop(*arguments) == ROWS * 2 * tiny.HEAD / 1e9


def test_parts_of_a_batch_are_the_batch():
    assert model_gflop(*prepare("all", accumulate=3)) == model_gflop(*prepare("all"))
    twice = model_gflop(*prepare("all", sam_rho=0.1))
    assert twice == pytest.approx(2 * model_gflop(*prepare("all")))  # Two gradients are two.


def test_arrays_count_as_their_shapes_do():
    step, state, batch = prepare("head")
    arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
    assert model_gflop(step, state, arrays) == model_gflop(step, state, batch)


def test_the_reference_is_evaluation_and_full_fine_tuning():
    forward = tiny.STEM + tiny.BODY + tiny.HEAD
    cost = {"forward_gflop": ROWS * forward / 1e9, "full_gflop": ROWS * (3 * forward - tiny.STEM) / 1e9}
    assert reference_cost(tiny.Tiny(), VARIABLES, OWNERS, IMAGES) == cost
    arrays = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), VARIABLES)
    assert reference_cost(tiny.Tiny(), arrays, OWNERS, IMAGES) == cost


def compiled(**sizes):
    """Stands in for a compiled step, as far as its memory goes."""
    return SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    )


def test_a_buffer_that_is_taken_over_counts_once():
    state = TrainState.create({"params": {"w": jnp.ones((5, 2))}}, optax.adam(1.0), jax.random.key(0))
    found = memory_cost(compiled(argument=1000, output=700, alias=600, temp=50), state)
    # Two moments of ten numbers, and the count of the steps.
    assert found == {"optimizer_bytes": 84, "temp_bytes": 50, "peak_bytes": 1150}


@pytest.mark.parametrize(("unfreeze", "trained"), [("all", 51), ("1", 35), ("head", 15)])
def test_the_optimizer_holds_nothing_of_what_is_frozen(unfreeze, trained):
    step, state, batch = prepare(unfreeze)
    analysed = compiled(argument=10, output=10, alias=10, temp=0)
    assert memory_cost(analysed, state)["optimizer_bytes"] == 4 * trained
    cost = step_cost(step, analysed, state, batch)
    assert cost == {
        "step_gflop": model_gflop(step, state, batch),
        "optimizer_bytes": 4 * trained,
        "temp_bytes": 0,
        "peak_bytes": 10,
    }


def test_memory_of_a_step_that_was_compiled():
    step, state, batch = prepare("head")
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.opt_state)))
    read = sum(leaf.size * leaf.dtype.itemsize for leaf in batch.values())
    kept, given = (
        memory_cost(jax.jit(step, donate_argnums=donated).lower(state, batch).compile(), state) for donated in ((), 0)
    )
    # The state that goes in and the one that comes out, unless the second takes the room of the first.
    assert kept["peak_bytes"] - kept["temp_bytes"] >= 2 * held + read
    assert held + read <= given["peak_bytes"] - given["temp_bytes"] < 2 * held + read
