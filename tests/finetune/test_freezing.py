"""Frozen modules of a small net run as in evaluation; the others as in training."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import Net, batch

from jaxtl.finetune.freezing import frozen_modules, module_trains
from jaxtl.parallel.scanned_layers import loop_key, separating_loops

LABELS = {
    "conv1/kernel": "frozen",
    "block0/norm/scale": "frozen",
    "block0/norm/bias": "block0",
    "block1/attn/kernel": "frozen",
    "block2/norm/scale": "block2",
    "block2/norm/bias": "frozen",
    "head/kernel": "head",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), True),  # The model itself, and what lies in it without parameters of its own.
        (("conv1",), False),
        (("block0",), True),
        (("block0", "norm"), True),  # One of its two parameters trains.
        (("block1",), False),
        (("block2", "norm"), True),
        (("block1", "attn"), False),
        (("block0", "Dropout_0"), True),  # As the block that it is in.
        (("block1", "attn", "Dropout_0"), False),
        (("head",), True),
        (("hea",), True),  # No module of that name: as the model.
    ],
)
def test_a_module_trains_if_a_parameter_below_it_does(path, expected):
    assert module_trains(LABELS)(path) is expected


def test_nothing_trains_where_all_is_frozen_or_nothing_is_there():
    assert module_trains({"head/kernel": "frozen"})(("head",)) is False
    assert module_trains({})(()) is False


def labels_of(variables, *trainable):
    names = set(variables["params"])
    return {
        f"{name}/{leaf}": name if name in trainable else "frozen"
        for name in names
        for leaf in variables["params"][name]
    }


@pytest.mark.parametrize("trainable", ["bn1", "bn2"])
def test_only_the_statistics_of_a_batchnorm_that_trains_move(trainable):
    model, images = Net(), batch()["image"]
    variables = jax.jit(model.init)(jax.random.key(0), images)
    with frozen_modules(labels_of(variables, trainable, "head")):
        _, state = jax.jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    moved = {
        name
        for name, statistics in state["batch_stats"].items()
        if not np.array_equal(statistics["mean"], variables["batch_stats"][name]["mean"])
    }
    assert moved == {trainable}


class Dropping(nn.Module):
    """Dropout in a module with parameters, by a field and by an argument."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(64, kernel_init=nn.initializers.ones, name="fc")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dropout(0.5)(x, deterministic=not train)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return Dropping(name="low")(x, train), Dropping(name="high")(x, train)


def test_dropout_draws_in_modules_that_train_only():
    model, x = Two(), jnp.ones((1, 1))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    labels = {f"{name}/fc/{leaf}": label for name, label in (("low", "frozen"), ("high", "head")) for leaf in "ab"}
    with frozen_modules(labels):
        low, high = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(low, np.ones((1, 64)))
    assert set(np.unique(high)) == {0.0, 4.0}  # Twice 1 / (1 - 0.5).


def test_the_context_ends():
    model, images = Net(dropout=0.5), batch()["image"]
    variables = jax.jit(model.init)(jax.random.key(0), images)
    arguments = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(1)}}
    before, _ = model.apply(variables, images, **arguments)
    with frozen_modules(labels_of(variables)):
        frozen, _ = model.apply(variables, images, **arguments)
    after, _ = model.apply(variables, images, **arguments)
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(before, frozen)


def test_blocks_share_a_loop_if_the_same_parameters_of_them_train():
    labels = {
        "block0/fc/kernel": "frozen",
        "block0/fc/bias": "block0",
        "block1/fc/kernel": "frozen",
        "block1/fc/bias": "block1",
        "block10/fc/kernel": "block10",
        "block10/fc/bias": "block10",
    }
    assert loop_key("block0") is None
    with frozen_modules(labels):
        assert loop_key("block0") == loop_key("block1") == frozenset({"fc/bias"})
        assert loop_key("block10") == frozenset({"fc/kernel", "fc/bias"})
    assert loop_key("block0") is None


def test_the_innermost_answer_separates_loops():
    with separating_loops(lambda path: path), separating_loops(len):
        assert loop_key("block10") == 7
    with pytest.raises(KeyError), separating_loops({}.__getitem__):
        loop_key("block0")
    assert loop_key("block0") is None
