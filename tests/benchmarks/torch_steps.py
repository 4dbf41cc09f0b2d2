"""Times training steps of jaxtl and of PyTorch in turn on a CPU, each in a process of its own; gpu.py is for GPUs.

    python tests/benchmarks/torch_steps.py --models mobilenet_v2,convnext_t,vit_ti16 --work forward,all

The rivals are the real models of torchvision, and of timm for ViTs (see `real_packages`), as they come but without
dropout. Each contestant has a process of its own, because the threads of the one spin for a while after their work, and
because jaxtl's keeps freed memory and computes steps in turn, as `python -m jaxtl.main` does. Both take one batch of
noise that lies ready, 1,000 classes, all cores, and train with AdamW (fused in PyTorch). --work is "forward" (logits,
as in evaluation) or what of the model trains: "all", "head", or "2" for the head and the last two blocks of a ResNet or
a ViT. A round is --steps steps of the one and as many of the other; the ratio of a round is PyTorch's time by jaxtl's,
above 1 where jaxtl is faster, and the median of the rounds counts, so that whatever else the machine does meets both.
What is frozen does not train in either: PyTorch's has requires_grad off and its BatchNorm in evaluation mode.
--plain is jaxtl as a process has it that does nothing for its speed: see `jaxtl.parallel.cpu_runtime`.

Where jaxtl is slower, this was tried (milliseconds on 2 cores with AVX-512, batch 8, the least of many):
- Other engines for all of ResNet-18: without YNNPACK 1,272 for 1,056; another scheduler of operations 1,039 for 1,049.
- Matrix products, [1568, 384] x [384, 1536]: 171 to 218 GFLOP/s in every order and with operands turned beforehand or
  not, PyTorch 233 to 255.
- The kernel's gradient of the stem (7 x 7, stride 2): 64; by patches as one product 46, by blocks of 2 x 2 pixels 54, a
  product for each place 174. Of 3 x 3 at stride 2 with 64 channels: 15.9, by patches 10.7. With AVX2 alone: 332, 115,
  116 and 356; 96 and 39. A product for each place copies less and is slower where channels are many.
- Winograd's 16 products as one batch: compiles in half the time (1.9 s a layer for 4), and is up to 70 % slower, by the
  copies that it asks for. Its transformations of the kernel as one product: up to 1.7 times as long.
- DenseNet-121: with Winograd's tiles 4,353 and five minutes to compile, by patches 3,871; a barrier after each
  concatenation changes neither. The copies of patches and joined maps are a third of it.
- Depthwise kernels' gradients (3 x 3, 32 channels of 112 x 112 pixels): a sum for each place 29, one reduction 22, rows
  cut into eight that are added and then summed 13, one reduction of lines 4.4, as it is now.
- Sums of BatchNorm as one reduction of two arrays, as on a GPU: four times as long as by lines, at 112 x 112 pixels.
- Larger Winograd tiles: a digit less exact, 5 % faster. Attention with a gradient of its own: no gain.
"""

import argparse
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.cpu_runtime import dispatch_synchronously, keep_freed_memory
from jaxtl.profiling.cost import computed_gflop, model_gflop
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import Batch, TrainState
from jaxtl.train.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
import real_packages

CLASSES = 1000
# What torchvision calls them, and its arguments that leave nothing to chance.
TORCHVISION = {
    "resnet18": ("resnet18", {}),
    "resnet50": ("resnet50", {}),
    "vgg16": ("vgg16", {"init_weights": False}),
    "densenet121": ("densenet121", {}),
    "inception_v3": ("inception_v3", {"init_weights": False}),
    "mobilenet_v2": ("mobilenet_v2", {}),
    "mobilenet_v3_large": ("mobilenet_v3_large", {}),
    "efficientnet_b0": ("efficientnet_b0", {}),
    "convnext_t": ("convnext_tiny", {}),
    "swin_t": ("swin_t", {}),
}
TIMM = {"vit_ti16": "vit_tiny_patch16_224", "vit_s16": "vit_small_patch16_224", "vit_b16": "vit_base_patch16_224"}
MODELS = tuple(name for name in (*TIMM, *TORCHVISION) if name in models.names())
AUXILIARY = 0.3  # The weight of an auxiliary head's loss, as jaxtl has it.
Steps = Callable[[int], float]  # number of steps -> seconds
Variables = dict[str, Any]


def jaxtl_steps(name: str, work: str, images: np.ndarray, labels: np.ndarray) -> tuple[Steps, float]:
    """Returns what runs steps, and the GFLOP of one."""
    model = models.build(name, num_classes=CLASSES)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    batch = jax.device_put({"image": images, "label": labels})
    if work == "forward":
        return _forwards(model, variables, batch)
    assignment = groups_lib.assign(variables["params"], model.groups())
    chosen = groups_lib.select(assignment, work)
    optimizer = make_optimizer(chosen, OptimizerOptions(name="adamw", learning_rate=1e-4, weight_decay=0.05))
    state = TrainState.create(variables, optimizer, jax.random.key(1))
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


