from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import TABLE, Net, batch

from jaxtl import models
from jaxtl.errors import UserError
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.finetune.freezing import frozen_modules
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.profiling.flops import count_flops
from jaxtl.train.losses import binary_cross_entropy
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step
from jaxtl.trees import flatten, nest

VIT = "vit_petals:depth=1,width=16,heads=2,patch=8"
SMALL_VIT = "vit_petals:depth=3,width=32,heads=2,patch=16"
SMALL_RESNET = "resnet20_cifar:blocks=1,width=8"


def setup(model, images, table, unfreeze="all", name="sgd", learning_rate=0.1, **options):
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(1), images)
    labels = groups_lib.select(groups_lib.assign(variables["params"], table), unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name=name, learning_rate=learning_rate))
    state = TrainState.create(variables, optimizer, jax.random.key(2))
    return state, partial(train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(**options))


def run(state, step, steps=3, size=8):
    step = jax.jit(step)
    for seed in range(steps):
        state, scalars = step(state, batch(size, seed))
    return state, scalars


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).tobytes(), tree)


def test_one_step_of_sgd_by_hand():
    model = Net()
    data = batch(6)
    state, step = setup(model, data["image"], TABLE)

    def loss(params):
        variables = {"params": params, **state.model_state}
        logits, _ = model.apply(variables, data["image"], train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, data["label"]).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    after, scalars = jax.jit(step)(state, data)
    np.testing.assert_allclose(scalars["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(scalars["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    jax.tree.map(
        lambda new, old, grad: np.testing.assert_allclose(new, old - 0.1 * grad, atol=2e-5),
        after.params,
        state.params,
        grads,
    )


@pytest.mark.parametrize("unfreeze", ["head", "1"])
def test_frozen_leaves_and_statistics_stay_bit_identical(unfreeze):
    state, step = setup(Net(dropout=0.5), batch()["image"], TABLE, unfreeze, name="adamw", clip_norm=0.1)
    after, _ = run(state, step)
    before = bits(state.variables)
    now = bits(after.variables)
    assert now["params"]["conv1"] == before["params"]["conv1"]
    assert now["params"]["bn1"] == before["params"]["bn1"]
    assert now["batch_stats"]["bn1"] == before["batch_stats"]["bn1"]
    assert now["params"]["head"] != before["params"]["head"]
    assert (now["batch_stats"]["bn2"] == before["batch_stats"]["bn2"]) == (unfreeze == "head")


def test_a_frozen_module_runs_as_in_evaluation():
    model = Net(dropout=0.5)
    state, _ = setup(model, batch()["image"], TABLE)
    labels = dict.fromkeys(flatten(state.params), "frozen")
    with frozen_modules(labels):
        logits, _ = model.apply(state.variables, batch()["image"], train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, model.apply(state.variables, batch()["image"], train=False))


def test_dropout_draws_anew_each_step_and_the_same_again():
    state, step = setup(Net(dropout=0.5), batch()["image"], TABLE, learning_rate=0.0)
    first, one = jax.jit(step)(state, batch())
    _, two = jax.jit(step)(first, batch())
    _, again = jax.jit(step)(state, batch())
    assert one["loss"] != two["loss"]
    assert one["loss"] == again["loss"]


def test_masked_rows_do_not_count():
    model = models.build(VIT, num_classes=3, image_size=16)
    state, step = setup(model, jnp.zeros((1, 16, 16, 3)), model.groups())
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    labels = np.arange(8) % 3
    whole, figures = jax.jit(step)(state, {"image": images[:6], "label": labels[:6]})
    mask = np.array([1.0] * 6 + [0.0] * 2, np.float32)
    padded, same = jax.jit(step)(
        state, {"image": np.where(mask[:, None, None, None], images, np.float32(1e3)), "label": labels, "mask": mask}
    )
    np.testing.assert_allclose(same["loss"], figures["loss"], rtol=1e-6)
    np.testing.assert_allclose(same["accuracy"], figures["accuracy"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), padded.params, whole.params)


def test_clipping_takes_one_norm_over_all_trainable_gradients():
    state, step = setup(Net(), batch()["image"], TABLE)
    _, scalars = jax.jit(step)(state, batch())
    norm = float(scalars["grad_norm"])
    free, _ = jax.jit(step)(state, batch())
    clipped, again = jax.jit(partial(step, options=StepOptions(clip_norm=norm / 4)))(state, batch())
    assert float(again["grad_norm"]) == pytest.approx(norm)  # Logged as it was before clipping.
    jax.tree.map(
        lambda old, a, b: np.testing.assert_allclose(a - old, 4 * (b - old), atol=1e-6),
        state.params,
        free.params,
        clipped.params,
    )


@pytest.mark.slow
def test_accumulation_equals_the_large_batch():
    model = models.build(VIT, num_classes=3, image_size=16)
    state, step = setup(model, jnp.zeros((1, 16, 16, 3)), model.groups(), clip_norm=1.0)
    data = {"image": jax.random.normal(jax.random.key(0), (8, 16, 16, 3)), "label": jnp.arange(8) % 3}
    whole, figures = jax.jit(step)(state, data)
    parts, same = jax.jit(partial(step, options=StepOptions(clip_norm=1.0, accumulate=4)))(state, data)
    np.testing.assert_allclose(same["loss"], figures["loss"], rtol=1e-5)
    np.testing.assert_allclose(same["grad_norm"], figures["grad_norm"], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts.params, whole.params)


@pytest.mark.parametrize(
    ("accumulate", "unfreeze"),
    [
        (1, "all"),
        pytest.param(2, "head", marks=pytest.mark.slow),
        pytest.param(1, "head", marks=pytest.mark.slow),
        pytest.param(2, "all", marks=pytest.mark.slow),
    ],
)
def test_jit_and_pmap_over_two_devices_equal_one(unfreeze, accumulate):
    state, step = setup(Net(), batch()["image"], TABLE, unfreeze, accumulate=accumulate)
    results = {}
    for name, devices in (("jit", jax.devices()[:1]), ("jit", jax.devices()), ("pmap", jax.devices())):
        partitioner = make_partitioner(name, devices=devices)
        now = partitioner.shard_state(state)
        compiled = partitioner.compile(step, now, partitioner.shard_batch(_host(batch())), donate=True)
        for seed in range(5):
            now, scalars = compiled(now, partitioner.shard_batch(_host(batch(8, seed))))
        results[name, len(devices)] = jax.device_get((partitioner.gather(now).variables, partitioner.gather(scalars)))
    assert int(partitioner.gather(now).step) == 5
    if accumulate == 2:
        # BatchNorm sees the rows of one part at a time, and parts are cut per device under pmap.
        results.pop(("pmap", 2))
    one = results.pop(("jit", 1))
    for other in results.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)


def _host(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize(
    ("name", "size", "unfreeze"),
    [
        (SMALL_VIT, 64, "head"),
        pytest.param(SMALL_RESNET, 32, "1", marks=pytest.mark.slow),
        pytest.param(SMALL_VIT, 64, "1", marks=pytest.mark.slow),
        pytest.param(SMALL_RESNET, 32, "head", marks=pytest.mark.slow),
    ],
)
def test_freezing_saves_the_backward_pass_whatever_reads_the_gradients(name, size, unfreeze):
    model = models.build(name, num_classes=5)
    data = {"image": jnp.zeros((8, size, size, 3)), "label": jnp.zeros(8, jnp.int32)}
    state, step = setup(model, data["image"], model.groups(), unfreeze, name="adamw", clip_norm=1.0)
    cut = model.groups()[-1 if unfreeze == "head" else -2][0]
    last = model.groups()[-2 if unfreeze == "head" else -3][0]
    before = jax.eval_shape(
        lambda variables, images: model.apply(variables, images, stop=last), state.variables, data["image"]
    )
    labels = groups_lib.select(groups_lib.assign(state.params, model.groups()), unfreeze)
    trainable, frozen = groups_lib.partition(state.params, labels)

    def loss(leaves, features):
        params = nest({**leaves, **frozen})
        logits, _ = model.apply(
            {"params": params, **state.model_state}, features, train=True, start=cut, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, data["label"]).mean()

    # Forward of everything, and backward of the trainable part alone: exactly so many products, and what the compiler
    # makes of them beside them.
    for count, slack in ((count_flops, 0.0), (_flops, 0.03)):
        forward = count(lambda variables, images: model.apply(variables, images), state.variables, data["image"])
        backward = count(jax.value_and_grad(loss), trainable, before) - count(loss, trainable, before)
        assert count(step, state, data) == pytest.approx(forward + backward, rel=slack)
    if unfreeze == "head":
        assert count_flops(step, state, data) == count_flops(model.apply, state.variables, data["image"]) + (
            2 * 8 * state.params["head"]["kernel"].size
        )


def _flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"images": 0, "label": 0},
            r"a batch lacks 'image', it holds 'images', 'label': it needs 'image' \[B, H, W, C\]",
        ),
        ({"image": np.zeros((2, 8, 8, 3)), "mask": np.ones(2)}, "a batch lacks 'label', it holds 'image': it needs"),
    ],
)
def test_a_batch_that_lacks_a_key_says_which_it_needs(data, message):
    state = TrainState.create({"params": {}}, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(UserError, match=message):
        train_step(state, data, model=Net(), optimizer=optax.sgd(0.1), groups={})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_several_labels_are_right_where_all_are(accumulate):
    model, data = Net(), batch(8)
    classes = model.apply(model.init(jax.random.key(1), data["image"]), data["image"]).shape[-1]
    data["label"] = np.float32(np.random.default_rng(0).random((8, classes)) < 0.4)
    data["mask"] = np.float32([1, 1, 1, 1, 1, 1, 0, 1])
    state, step = setup(model, data["image"], TABLE, several_labels=True, accumulate=accumulate)
    logits, _ = model.apply(state.variables, data["image"], train=True, mutable=["batch_stats"])
    _, scalars = jax.jit(partial(step, loss_fn=binary_cross_entropy))(state, data)
    if accumulate == 1:
        counted = data["mask"] > 0
        right = ((np.asarray(logits) >= 0) == (data["label"] > 0)).all(1)
        np.testing.assert_allclose(scalars["accuracy"], right[counted].mean(), rtol=1e-6)
        losses = binary_cross_entropy(logits, data["label"])
        np.testing.assert_allclose(scalars["loss"], np.asarray(losses)[counted].mean(), rtol=1e-5)
    assert 0 <= scalars["accuracy"] <= 1
