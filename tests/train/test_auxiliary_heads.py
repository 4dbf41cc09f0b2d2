"""Auxiliary heads in training: what they add to the loss, when they do not, and on every road that a step takes."""

from functools import cache, partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.feature_cache.features import Suffix, find_cut
from jaxtl.finetune import param_groups
from jaxtl.finetune.stages import make_stages
from jaxtl.models.base import GroupedModel, classify
from jaxtl.models.googlenet import GoogLeNet
from jaxtl.models.inception_v3 import InceptionV3
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.profiling.cost import model_gflop
from jaxtl.train.gradients import Objective
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step

RATE = 0.1


class Branched(GroupedModel):
    """A chain of dense layers with an auxiliary head behind each of the first two, as in GoogLeNet."""

    auxiliary_weight: ClassVar[float] = 0.4

    num_classes: int = 3

    def groups(self):
        return tuple((name, name) for name in ("one", "aux1", "two", "aux2", "three", "head"))

    def run_group(self, x, name, train):
        if name == "head":
            return classify(x, self.num_classes, train=train)
        return nn.tanh(nn.Dense(4, name=name)(x.mean((1, 2)) if name == "one" else x))

    def run_auxiliary(self, x, name, train):
        return classify(x, self.num_classes, train=train, name=name)


MODEL = Branched()
BATCH = {"image": jax.random.normal(jax.random.key(0), (8, 2, 2, 3)), "label": jnp.arange(8) % 3}


@cache
def _drawn():
    drawn = jax.jit(MODEL.init)(jax.random.key(1), BATCH["image"])
    keys = jax.random.split(jax.random.key(2), 3)
    for name, key in zip(("aux1", "aux2", "head"), keys, strict=True):
        drawn["params"][name]["kernel"] = jax.random.normal(key, (4, 3))
    return drawn


def variables():
    return jax.tree.map(lambda leaf: leaf, _drawn())  # Dictionaries of their own.


def labels_of(unfreeze):
    return param_groups.select(param_groups.assign(variables()["params"], MODEL.groups()), unfreeze)


def prepare(unfreeze="all", model=MODEL, **options):
    labels = labels_of(unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="sgd", learning_rate=RATE, momentum=0.0))
    step = partial(train_step, model=model, optimizer=optimizer, groups=labels, options=StepOptions(**options))
    return TrainState.create(variables(), optimizer, jax.random.key(3)), step


def cross_entropy(logits):
    targets = jax.nn.one_hot(BATCH["label"], 3)
    return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()


def by_hand(params):
    """Computes main and auxiliary losses without the model."""

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"][None]

    one = jnp.tanh(dense("one", BATCH["image"].mean((1, 2))))
    two = jnp.tanh(dense("two", one))
    three = jnp.tanh(dense("three", two))
    inputs = {"head": three, "aux1": one, "aux2": two}
    return {name: cross_entropy(dense(name, x)) for name, x in inputs.items()}


def total(params, *auxiliary):
    losses = by_hand(params)
    return losses["head"] + 0.4 * sum(losses[name] for name in auxiliary)


@partial(jax.jit, static_argnums=1)
def gradients_of_total(params, auxiliary):
    return jax.grad(total)(params, *auxiliary)


def moved(params, trains, *auxiliary):
    grads = gradients_of_total(params, auxiliary)
    return {
        name: jax.tree.map(lambda p, g: p - RATE * g, params[name], grads[name]) if name in trains else params[name]
        for name in params
    }


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, dict(other))


ALL = ("one", "aux1", "two", "aux2", "three", "head")


def test_families_state_their_weights():
    assert (GoogLeNet.auxiliary_weight, InceptionV3.auxiliary_weight) == (0.3, 0.4)


@pytest.mark.parametrize("name", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 1e3, "skip_nonfinite": True}])
def test_a_step_descends_the_weighted_sum_and_reports_the_main_loss(name, options):
    state, step = prepare(**options)
    partitioner = make_partitioner(name)
    on_devices, batch = partitioner.shard_state(state), partitioner.shard_batch(jax.device_get(BATCH))
    after, scalars = partitioner.compile(step, on_devices, batch)(on_devices, batch)
    after, scalars = partitioner.gather(after), partitioner.gather(scalars)
    assert_close(after.params, moved(state.params, ALL, "aux1", "aux2"))
    np.testing.assert_allclose(scalars["loss"], by_hand(state.params)["head"], rtol=1e-5)