def _forwards(model: models.GroupedModel, variables: Variables, batch: Batch) -> tuple[Steps, float]:
    def logits_of(variables: Variables, batch: Batch) -> jax.Array:
        return model.apply(variables, batch["image"])

    compiled = jax.jit(logits_of).lower(variables, batch).compile()

    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            logits = compiled(variables, batch)
        jax.block_until_ready(logits)
        return time.perf_counter() - begun

    return run, computed_gflop(logits_of, variables, batch)


def torch_model(name: str, work: str) -> nn.Module:
    if name in TIMM:
        model = real_packages.timm().create_model(TIMM[name], num_classes=CLASSES)
    else:
        theirs, options = TORCHVISION[name]
        model = getattr(real_packages.torchvision().models, theirs)(weights=None, num_classes=CLASSES, **options)
    trains = trained_names(model, work)
    model.train(work != "forward")
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(trains.match(path) is not None)
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.Dropout)
            or type(module).__name__ == "StochasticDepth"
            or (isinstance(module, nn.BatchNorm2d) and not trains.match(path))
        ):
            module.eval()
    return model


def trained_names(model: nn.Module, work: str) -> re.Pattern[str]:
    """Returns a pattern of the names of the parameters that train."""
    if work in ("all", "forward"):
        return re.compile("" if work == "all" else "(?!)")
    *_, last = (path.rpartition(".")[0] for path, _ in model.named_parameters())
    parts = dict.fromkeys(
        found[0] for path, _ in model.named_parameters() if (found := re.match(r"(blocks|layer\d)\.\d+\.", path))
    )
    chosen = list(parts)[-int(work) :] if work.isdigit() else []
    if work.isdigit() and not parts:
        raise SystemExit(f"--work {work}: the blocks of this model have no common name; give forward, all or head.")
    return re.compile("|".join([re.escape(last), *map(re.escape, chosen), *(["norm"] if chosen else [])]))


def torch_steps(name: str, work: str, images: np.ndarray, labels: np.ndarray, channels_last: bool) -> Steps:
    model = torch_model(name, work)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    else:
        pixels = pixels.contiguous()
    targets = torch.from_numpy(labels).long()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.05, fused=True) if trained else None

    def loss_of(outputs: object) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            return F.cross_entropy(outputs, targets)
        return F.cross_entropy(outputs.logits, targets) + AUXILIARY * F.cross_entropy(outputs.aux_logits, targets)

    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            if optimizer is None:
                with torch.inference_mode():
                    model(pixels)
                continue
            loss = loss_of(model(pixels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - begun

    return run


def serve(pipe: Connection, who: str, name: str, work: str, options: argparse.Namespace) -> None:
    """Makes one contestant ready, says how many GFLOP a step has, and answers numbers of steps with their seconds."""
    generator = np.random.default_rng(0)
    side = models.native_size(name)
    images = generator.normal(size=(options.batch, side, side, 3)).astype(np.float32)
    labels = generator.integers(0, CLASSES, options.batch).astype(np.int32)
    if who == "jaxtl":
        if not options.plain:
            keep_freed_memory()
            dispatch_synchronously()
        run, gflop = jaxtl_steps(name, work, images, labels)
    else:
        run, gflop = torch_steps(name, work, images, labels, options.channels_last), 0.0
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


def compare(name: str, work: str, options: argparse.Namespace) -> None:
    theirs, _ = begin("torch", name, work, options)
    ours, gflop = begin("jaxtl", name, work, options)
    rounds = [(ours(options.steps), theirs(options.steps)) for _ in range(options.rounds)]
    ours(0), theirs(0)
    columns = [sorted(1e3 * seconds / options.steps for seconds in column) for column in zip(*rounds, strict=True)]
    ratios = sorted(b / a for a, b in rounds)
    times = "  ".join(
        f"{who} {statistics.median(ms):7.1f} ms (least {ms[0]:7.1f})"
        for who, ms in zip(("jaxtl", "torch"), columns, strict=True)
    )
    print(
        f"{name:18} {work:7} batch {options.batch}  {times}  {1e3 * gflop / columns[0][0]:4.0f} GFLOP/s  "
        f"x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def processor() -> str:
    """Names the processor, and those of its instructions that matrix products use."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.*)", facts)
    wide = [word for word in ("avx2", "avx512f", "amx_bf16") if re.search(rf"\b{word}\b", facts)]
    return f"{found[1] if found else platform.machine()}, {torch.get_num_threads()} threads, {' '.join(wide)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS, help="separated by commas")
    parser.add_argument("--work", type=lambda text: text.split(","), default=["forward", "all"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's arrays lie as jaxtl's do")
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"--models: no {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    print(processor())
    for name in options.models:
        for work in options.work:
            compare(name, work, options)


if __name__ == "__main__":
    main()
