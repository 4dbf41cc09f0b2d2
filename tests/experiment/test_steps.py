from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.experiment import steps
from jaxtl.experiment.build import build
from jaxtl.trees import flatten


def batch(rows=4, classes=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    return {"image": images, "label": np.arange(rows, dtype=np.int32) % classes, "mask": np.ones(rows, np.float32)}


def first_step(config):
    experiment = build(config)
    stage = experiment.plan.stages[0]
    optimizer = experiment.plan.make_optimizer(stage)
    step = steps.make_step(experiment, stage, optimizer)
    return experiment, stage, optimizer, step


def test_a_step_normalises_images_and_moves_what_trains(config):
    config.finetune.unfreeze = "head"
    experiment, stage, optimizer, step = first_step(config)
    state = steps.make_state(experiment, stage, optimizer)
    after, scalars = jax.jit(step)(state, batch())
    # A zero head predicts three classes alike.
    assert float(scalars["loss"]) == pytest.approx(np.log(3), abs=1e-6)
    before, moved = flatten(experiment.variables["params"]), flatten(after.params)
    assert {path for path in moved if not np.array_equal(before[path], moved[path])} == {"head/kernel", "head/bias"}
    features = jax.jit(partial(experiment.model.module.apply, train=False, stop="block1"))(
        experiment.variables, batch()["image"] / 127.5 - 1.0
    )
    gradient = features.T @ (1 / 3 - jax.nn.one_hot(batch()["label"], 3)) / 4
    # Adam's first step is the sign of the gradient, at the rate.
    np.testing.assert_allclose(moved["head/kernel"], -0.01 * np.sign(gradient), atol=1e-5)


def test_cached_batches_are_features(config):
    experiment, stage, optimizer, _ = first_step(config)

    class Head:
        def apply(self, variables, features, **_):
            return features @ variables["params"]["head"]["kernel"], {}

    step = steps.make_step(experiment, stage, optimizer, module=Head(), cached=True)
    state = steps.make_state(experiment, stage, optimizer)
    features = {**batch(), "image": np.ones((4, 16), np.float32)}
    _, scalars = jax.jit(step)(state, features)
    assert float(scalars["loss"]) == pytest.approx(np.log(3), abs=1e-6)


def test_the_abstract_state_is_that_of_the_real_one(config):
    config.train.ema_decay = 0.9
    experiment, stage, optimizer, _ = first_step(config)
    real = steps.make_state(experiment, stage, optimizer)
    abstract = steps.abstract_state(experiment, stage, optimizer)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)] for state in (real, abstract)]
    assert shapes[0] == shapes[1]


def test_frozen_parameters_lie_in_bfloat16_and_come_back_whole(config):
    config.finetune.unfreeze, config.finetune.frozen_dtype, config.train.precision = "head", "bfloat16", "bfloat16"
    experiment = build(config)
    placed = steps.shard_states(experiment)
    state = placed.partitioner.shard_state(placed.variables)
    assert state["params"]["block0"]["mlp"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert state["params"]["head"]["kernel"].dtype == jnp.float32
    back = placed.partitioner.gather(state)
    jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(experiment.variables))


def test_a_dummy_batch_has_the_shapes_of_the_data():
    dummy = steps.dummy_batch(16, 8)
    assert {key: (value.shape, value.dtype.name) for key, value in dummy.items()} == {
        "image": ((8, 16, 16, 3), "uint8"),
        "label": ((8,), "int32"),
        "mask": ((8,), "float32"),
    }
    assert steps.global_batch_shapes(dummy)["image"].shape == (8, 16, 16, 3)
