"""Blocks run as one loop, or computed twice, give what they give one after the other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.finetune.freezing import frozen_modules
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

VIT = "vit_s16:patch=8,width=32,depth=5,heads=2"
RESNET = "resnet18:stages=2-1,width=8"
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.arange(4) % 3}


def filled(model, low=-0.1, high=0.2):
    """Variables that are not zero anywhere, as a new head or layer scale is."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(generator.uniform(low, high, x.shape), jnp.float32), shapes)


def labels_of(model, variables, unfreeze):
    assignment = groups_lib.assign(variables["params"], model.groups())
    return groups_lib.select(assignment, unfreeze)


def step_of(model, variables, unfreeze="all", **options):
    labels = labels_of(model, variables, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="sgd", learning_rate=0.1))
    state = TrainState.create(variables, optimizer, jax.random.key(2))
    return state, jax.jit(
        partial(train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(**options))
    )


@pytest.mark.parametrize(
    ("name", "remat"),
    [
        (VIT.replace("depth=5", "depth=3"), False),
        pytest.param(VIT + ",pool=mean,layer_scale=true,norm_after_pool=true", True, marks=pytest.mark.slow),
        pytest.param("deit_s16_distilled", True, marks=pytest.mark.slow),
    ],
)
def test_scanned_blocks_train_as_the_others(name, remat):
    if name.startswith("deit"):
        name += ":patch=8,width=32,depth=4,heads=2"
    plain = models.build(name, num_classes=3, image_size=32)
    scanned = models.build(name, num_classes=3, image_size=32, options=models.ModelOptions(scan=True, remat=remat))
    variables = filled(plain)
    assert jax.tree.structure(variables) == jax.tree.structure(jax.eval_shape(scanned.init, jax.random.key(0), IMAGES))
    logits = jax.jit(lambda variables: (scanned.apply(variables, IMAGES), plain.apply(variables, IMAGES)))(variables)
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)
    after = [step(state, BATCH)[0].params for state, step in (step_of(m, variables) for m in (plain, scanned))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *after)


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["2", "head", "biases"])
def test_frozen_blocks_stay_still_and_cost_nothing_backwards(unfreeze):
    plain = models.build(VIT, num_classes=3, image_size=32)
    variables = filled(plain)
    gflop, after = [], []
    for model in (plain, models.build(VIT, num_classes=3, image_size=32, options=models.ModelOptions(scan=True))):
        state, step = step_of(model, variables, unfreeze)
        state, scalars = step(state, BATCH)
        after.append((state.params, scalars["grad_norm"]))
        gflop.append(step.lower(state, BATCH).compile().cost_analysis()["flops"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *after)
    # The body of a loop is counted once, so this could only exceed the loops if frozen blocks went backwards.
    assert gflop[1] <= gflop[0]


@pytest.mark.slow
def test_one_loop_forwards_and_one_backwards_where_all_train_and_one_for_each_kind_where_some_do():
    model = models.build(VIT, num_classes=3, image_size=32, options=models.ModelOptions(scan=True))
    variables = filled(model)

    def count(unfreeze):
        state, step = step_of(model, variables, unfreeze)
        return step.lower(state, BATCH).as_text().count("stablehlo.while")

    assert (count("all"), count("head"), count("2"), count("3")) == (2, 1, 1, 3)  # Of one block: no loop.


@pytest.mark.slow
def test_dropout_of_frozen_scanned_blocks_is_off():
    model = models.build(
        VIT, num_classes=3, image_size=32, options=models.ModelOptions(scan=True, dropout=0.5, drop_path=0.5)
    )
    variables = filled(model)
    labels = labels_of(model, variables, "head")
    rngs = {"dropout": jax.random.key(0)}

    @jax.jit
    def run(variables):
        with frozen_modules(labels):
            frozen = model.apply(variables, IMAGES, train=True, rngs=rngs)
        return frozen, model.apply(variables, IMAGES), model.apply(variables, IMAGES, train=True, rngs=rngs)

    frozen, still, drawn = run(variables)
    np.testing.assert_allclose(frozen, still, rtol=1e-6)
    assert not np.allclose(drawn, frozen, rtol=1e-3)


@pytest.mark.slow
def test_scanned_blocks_keep_their_rates_of_stochastic_depth_and_draw_each_for_itself():
    name = VIT.replace("width=32", "width=4")
    model = models.build(name, num_classes=3, image_size=8, options=models.ModelOptions(scan=True, drop_path=0.8))
    images = np.zeros((400, 8, 8, 3), np.float32)
    variables = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0), images[:1]))
    for i in range(4):  # Block i adds 1 to channel i, and nothing else.
        variables["params"][f"block{i}"]["mlp"]["fc2"]["bias"] = jnp.eye(4)[i]
    rngs = {"dropout": jax.random.key(0)}
    tokens = model.apply(variables, images, train=True, rngs=rngs, stop="block3")
    np.testing.assert_array_equal(tokens[:, 0], tokens[:, 1])  # One draw for all tokens of an example.
    kept = np.asarray(tokens[:, 0] > 0)
    for i, rate in enumerate((0.0, 0.2, 0.4, 0.6)):
        np.testing.assert_allclose(tokens[kept[:, i], 0, i], 1 / (1 - rate), rtol=1e-6)
        assert abs(kept[:, i].mean() - (1 - rate)) < 0.08
    assert len(np.unique(kept[:, 1:], axis=0)) == 8  # Every combination turns up.


@pytest.mark.slow
@pytest.mark.parametrize("name", [VIT, RESNET, "resnet20_cifar:blocks=1", "resnet50v2:stages=1-1,width=8"])
def test_remat_changes_nothing_and_keeps_less(name):
    after, kept = [], []
    for remat in (False, True):
        model = models.build(name, num_classes=3, image_size=32, options=models.ModelOptions(remat=remat))
        variables = filled(model, 0.05, 0.2)
        state, step = step_of(model, variables)
        after.append(step(state, BATCH)[0].variables)
        params = state.params

        def loss(params, model=model, rest=state.model_state):
            return model.apply({"params": params, **rest}, IMAGES, train=True, mutable=list(rest))[0].sum()

        kept.append(sum(x.size for x in jax.tree.leaves(jax.vjp(loss, params)[1])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *after)
    assert kept[1] < 0.7 * kept[0]