def test_sam_takes_its_second_gradient_of_the_same_sum():
    state, step = prepare(sam_rho=0.05)
    grads = gradients_of_total(state.params, ("aux1", "aux2"))
    length = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(grads)))
    shifted = jax.tree.map(lambda p, g: p + 0.05 / length * g, state.params, grads)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, gradients_of_total(shifted, ("aux1", "aux2")))
    assert_close(jax.jit(step)(state, BATCH)[0].params, expected)


def test_a_weight_that_is_given_replaces_that_of_the_model():
    state, step = prepare(auxiliary_weight=0.0)
    assert_close(jax.jit(step)(state, BATCH)[0].params, moved(state.params, ALL))


@pytest.mark.parametrize(
    ("unfreeze", "trains", "auxiliary"),
    [
        ("head", ("head",), ()),  # They are frozen, and so is all before them.
        ("two,three,head", ("two", "three", "head"), ()),  # A frozen head, new perhaps, has no say.
        ("2", ("aux2", "three", "head"), ("aux2",)),
        ("3", ("two", "aux2", "three", "head"), ("aux2",)),
    ],
)
def test_frozen_auxiliary_heads_have_no_loss(unfreeze, trains, auxiliary):
    state, step = prepare(unfreeze)
    assert_close(jax.jit(step)(state, BATCH)[0].params, moved(state.params, trains, *auxiliary))


@pytest.mark.parametrize(("unfreeze", "auxiliary"), [("3", ("aux2",)), ("2", ("aux2",)), ("1", ()), ("head", ())])
def test_a_step_over_cached_features_is_that_over_images(unfreeze, auxiliary):
    labels = labels_of(unfreeze)
    stop, start = find_cut(MODEL.groups(), param_groups.assign(variables()["params"], MODEL.groups()), [labels])
    state, step = prepare(unfreeze, model=Suffix(MODEL, start))
    features = jax.jit(partial(MODEL.apply, stop=stop))(variables(), BATCH["image"])
    assert features.shape == (8, 4)
    after, scalars = jax.jit(step)(state, {**BATCH, "image": features})
    trains = {name for name in labels.values() if name != param_groups.FROZEN}
    assert_close(after.params, moved(state.params, trains, *auxiliary))
    np.testing.assert_allclose(scalars["loss"], by_hand(state.params)["head"], rtol=1e-5)


def test_evaluation_and_groups_before_the_head_give_one_array():
    for options in ({}, {"train": True, "stop": "three"}, {"stop": "aux2"}):
        assert isinstance(MODEL.apply(variables(), BATCH["image"], **options), jax.Array)
    logits, auxiliary = MODEL.apply(variables(), BATCH["image"], train=True)
    np.testing.assert_array_equal(logits, MODEL.apply(variables(), BATCH["image"]))
    assert list(auxiliary) == ["aux1", "aux2"]


def test_the_count_of_flop_holds_heads_that_train_and_no_frozen_ones():
    flop = {
        unfreeze: round(1e9 * model_gflop(step, state, BATCH))
        for unfreeze in ("head", "aux2,head")
        for state, step in [prepare(unfreeze)]
    }
    forward = 2 * 8 * (3 * 4 + 4 * 4 + 4 * 4 + 4 * 3)
    head = 2 * 8 * 4 * 3  # Its product, and the gradient of its kernel.
    assert flop == {"head": forward + head, "aux2,head": forward + head + 2 * head}


def test_a_head_that_joins_in_a_later_stage_counts_from_then_on():
    head, everything = labels_of("head"), labels_of("all")
    first, second = make_stages([5, 5], [head, everything], [1.0, 1.0])
    weights = [Objective(MODEL, stage.labels, None).auxiliary_weights(["aux1", "aux2"]) for stage in (first, second)]
    assert weights == [{}, {"aux1": 0.4, "aux2": 0.4}]
