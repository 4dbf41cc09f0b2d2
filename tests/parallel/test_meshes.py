"""Training on meshes of eight devices equals training on one, and cut states take their share of memory."""

import json

import jax
import jax.numpy as jnp
import pytest
from meshes import apart, bytes_of_parts, in_eight_devices, train

from jaxtl import models
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.trees import flatten

MODELS = {"vit": "vit_petals:depth=2,width=64,heads=2,patch=8", "resnet": "resnet18:stages=1-1,width=32"}
# Each model, and each depth of what trains; all pairs of them would tell no more.
CASES = (("vit", "head"), ("vit", "all"), ("resnet", "1"), ("resnet", "all"))
MESHES = {"data 8": {}, "data 4 x fsdp 2": {"fsdp": 2}, "fsdp 8": {"data": 1, "fsdp": 8}}
RULES = {"block0/.*/kernel": (), "head/kernel": ("fsdp", None)}


# Beside the head.
TRAINED = {
    "vit": {"head": [], "all": ["block0", "block1", "cls_token", "norm", "patch_embed", "pos_embed"]},
    "resnet": {"1": ["layer2.0"], "all": ["bn1", "conv1", "layer1.0", "layer2.0"]},
}


def moved(before, after):
    """Names the modules of which a parameter changed."""
    after = flatten(after)
    return sorted({path.split("/")[0] for path, leaf in flatten(before).items() if (leaf != after[path]).any()})


def measure(name, unfreeze):
    """Returns mesh -> how far it ends from one device, and the bytes of each device."""
    model = models.build(MODELS[name], num_classes=8, image_size=16)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    first, losses, _ = train(model, variables, unfreeze, make_partitioner(devices=jax.devices()[:1]), ema_decay=0.9)
    partitioners = {mesh: make_partitioner(mesh=shape) for mesh, shape in MESHES.items()}
    partitioners["fsdp 8 by rules"] = make_partitioner(mesh=MESHES["fsdp 8"], rules=RULES)
    partitioners["pmap"] = make_partitioner("pmap")
    found = {}
    for mesh, partitioner in partitioners.items():
        state, others, _ = train(model, variables, unfreeze, partitioner, ema_decay=0.9)
        found[mesh] = {
            "apart": apart(first, partitioner.gather(state)),
            "losses apart": max(abs(a - b) for a, b in zip(losses, others, strict=True)),
            "bytes": bytes_of_parts(state),
            "moved": moved(variables["params"], partitioner.gather(state).params),
        }
    return found


@pytest.fixture(scope="module")
def measured():
    """Every case, in one process with eight devices."""
    return in_eight_devices(__file__)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unfreeze"), CASES)
def test_every_mesh_ends_where_one_device_does(measured, name, unfreeze):
    found = measured[f"{name} {unfreeze}"]
    assert len(found) == 5
    for case in found.values():
        assert set(case["moved"]) == {"head", *TRAINED[name][unfreeze]}
    assert max(case["losses apart"] for case in found.values()) < 1e-6
    assert max(case["apart"] for case in found.values()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_under_fsdp_each_device_holds_its_part(measured, name):
    found = measured[f"{name} all"]
    for part in ("params", "moments", "averages"):
        whole, half, eighth = (found[mesh]["bytes"][part] for mesh in MESHES)
        assert len(set(whole)) == len(set(half)) == len(set(eighth)) == 1  # All devices hold the same amount.
        # Biases and norms stay whole; they are below a twentieth.
        assert half[0] < 0.55 * whole[0]
        assert eighth[0] < 0.18 * whole[0]


@pytest.mark.slow
def test_a_rule_keeps_what_it_names_whole(measured):
    cut, ruled = (measured["vit all"][mesh]["bytes"]["moments"][0] for mesh in ("fsdp 8", "fsdp 8 by rules"))
    # The kernels of one block: attention 4 x 64 x 64 and MLP 2 x 64 x 256, less the eighth that a cut leaves; and the
    # kernel of the head, 64 x 8, which is too small to be cut by itself.
    assert ruled - cut == 4 * (12 * 64 * 64 * 7 // 8 - 64 * 8 * 7 // 8)


if __name__ == "__main__":
    print(json.dumps({f"{name} {unfreeze}": measure(name, unfreeze) for name, unfreeze in CASES}))
