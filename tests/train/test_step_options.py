"""What a step can do besides: SAM, guards, loss scaling, averages, penalties; for both families, under jit and pmap."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import TABLE, Net, batch

from jaxtl import models
from jaxtl.data.normalize import normalize
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.preprocessing import Pixels
from jaxtl.profiling.flops import count_flops
from jaxtl.train import ema, mixing
from jaxtl.train.losses import softmax_cross_entropy
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.penalties import make_penalty
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step
from jaxtl.trees import flatten, nest

SMALL_VIT = "vit_petals:depth=3,width=16,heads=2,patch=8"
SMALL_RESNET = "resnet20_cifar:blocks=1,width=8"
FAMILIES = {SMALL_VIT: 16, SMALL_RESNET: 16}
ALL_ON = {"clip_norm": 1.0, "accumulate": 2, "skip_nonfinite": True, "ema_decay": 0.9}


def setup(
    model,
    images,
    table,
    unfreeze="all",
    name="sgd",
    learning_rate=0.1,
    average=False,
    loss_scale=0.0,
    loss_fn=softmax_cross_entropy,
    **options,
):
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), images)
    assignment = groups_lib.assign(variables["params"], table)
    labels = groups_lib.select(assignment, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name=name, learning_rate=learning_rate))
    average = ema.trained_leaves(variables, labels) if average else None
    state = TrainState.create(variables, optimizer, jax.random.key(2), ema=average, loss_scale=loss_scale)
    fixed = {"model": model, "optimizer": optimizer, "groups": labels, "loss_fn": loss_fn}
    return state, partial(train_step, **fixed, options=StepOptions(**options))


def family(name, unfreeze, /, **options):
    model = models.build(name, num_classes=3, image_size=16 if name.startswith("vit") else 0)
    return setup(model, jnp.zeros((2, FAMILIES[name], FAMILIES[name], 3)), model.groups(), unfreeze, **options)


def assert_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


@pytest.mark.slow
def test_sam_takes_the_gradient_uphill():
    state, step = setup(Net(), batch()["image"], TABLE, sam_rho=0.05)

    def loss(params):
        logits, _ = Net().apply(
            {"params": params, **state.model_state}, batch()["image"], True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch()["label"]).mean()

    first = jax.jit(jax.grad(loss))(state.params)
    norm = optax.tree.norm(first)
    second = jax.jit(jax.grad(loss))(jax.tree.map(lambda p, g: p + 0.05 * g / norm, state.params, first))
    after, scalars = jax.jit(step)(state, batch())
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, second), atol=2e-5)
    np.testing.assert_allclose(scalars["loss"], loss(state.params), rtol=1e-5)  # Before the ascent.


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_step():
    state, step = setup(
        Net(), batch()["image"], TABLE, "1", name="adamw", average=True, skip_nonfinite=True, ema_decay=0.9
    )
    step = jax.jit(step)
    state, scalars = step(state, batch())
    assert scalars["skipped"] == 0
    broken = batch()
    broken["image"][0, 0, 0, 0] = np.nan
    after, scalars = step(state, broken)
    assert scalars["skipped"] == 1
    assert int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.variables, state.variables)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.ema))


def test_rates_follow_the_step_though_some_are_skipped():
    model = Net()
    variables = jax.jit(model.init)(jax.random.key(1), batch()["image"])
    labels = groups_lib.assign(variables["params"], TABLE)
    optimizer = make_optimizer(
        labels, OptimizerOptions(name="sgd", momentum=0.0, learning_rate=lambda step: 0.1 * (step == 1))
    )
    state = TrainState.create(variables, optimizer, jax.random.key(2))
    step = jax.jit(
        partial(train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(skip_nonfinite=True))
    )
    broken = {**batch(), "image": batch()["image"] * np.nan}
    state, _ = step(state, broken)
    after, _ = step(state, batch())
    assert not np.array_equal(after.params["head"]["bias"], state.params["head"]["bias"])


def test_loss_scaling_changes_no_digit_of_the_update():
    plain, step = setup(Net(), batch()["image"], TABLE)
    scaled, same = setup(Net(), batch()["image"], TABLE, loss_scale=1024.0)
    expected, _ = jax.jit(step)(plain, batch())
    after, scalars = jax.jit(same)(scaled, batch())
    assert (float(scalars["loss_scale"]), float(scalars["skipped"])) == (1024.0, 0.0)
    assert_close(after.params, expected.params, atol=1e-7)


def test_an_overflow_of_the_scaled_loss_skips_and_halves():
    def large(logits, labels):
        return 1e3 * optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    state, step = setup(Net(), batch()["image"], TABLE, loss_scale=2.0**127, loss_fn=large)
    after, scalars = jax.jit(step)(state, batch())
    assert scalars["skipped"] == 1
    assert np.isfinite(scalars["loss"])
    assert float(after.scaling["scale"]) == 2.0**126
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


class Half(nn.Module):
    """Gradients below 6e-8 vanish on their way through float16."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, dtype=jnp.float16, name="body")(x.mean((1, 2)))
        return nn.Dense(3, name="head")(1e-9 * x.astype(jnp.float32))


