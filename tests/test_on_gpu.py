"""A GPU gives what a CPU gives: small models, training steps, counts and donation, on the default backend.

On a machine with a GPU, where other tests would need torch and keras,

    JAX_PLATFORMS=cuda,cpu pytest -m gpu -n 0 tests/models tests/test_on_gpu.py

runs these and the tests of the models' forms on it. On a CPU they run with all the others, most in the slow part.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, filled, normal

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.models.layers.attention import FORMS
from jaxtl.parallel.backend import compiling_for
from jaxtl.profiling.flops import count_flops
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step

# A CPU has no cuDNN, and cuDNN no float32.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:attention 'cudnn' is refused")]

# 17 tokens, an odd number, and a head as wide as those of the published models.
VIT = "vit_s16:patch=8,width=64,depth=2,heads=1"
RESNET = "resnet50:stages=1-1,width=16"
SIZE = 32
BATCH = {"image": normal(8, SIZE, SIZE, 3), "label": np.arange(8) % 3}


def prepare(name, **options):
    """A model, a state of SGD, and the step that trains it."""
    model = models.build(name, num_classes=3, image_size=SIZE, options=models.ModelOptions(**options))
    variables = filled(model, BATCH["image"])
    labels = groups_lib.select(groups_lib.assign(variables["params"], model.groups()), "all")
    optimizer = make_optimizer(labels, OptimizerOptions(name="sgd", learning_rate=1e-3))
    state = TrainState.create(jax.tree.map(jnp.asarray, variables), optimizer, jax.random.key(2))
    return model, state, partial(train_step, model=model, optimizer=optimizer, groups=labels)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize(
    "name", [pytest.param(VIT, id="vit"), pytest.param(RESNET, id="resnet", marks=pytest.mark.slow)]
)
def test_logits_are_those_of_a_cpu(name, dtype, tolerance):
    model = models.build(name, num_classes=3, image_size=SIZE, options=models.ModelOptions(dtype=dtype))
    exact = model.clone(dtype=jnp.float32)
    variables = filled(model, BATCH["image"])
    found = jax.jit(lambda variables, images: model.apply(variables, images))(variables, BATCH["image"])
    arguments = jax.device_put((variables, BATCH["image"]), jax.devices("cpu")[0])
    with compiling_for("cpu"):
        expected = jax.jit(lambda variables, images: exact.apply(variables, images))(*arguments)
    assert found.dtype == jnp.float32
    assert_close(jax.device_get(found), jax.device_get(expected), tolerance)


@pytest.mark.slow
def test_every_form_of_attention_trains_alike():
    losses = []
    for form in FORMS:
        _, state, step = prepare(VIT, attention=form, dtype=jnp.bfloat16)
        step = jax.jit(step)
        losses.append([])
        for _ in range(3):
            state, scalars = step(state, BATCH)
            losses[-1].append(float(scalars["loss"]))
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses, [losses[-1]] * 3, rtol=2e-2)


@pytest.mark.slow
def test_a_resnet_learns_and_keeps_its_statistics():
    _, state, step = prepare(RESNET, dtype=jnp.bfloat16)
    step, losses, before = jax.jit(step), [], jax.device_get(state.model_state)
    for _ in range(4):
        state, scalars = step(state, BATCH)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < losses[0]
    after = jax.device_get(state.model_state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    assert all(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_flop_of_a_step_are_literal(form):
    _, state, step = prepare(VIT, attention=form)
    embed, block = 2 * 16 * 192 * 64, 2 * 17 * (12 * 64**2 + 2 * 17 * 64)
    # The class token alone asks in the last block.
    last, head = 2 * ((2 * 17 + 10) * 64**2 + 2 * 17 * 64), 2 * 64 * 3
    assert count_flops(step, state, BATCH) == 8 * (3 * (embed + block + last + head) - embed)


@pytest.mark.slow
def test_the_state_is_given_away():
    _, state, step = prepare(RESNET)
    compiled = jax.jit(step, donate_argnums=0).lower(state, BATCH).compile()
    after, _ = compiled(state, BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))
    cost = compiled.memory_analysis()
    assert cost.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
