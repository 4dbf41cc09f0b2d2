"""Times training steps of jaxtl and of PyTorch in turn on a CPU, each in a process of its own; gpu.py is for GPUs.

    python tests/benchmarks/torch_steps.py --models vit_ti16 vit_s16 resnet18 resnet50 --unfreeze all 2 head

A process of its own, because the threads of the one spin for a while after their work, and because jaxtl's keeps freed
memory and computes steps in turn, as `python -m jaxtl.main` does. Both train on one batch of noise that lies ready,
with AdamW (fused in PyTorch), 1,000 classes, all cores. A round is --steps steps of the one and as many of the other;
the ratio of a round is PyTorch's time by jaxtl's, above 1 where jaxtl is faster, and the median of the rounds counts,
so that whatever else the machine does meets both. What is frozen does not train in either: PyTorch's has requires_grad
off and its BatchNorm in evaluation mode.
"""

import argparse
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch_deit import DeiT

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.cpu_runtime import dispatch_synchronously, keep_freed_memory
from jaxtl.profiling.cost import model_gflop
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))
from torch_references import TorchResNet

CLASSES = 1000
SIZES = {"vit_ti16": (192, 12, 3), "vit_s16": (384, 12, 6), "vit_b16": (768, 12, 12)}
STAGES = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}
MODELS = ("vit_ti16", "vit_s16", "resnet18", "resnet50")
Steps = Callable[[int], float]  # number of steps -> seconds


def jaxtl_steps(name: str, unfreeze: str, images: np.ndarray, labels: np.ndarray) -> tuple[Steps, float]:
    """Returns what runs steps, and the GFLOP of one."""
    model = models.build(name, num_classes=CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    assignment = groups_lib.assign(variables["params"], model.groups())
    chosen = groups_lib.select(assignment, unfreeze)
    optimizer = make_optimizer(chosen, OptimizerOptions(name="adamw", learning_rate=1e-4, weight_decay=0.05))
    state = TrainState.create(variables, optimizer, jax.random.key(1))
    batch = jax.device_put({"image": images, "label": labels})
    step = partial(train_step, model=model, optimizer=optimizer, groups=chosen)
    gflop = model_gflop(step, state, batch)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run(count: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        for _ in range(count):
            state, scalars = compiled(state, batch)
        jax.block_until_ready((state, scalars))
        return time.perf_counter() - begun

    return run, gflop


class Logits(TorchResNet):
    def forward(self, images):
        return super().forward(images)[1]


def torch_model(name: str, unfreeze: str) -> nn.Module:
    if name in SIZES:
        model: nn.Module = DeiT(CLASSES, *SIZES[name])
        order = ["cls_token|pos_embed|patch_embed", *(rf"blocks\.{i}\." for i in range(SIZES[name][1])), "head"]
        order[-2] += "|norm"
    else:
        stages, bottleneck = STAGES[name]
        model = Logits(stages, bottleneck, 64, CLASSES)
        blocks = [rf"layer{stage + 1}\.{i}\." for stage, count in enumerate(stages) for i in range(count)]
        order = ["conv1|bn1", *blocks, "fc"]
    count = len(order) if unfreeze == "all" else 1 if unfreeze == "head" else 1 + int(unfreeze)
    trains = re.compile("|".join(order[-count:]))
    model.train()
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(trains.match(path) is not None)
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not trains.match(path):
            module.eval()
    return model


def torch_steps(name: str, unfreeze: str, images: np.ndarray, labels: np.ndarray) -> Steps:
    model = torch_model(name, unfreeze)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels).long()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.05, fused=True)

    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            loss = F.cross_entropy(model(pixels), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return time.perf_counter() - begun

    return run


def serve(pipe: Connection, who: str, name: str, unfreeze: str, batch: int) -> None:
    """Makes one contestant ready, says how many GFLOP a step has, and answers numbers of steps with their seconds."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, 224, 224, 3)).astype(np.float32)
    labels = generator.integers(0, CLASSES, batch).astype(np.int32)
    if who == "jaxtl":
        keep_freed_memory()
        dispatch_synchronously()
        run, gflop = jaxtl_steps(name, unfreeze, images, labels)
    else:
        run, gflop = torch_steps(name, unfreeze, images, labels), 0.0
    run(3)
    pipe.send(gflop)
    while count := pipe.recv():
        pipe.send(run(count))


def begin(*arguments: object) -> tuple[Callable[[int], float], float]:
    """Starts a contestant; returns what times its steps, and the GFLOP of one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs, *arguments), daemon=True).start()
    gflop = ours.recv()

    def run(count: int) -> float:
        ours.send(count)
        return ours.recv() if count else 0.0

    return run, gflop


def compare(name: str, unfreeze: str, arguments: argparse.Namespace) -> None:
    what = (name, unfreeze, arguments.batch)
    theirs, _ = begin("torch", *what)
    ours, gflop = begin("jaxtl", *what)
    rounds = [(ours(arguments.steps), theirs(arguments.steps)) for _ in range(arguments.rounds)]
    ours(0), theirs(0)
    seconds = [statistics.median(column) / arguments.steps for column in zip(*rounds, strict=True)]
    ratios = sorted(b / a for a, b in rounds)
    speeds = "  ".join(f"{who} {1e3 * s:8.1f} ms" for who, s in zip(("jaxtl", "torch"), seconds, strict=True))
    print(
        f"{name:9} {unfreeze:5} batch {arguments.batch}  {speeds}  {gflop / seconds[0]:8.0f} GFLOP/s  "
        f"x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*SIZES, *STAGES])
    parser.add_argument("--unfreeze", nargs="+", default=["all", "2", "head"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.models or MODELS:
        for unfreeze in arguments.unfreeze:
            compare(name, unfreeze, arguments)


if __name__ == "__main__":
    main()