def test_float16_needs_the_scale():
    norms = []
    for scale in (0.0, 2.0**15):
        state, step = setup(Half(), batch()["image"], (("body", "body"), ("head", "head")), "body", loss_scale=scale)
        norms.append(float(jax.jit(step)(state, batch())[1]["grad_norm"]))
    assert norms[0] == 0.0
    assert norms[1] > 0.0


class TwoHeads(nn.Module):
    """Two linear classifiers of the mean pixel; the second is auxiliary, and there in training only."""

    @nn.compact
    def __call__(self, x, train=False):
        features = x.mean((1, 2))
        logits = nn.Dense(3, name="head")(features)
        extra = nn.Dense(3, name="extra")(features)
        return (logits, {"extra": extra}) if train or self.is_initializing() else logits


@pytest.mark.parametrize("accumulate", [1, 2])
def test_auxiliary_outputs_add_their_weighted_losses_to_what_is_differentiated(accumulate):
    options = {"accumulate": accumulate, "auxiliary_weight": 0.25}
    state, step = setup(TwoHeads(), batch()["image"], (("extra", "extra"), ("head", "head")), **options)
    features, targets = batch()["image"].mean((1, 2)), jax.nn.one_hot(batch()["label"], 3)

    def loss_of(params, name):
        scores = features @ params[name]["kernel"] + params[name]["bias"][None]
        return -(targets * (scores - jnp.log(jnp.exp(scores).sum(-1, keepdims=True)))).sum(-1).mean()

    grads = jax.grad(lambda params: loss_of(params, "head") + 0.25 * loss_of(params, "extra"))(state.params)
    after, scalars = jax.jit(step)(state, batch())
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads), atol=1e-6)
    np.testing.assert_allclose(scalars["loss"], loss_of(state.params, "head"), rtol=1e-5)  # The main one's alone.


