"""Steps of training on a partitioner, as the tests of meshes take them, and what these compare and count."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxtl.finetune.param_groups import assign, select
from jaxtl.train import ema
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.scanned_state import first_by_scanned, over_scanned
from jaxtl.train.state import TrainState
from jaxtl.train.step import StepOptions, train_step


def in_eight_devices(file):
    """Runs a test file as a script in a process with eight devices; returns what it prints last, as JSON."""
    # Of flags given twice the last counts.
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    # As a script a test file has no conftest.py: the modules that tests share must be found all the same.
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths}
    out = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, timeout=900)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def train(model, variables, unfreeze, partitioner, ema_decay=0.0, scanned=(), **options):
    """Takes five steps of SGD on 16 rows; returns the last state, the losses and the compiled step.

    The partitioner keeps blocks in `scanned`.
    """
    groups = select(assign(variables["params"], model.groups()), unfreeze)
    average = ema.trained_leaves(variables, groups) if ema_decay else None
    groups = first_by_scanned(groups, scanned)
    optimizer = over_scanned(
        make_optimizer(groups, OptimizerOptions(name="sgd", learning_rate=0.05, momentum=0.9)), scanned
    )
    state = partitioner.shard_state(TrainState.create(variables, optimizer, jax.random.key(1), ema=average))
    fixed = {"model": model, "optimizer": optimizer, "groups": groups}
    step = partial(train_step, **fixed, options=StepOptions(clip_norm=1.0, ema_decay=ema_decay, **options))

    def batch(seed):
        rng = np.random.default_rng(seed)
        images = rng.normal(size=(16, 16, 16, 3)).astype(np.float32)
        return partitioner.shard_batch({"image": images, "label": rng.integers(0, 8, 16).astype(np.int32)})

    compiled = partitioner.compile(step, state, batch(0), donate=True)
    losses = []
    for seed in range(5):
        state, scalars = compiled(state, batch(seed))
        losses.append(float(partitioner.gather(scalars)["loss"]))
    return state, losses, compiled


def apart(one, two):
    """Gives the largest difference between numbers of two states: parameters, statistics, moments and averages."""
    leaves = (jax.tree.leaves((state.variables, state.opt_state, state.ema)) for state in (one, two))
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(*leaves, strict=True))


def bytes_a_device(tree):
    """Gives what each device holds of a tree."""
    taken = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            taken[shard.device] += shard.data.nbytes
    return list(taken.values())


def bytes_of_parts(state):
    """Gives what each device holds of each part of a state that fsdp cuts."""
    parts = {"params": state.params, "moments": state.opt_state, "averages": state.ema}
    return {part: bytes_a_device(tree) for part, tree in parts.items()}
