"""Bytes counted in compiled steps on one to eight devices equal what the parameters say, and estimate larger meshes."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from meshes import in_eight_devices

from jaxtl import models
from jaxtl.finetune.param_groups import assign, select
from jaxtl.parallel.backend import compiling_for
from jaxtl.parallel.mesh import abstract_arguments, axes_of
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.profiling.hlo import KINDS, collectives
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step
from jaxtl.trees import flatten

MODELS = {"vit": "vit_petals:depth=2,width=64,heads=2,patch=8", "resnet": "resnet18:stages=1-1,width=32"}
BATCH = 16
# Two of each, since what travels must not depend on them; the smaller gives a device of a ViT one row.
FSDP_BATCHES = {"vit": (8, 64), "resnet": (16, 64)}
# Model, what trains, devices, and along fsdp; and the batch where it is not BATCH.
CASES = [
    *(("vit", "all", devices, 1) for devices in (1, 2, 4, 8)),
    *(("resnet", "all", devices, 1) for devices in (1, 2, 8)),
    *((name, "head", 8, 1) for name in MODELS),
    *(("vit", "all", 8, fsdp) for fsdp in (2, 8)),
    *((name, "all", 8, 8, batch) for name, batches in FSDP_BATCHES.items() for batch in batches),
]
# Loss and accuracy.
SCALARS = 8


def measure(name, unfreeze, devices, fsdp, rows=BATCH):
    """Compiles a step; returns the bytes of its collectives, and what they are made of."""
    model = models.build(MODELS[name], num_classes=8, image_size=16)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    groups = select(assign(variables["params"], model.groups()), unfreeze)
    optimizer = make_optimizer(groups, OptimizerOptions(name="sgd", learning_rate=0.05, momentum=0.9))
    state = jax.eval_shape(lambda tree: TrainState.create(tree, optimizer, jax.random.key(1)), variables)
    batch = {
        "image": jax.ShapeDtypeStruct((rows, 16, 16, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
    where = {"mesh": {"data": -1, "fsdp": fsdp}, "rules": {}, "devices": jax.devices()[:devices]}
    step = partial(train_step, model=model, optimizer=optimizer, groups=groups, options=StepOptions(clip_norm=1.0))
    # A CPU's own convolution sums sixteen transformed gradients of a 3 x 3 kernel, for nine.
    with compiling_for("none"):
        compiled = make_partitioner(**where).compile(step, *abstract_arguments(state, batch, **where), donate=True)
    found = collectives(compiled.as_text(), devices)
    leaves = flatten(variables["params"])
    statistics = flatten(variables.get("batch_stats", {}))
    return {
        "payload": {kind: sum(one.times * one.payload for one in found if one.kind == kind) for kind in KINDS},
        "sent": sum(one.sent for one in found),
        # Of all devices, as the compiler counts for each: with the update of the parameters, which it does by itself.
        "gflop": compiled.cost_analysis()["flops"] * devices / 1e9,
        "trainable": 4 * sum(leaf.size for path, leaf in leaves.items() if groups[path] != "frozen"),
        "parameters": 4 * sum(leaf.size for leaf in leaves.values()),
        "cut": {path: 4 * leaf.size for path, leaf in leaves.items() if axes_of(path, leaf.shape, fsdp=fsdp, rules={})},
        "statistics": 4 * sum(leaf.size for leaf in statistics.values()),
    }


@pytest.fixture(scope="module")
def measured():
    """Every case, in one process with eight devices."""
    return {tuple(case): found for case, found in in_eight_devices(__file__)}


@pytest.mark.slow
def test_data_parallelism_sums_each_gradient_once(measured):
    for devices in (2, 4, 8):
        found = measured["vit", "all", devices, 1]
        # The class token and the position that is added to it have one gradient: 64 numbers.
        assert found["payload"]["all-reduce"] == found["trainable"] + SCALARS - 4 * 64
        assert sum(found["payload"].values()) == found["payload"]["all-reduce"]


@pytest.mark.slow
def test_statistics_of_batchnorm_are_summed_too(measured):
    for devices in (2, 8):
        found = measured["resnet", "all", devices, 1]
        extra = found["payload"]["all-reduce"] - found["trainable"] - SCALARS
        # Two sums a channel forward; backward two more, of which one or both are the gradients of scale and bias.
        assert found["statistics"] <= extra <= 2 * found["statistics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_is_frozen_is_not_exchanged_either(measured, name):
    found = measured[name, "head", 8, 1]
    assert sum(found["payload"].values()) == found["trainable"] + SCALARS
    assert found["trainable"] == 4 * (64 * 8 + 8)


@pytest.mark.slow
def test_one_device_exchanges_nothing(measured):
    assert measured["vit", "all", 1, 1]["sent"] == measured["resnet", "all", 1, 1]["sent"] == 0


@pytest.mark.slow
def test_two_devices_foretell_what_eight_send_and_compute(measured):
    for name in MODELS:
        one, two, eight = (measured[name, "all", devices, 1] for devices in (1, 2, 8))
        assert eight["sent"] == pytest.approx(two["sent"] * (7 / 8) / (1 / 2))
        # Each device updates all parameters by itself; the rest is shared out.
        foretold = one["gflop"] + 7 * (two["gflop"] - one["gflop"])
        assert eight["gflop"] == pytest.approx(foretold, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_cut_along_fsdp_kernels_are_fetched_and_gradients_summed_whatever_the_batch(measured, name):
    for rows in FSDP_BATCHES[name]:
        found = measured[name, "all", 8, 8, rows]
        cut = found["cut"]
        # A product's kernel is fetched once; a convolution's once more, turned round, on the way back to its input.
        again = sum(cut.values()) - cut["conv1/kernel"] if name == "resnet" else 0
        assert found["payload"]["all-gather"] == sum(cut.values()) + again
        extra = found["payload"]["all-reduce"] - found["trainable"] - SCALARS
        # Besides gradients: statistics, of BatchNorm (see above); and a part of their norm, each.
        assert -4 * 64 <= extra <= 2 * found["statistics"] + 4 * len(cut)
        assert found["payload"]["all-to-all"] == found["payload"]["reduce-scatter"] == 0
        # Parts of the last block's kernel that makes queries, keys and values, which asks for one token only.
        assert found["payload"]["collective-permute"] < 0.1 * found["parameters"]


@pytest.mark.slow
def test_cut_along_fsdp_the_update_is_shared_out(measured):
    whole, halves, eighths = (measured["vit", "all", 8, fsdp] for fsdp in (1, 2, 8))
    assert whole["payload"]["all-gather"] == 0 < halves["payload"]["all-gather"]
    assert whole["gflop"] > halves["gflop"] > eighths["gflop"]


if __name__ == "__main__":
    print(json.dumps([[case, measure(*case)] for case in CASES]))