@pytest.mark.parametrize("accumulate", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_penalty_counts_once_a_batch(accumulate):
    state, step = setup(Net(), batch()["image"], TABLE, "head", learning_rate=1.0)
    labels = groups_lib.select(groups_lib.assign(state.params, TABLE), "head")
    penalty = make_penalty(labels, groups_lib.assign(state.params, TABLE), l2={"head/kernel": 0.5})
    plain, _ = jax.jit(partial(step, options=StepOptions(accumulate=accumulate)))(state, batch())
    after, scalars = jax.jit(partial(step, penalty=penalty, options=StepOptions(accumulate=accumulate)))(state, batch())
    kernel = np.asarray(state.params["head"]["kernel"])
    np.testing.assert_allclose(scalars["penalty"], 0.5 * np.square(kernel).sum(), rtol=1e-5)
    np.testing.assert_allclose(after.params["head"]["kernel"], plain.params["head"]["kernel"] - kernel, atol=1e-6)


def test_the_average_follows_the_weights():
    state, step = setup(Net(), batch()["image"], TABLE, "1", average=True, ema_decay=0.9)
    after, _ = jax.jit(step)(state, batch())
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.variables, after.variables)
    assert_close(ema.averaged(after.variables, after.ema), expected, atol=1e-6)
    assert set(after.ema) == {
        "params/conv2/kernel",
        "params/bn2/scale",
        "params/bn2/bias",
        "params/head/kernel",
        "params/head/bias",
        "batch_stats/bn2/mean",
        "batch_stats/bn2/var",
    }


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", ["head", "1"])
@pytest.mark.parametrize("name", FAMILIES)
def test_freezing_saves_the_backward_pass_with_everything_switched_on(name, unfreeze):
    state, step = family(name, unfreeze, name="adamw", average=True, loss_scale=8.0, **ALL_ON)
    rows, size = 64, FAMILIES[name]
    data = {"image": jnp.zeros((2 * rows, size, size, 3)), "label": jnp.zeros(2 * rows, jnp.int32)}
    model, images = step.keywords["model"], data["image"][:rows]
    order = [group for group, _ in model.groups()]
    first = len(order) - (1 if unfreeze == "head" else 2)
    features = jax.eval_shape(
        lambda variables, images: model.apply(variables, images, stop=order[first - 1]), state.variables, images
    )
    trainable, frozen = groups_lib.partition(state.params, step.keywords["groups"])

    def loss(leaves, features):
        params = nest({**leaves, **frozen})
        variables = {"params": params, **state.model_state}
        logits, _ = model.apply(variables, features, train=True, start=order[first], mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, data["label"][:rows]).mean()

    # The compiler counts the body of the loop over the two parts once, and copies too, as those of a window's patches.
    for count, parts, slack in ((count_flops, 2, 0.0), (_flops, 1, 0.04)):
        forward = count(lambda variables, images: model.apply(variables, images), state.variables, images)
        backward = count(jax.value_and_grad(loss), trainable, features) - count(loss, trainable, features)
        assert count(step, state, data) == pytest.approx(parts * (forward + backward), rel=slack)
    sizes = {path: leaf.size for path, leaf in flatten(state.params).items()}
    trained = sum(size for path, size in sizes.items() if path in trainable)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim) == 2 * trained
    held = sum(leaf.size for path, leaf in state.ema.items() if path.startswith("params/"))
    assert held == trained


def _flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
@pytest.mark.slow
def test_everything_at_once_on_two_devices(name, parallel):
    state, step = family(
        name, "1", name="adamw", learning_rate=1e-2, average=True, loss_scale=8.0, sam_rho=0.05, **ALL_ON
    )
    pixels = Pixels(size=16, resize=16, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")

    def prepare(data, key):
        data = {**data, "image": normalize(data["image"], pixels)}
        return mixing.mix(data, key, mixup_alpha=0.5, cutmix_alpha=0.5, num_classes=3)

    partitioner = make_partitioner(parallel)
    data = {
        "image": np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8),
        "label": np.arange(8, dtype=np.int32) % 3,
        "mask": np.ones(8, np.float32),
    }
    now = partitioner.shard_state(state)
    compiled = partitioner.compile(partial(step, prepare=prepare), now, partitioner.shard_batch(data), donate=True)
    for _ in range(3):
        now, scalars = compiled(now, partitioner.shard_batch(data))
    after, scalars = partitioner.gather(now), partitioner.gather(scalars)
    assert (int(after.step), float(scalars["skipped"])) == (3, 0.0)
    trainable, frozen = groups_lib.partition(after.params, step.keywords["groups"])
    before = flatten(state.params)
    for path, leaf in frozen.items():
        assert np.asarray(leaf).tobytes() == np.asarray(before[path]).tobytes()
    assert all(not np.array_equal(leaf, before[path]) for path, leaf in trainable.items() if "kernel" in path)
    moves = set(ema.trained_leaves(state.variables, step.keywords["groups"]))
    for path, leaf in flatten(state.model_state).items():
        same = np.array_equal(leaf, flatten(after.model_state)[path])
        assert same == (path not in moves)
