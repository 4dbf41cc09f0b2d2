from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step
from jaxtl.train.storage_dtype import rounded_leaves, with_cast_frozen
from jaxtl.trees import flatten

VIT = "vit_s16:patch=8,width=32,depth=3,heads=2"
RESNET = "resnet18:stages=1-1,width=8"
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.arange(4, dtype=np.int32) % 3}


def build(name, dtype=jnp.bfloat16, **options):
    model = models.build(name, num_classes=3, image_size=16, options=models.ModelOptions(dtype=dtype, **options))
    return model, jax.jit(model.init)(jax.random.key(0), IMAGES)


def rounded(model, variables):
    return rounded_leaves(model, variables, jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32))


@pytest.mark.slow
def test_what_is_rounded_before_use_is_found_by_itself():
    found = rounded(*build(VIT))
    assert {"block0/attn/qkv/kernel", "block2/mlp/fc1/kernel", "patch_embed/kernel", "pos_embed", "cls_token"} <= found
    # These are computed with in float32.
    assert not found & {"head/kernel", "head/bias", "block0/norm1/scale", "norm/scale"}
    assert rounded(*build(VIT, scan=True)) == found
    assert rounded(*build(VIT, dtype=jnp.float32)) == set()
    convolutions = rounded(*build(RESNET))
    assert {"conv1/kernel", "layer2.0/conv2/kernel"} <= convolutions
    assert not {path for path in convolutions if "bn" in path or "head" in path}
    # A standardised kernel is rounded only after its mean has been taken off.
    assert not {path for path in rounded(*build("bit_r50x1:stages=1-1,width=32")) if path.endswith("conv2/kernel")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unfreeze"), [(RESNET, "1"), (VIT, "1")])
def test_training_is_the_same_to_the_bit_and_the_originals_come_back(name, unfreeze):
    model, variables = build(name)
    assignment = groups_lib.assign(variables["params"], model.groups())
    labels = groups_lib.select(assignment, unfreeze)
    optimizer = make_optimizer(labels, OptimizerOptions(name="adamw", learning_rate=1e-2))
    plain = make_partitioner("jit")
    frozen = rounded(model, variables) & {path for path, label in labels.items() if label == "frozen"}
    to_cast = with_cast_frozen(plain, variables["params"], frozen)
    step = partial(train_step, model=model, optimizer=optimizer, groups=labels)
    ends, sizes = [], []
    for partitioner in (plain, to_cast):
        state = partitioner.shard_state(TrainState.create(variables, optimizer, jax.random.key(1)))
        sizes.append({path: leaf.nbytes for path, leaf in flatten(state.params).items()})
        compiled = partitioner.compile(step, state, partitioner.shard_batch(BATCH), donate=True)
        losses = []
        for _ in range(3):
            state, scalars = compiled(state, partitioner.shard_batch(BATCH))
            losses.append(float(partitioner.gather(scalars)["loss"]))
        ends.append((losses, partitioner.gather(state).variables))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    halved = {path for path in sizes[0] if sizes[1][path] < sizes[0][path]}
    assert halved == frozen
    assert frozen
    assert sum(sizes[1][path] for path in halved) * 2 == sum(sizes[0][path] for path in halved)
    kept = flatten(ends[1][1]["params"])
    for path in halved:
        np.testing.assert_array_equal(kept[path], flatten(variables["params"])[path])
        assert kept[path].dtype == np.float32
