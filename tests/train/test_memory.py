"""What a step holds: the state is given away and its buffers taken over, and the compiler says what it needs before."""

from functools import partial

import jax
import numpy as np
import pytest
from test_storage_dtype import BATCH, build

from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.profiling.cost import memory_cost, model_gflop, step_cost
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

VIT = "vit_s16:patch=8,width=32,depth=2,heads=2"


def prepare(unfreeze="all", accumulate=1, **options):
    model, variables = build(VIT, dtype=np.float32, **options)
    assignment = groups_lib.assign(variables["params"], model.groups())
    labels = groups_lib.select(assignment, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="adamw", learning_rate=1e-2))
    partitioner = make_partitioner("jit", devices=jax.devices()[:1])
    state = partitioner.shard_state(TrainState.create(variables, optimizer, jax.random.key(1)))
    step = partial(
        train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(accumulate=accumulate)
    )
    return state, step, partitioner


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["all", "1"])
def test_the_state_is_given_away_and_its_buffers_are_taken_over(unfreeze):
    state, step, partitioner = prepare(unfreeze)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    # Read before the step: on a CPU an address is all that tells one buffer from another.
    places = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}
    batch = partitioner.shard_batch(BATCH)
    compiled = partitioner.compile(step, state, batch, donate=True)
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= held
    after, _ = compiled(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after.params)} == places
    cost = memory_cost(compiled, after)
    batch_bytes = sum(x.nbytes for x in batch.values())
    assert held + batch_bytes <= cost["peak_bytes"] - cost["temp_bytes"] <= held + batch_bytes + 4096
    assert step_cost(step, compiled, after, batch) == {"step_gflop": model_gflop(step, after, batch), **cost}


@pytest.mark.slow
def test_the_work_counted_for_a_step_is_the_same_however_it_is_computed():
    gflop = []
    for options in ({}, {"scan": True}, {"remat": True}, {"accumulate": 2}):
        state, step, _ = prepare(**options)
        gflop.append(model_gflop(step, state, BATCH))
    assert gflop == [gflop[0]] * 4
