"""Steps on stacked blocks end where steps on single ones do, and are as long for many blocks as for few."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.finetune.param_groups import assign, multipliers, select
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train import ema
from jaxtl.train.optimizer import OptimizerOptions, decays, make_optimizer
from jaxtl.train.scanned_state import (
    by_scanned,
    factors_by_scanned,
    find_scanned,
    first_by_scanned,
    over_scanned,
    scanned_state,
    with_scanned,
)
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

VIT = "vit_s16:patch=8,width=32,depth={depth},heads=2"
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.arange(4, dtype=np.int32) % 3}


def test_neighbours_that_agree_share_a_stack():
    facts = {f"block{i}/{leaf}": fact for i, fact in enumerate("aabbba") for leaf in ("kernel", "bias")}
    facts["head/kernel"] = "a"
    blocks = [f"block{i}" for i in range(6)]
    assert find_scanned(blocks, facts) == ("block0-1", "block2-4")
    assert find_scanned(blocks, {**facts, "block3/bias": "c"}) == ("block0-1",)
    assert find_scanned((), facts) == ()


def test_values_by_path_become_values_by_stack():
    values = {"embed": 0, "block0/kernel": 1, "block1/kernel": 2, "block2/kernel": 3}
    assert by_scanned(values, ["block0-1"]) == {"embed": [0], "block0-1/kernel": [1, 2], "block2/kernel": [3]}
    assert factors_by_scanned({**values, "block2/kernel": 2.0}, ["block1-2"])["block1-2/kernel"] == 2.0
    backwards = dict(reversed(values.items()))
    assert factors_by_scanned(backwards, ["block0-1"])["block0-1/kernel"] == (1, 2)
    assert first_by_scanned(values, ["block0-1"]) == {"embed": 0, "block0-1/kernel": 1, "block2/kernel": 3}


def test_weight_decay_looks_at_one_block():
    shapes = {"block0-1": {"bias": jnp.zeros((2, 4)), "kernel": jnp.zeros((2, 4, 4))}, "head": {"bias": jnp.zeros(4)}}
    assert decays(shapes) == {"block0-1": {"bias": False, "kernel": True}, "head": {"bias": False}}


def parts(depth, unfreeze, stack, *, name="adamw", layer_decay=1.0, average=False, **options):
    """Returns partitioner, state on the devices and step of a model of some blocks, in stacks or not."""
    model = models.build(VIT.format(depth=depth), num_classes=3, image_size=32, options=models.ModelOptions(scan=True))
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    generator = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: generator.uniform(-0.1, 0.2, x.shape).astype(np.float32), shapes)
    assignment = assign(variables["params"], model.groups())
    labels = select(assignment, unfreeze)
    frozen = {path: label == "frozen" for path, label in labels.items()}
    scanned = find_scanned(model.alike(), frozen) if stack else ()
    groups = first_by_scanned(labels, scanned)
    optimizer = make_optimizer(
        groups,
        OptimizerOptions(name=name, learning_rate=lambda step: 0.01 * (step + 1), weight_decay=0.1),
        multipliers=factors_by_scanned(multipliers(assignment, layer_decay=layer_decay), scanned),
    )
    optimizer = over_scanned(optimizer, scanned)
    kept = ema.trained_leaves(variables, labels) if average else None
    partitioner = with_scanned(make_partitioner(devices=jax.devices()[:1]), scanned)
    state = partitioner.shard_state(TrainState.create(variables, optimizer, jax.random.key(2), ema=kept))
    step = partial(train_step, model=model, optimizer=optimizer, groups=groups, options=StepOptions(**options))
    return partitioner, state, step, scanned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unfreeze", "options", "names"),
    [
        ("all", {"layer_decay": 0.7, "clip_norm": 0.5, "average": True, "ema_decay": 0.5}, ["block0-3"]),
        ("2", {"name": "sgd"}, ["block0-2"]),
        ("3", {"name": "rmsprop", "accumulate": 2}, ["block0-1", "block2-3"]),
        ("biases", {"name": "sgd", "sam_rho": 0.05}, ["block0-3"]),
    ],
)
def test_steps_on_stacks_end_where_others_do(unfreeze, options, names):
    ends = []
    for stack in (False, True):
        partitioner, state, step, scanned = parts(5, unfreeze, stack, **options)
        assert list(scanned) == (names if stack else [])
        assert {"block0", *names} & set(state.params) == (set(names) if stack else {"block0"})
        step = jax.jit(step)
        for _ in range(3):
            state, scalars = step(state, BATCH)
        last = partitioner.gather(state)
        ends.append((last.params, last.ema, scalars))
    assert set(ends[0][1]) == set(ends[1][1])
    # AdamW takes small gradients for large ones, rounding and all.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), *ends)


@pytest.mark.slow
def test_a_step_is_as_long_for_many_blocks_as_for_few():
    lengths = []
    for depth in (4, 8):
        _, state, step, _ = parts(depth, "all", True, layer_decay=0.9)
        lengths.append(jax.jit(step).lower(state, BATCH).as_text().count(" = "))
    few, many = lengths
    assert few == many


def test_a_state_goes_to_the_devices_and_comes_back():
    partitioner, state, _, scanned = parts(5, "all", True, average=True)
    assert scanned == ("block0-3",)
    assert state.ema["params/block0-3/norm1/bias"].shape == (4, 32)
    back = partitioner.gather(state)
    again = scanned_state(back, scanned)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.ema), (state.params, state.ema))
    assert back.params["block3"]["mlp"]["fc1"]["kernel"].shape == (32, 128)
    # The variables alone, as evaluation takes them; and what has no parameters stays as it is.
    assert set(partitioner.shard_state(back.variables)["params"]) == set(state.params)
    assert partitioner.gather({"loss": jnp.ones(())}) == {"loss": jnp.ones(())}
