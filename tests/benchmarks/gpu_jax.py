"""jaxtl's side of gpu.py, in processes of its own: checks against the CPU, steps to be timed, and their kernels."""

import contextlib
import math
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from gpu_common import CLASSES, WARMUP, Row, noise

from jaxtl import models
from jaxtl.finetune import param_groups as groups_lib
from jaxtl.parallel.backend import compiling_for
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.parallel.state_step import as_taken, tree_of
from jaxtl.profiling.chips import peak_tflops
from jaxtl.profiling.cost import model_gflop
from jaxtl.train.optimizer import OptimizerOptions, make_optimizer
from jaxtl.train.state import TrainState
from jaxtl.train.step import train_step

ATOL = {"float32": 1e-4, "bfloat16": 2e-2}  # Of the largest logit.
LOSS_TOLERANCE = 2e-2  # Of the first loss.
FUSED_ATTENTION = "__cudnn$fmha"  # What cuDNN's attention is called in a compiled program.


def check_device(device: str) -> None:
    found = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if found != device:
        raise RuntimeError(f"JAX computes on {found}, not on {device}: {jax.devices()}")


# Part a: is it right?


def checks(pipe: Connection, tiny: bool) -> None:
    """Sends (what, text, bad, numbers) for each check, and None after the last."""
    check_device("cpu" if tiny else "cuda")
    # One after the other on a GPU: with eight threads that compiled and computed at once the process died in one run.
    with ThreadPoolExecutor(2 if tiny else 1) as pool:
        lines = [*_logit_checks(pool, tiny), *_loss_checks(pool, tiny)]
        for line in lines:
            pipe.send(line())
    pipe.send(None)


def _logit_checks(pool: ThreadPoolExecutor, tiny: bool) -> Iterator[Callable[[], tuple]]:
    """Starts the forward passes of all models; yields what waits for each comparison and judges it."""
    for name in ("vit_petals", "resnet20_cifar") if tiny else ("vit_ti16", "vit_b16", "resnet50"):
        variables = random_variables(models.build(name, num_classes=CLASSES), models.native_size(name))
        side = models.native_size(name)
        # Patches of colour: pure noise looks alike once it is averaged over places.
        rng = np.random.default_rng(1)
        colours = rng.normal(size=(4, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
        images = (colours + 0.5 * rng.normal(size=colours.shape)).astype(np.float32)
        runs = {
            (dtype, target): pool.submit(logits, name, dtype, target, variables, images)
            for dtype in ATOL
            for target in ("gpu", "cpu")
        }
        for dtype in ATOL:
            yield partial(_judge_logits, name, dtype, runs)


def _judge_logits(name: str, dtype: str, runs: dict[tuple[str, str], Any]) -> tuple:
    try:
        gpu, cpu, exact = (runs[key].result() for key in ((dtype, "gpu"), (dtype, "cpu"), ("float32", "cpu")))
    except Exception as error:
        return f"{name} {dtype} logits", f"failed: {str(error)[:200]}", True, {}
    largest = np.abs(exact).max()
    off, gpu_off, cpu_off = (float(np.abs(a - b).max() / largest) for a, b in ((gpu, cpu), (gpu, exact), (cpu, exact)))
    bad = not off <= ATOL[dtype]
    text = f"the programs for GPU and CPU differ by {off:.1e} of the largest logit ({ATOL[dtype]:g} allowed)"
    if dtype != "float32":
        text += f"; from float32 on the CPU they differ by {gpu_off:.1e} and {cpu_off:.1e}"
    numbers = {"difference": off, "gpu_from_float32": gpu_off, "cpu_from_float32": cpu_off, "largest": float(largest)}
    return f"{name} {dtype} logits", ("WRONG: " if bad else "ok: ") + text, bad, numbers


def random_variables(model: nn.Module, side: int) -> Any:
    """Gives variables none of which is zero or one, the head's kernel and BatchNorm's statistics included."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    rng = np.random.default_rng(0)

    def draw(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        normal = rng.normal(size=leaf.shape)
        if path[-1] == "kernel":
            value = normal / math.sqrt(math.prod(leaf.shape[:-1]))
        elif path[-1] == "var":
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = 0.1 * normal + (path[-1] == "scale")
        return value.astype(np.float32)

    leaves = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in leaves.items()})


def logits(name: str, dtype: str, target: str, variables: Any, images: np.ndarray) -> np.ndarray:
    """Gives the logits that the program for `target` computes, on the CPU where there is no GPU."""
    model = models.build(name, num_classes=CLASSES, options=models.ModelOptions(dtype=jnp.dtype(dtype)))
    device = jax.devices("cpu")[0] if target == "cpu" else jax.devices()[0]
    precision = jax.default_matmul_precision("highest") if dtype == "float32" else contextlib.nullcontext()
    with compiling_for(target), precision:
        # A function of its own for each target: JAX traces the same one once only.
        found = jax.jit(lambda variables, images: model.apply(variables, images))(
            *jax.device_put((variables, images), device)
        )
    return np.asarray(found, np.float32)


def _loss_checks(pool: ThreadPoolExecutor, tiny: bool) -> Iterator[Callable[[], tuple]]:
    """Starts the training with each form of attention; yields what waits for each curve and judges it."""
    row = Row("vit_petals:depth=2", "all", 4, 64, "cpu") if tiny else Row("vit_s16", "all", 32, 224, "cuda")
    what = f"{row.model} 20 steps"
    if not hasattr(models.build(row.model, num_classes=1), "attention"):
        yield lambda: (what, "skipped: this ViT has no field `attention`", False, {})
        return
    forms = ("plain", "no GPU forms", "xla") + ("cudnn",) * (not tiny)
    runs = {form: pool.submit(losses, row, form) for form in forms}
    for form in runs:
        yield partial(_judge_losses, f"{what} {form}", form, runs)


def _judge_losses(what: str, form: str, runs: dict[str, Any]) -> tuple:
    try:
        (curve, fused), (plain, _) = runs[form].result(), runs["plain"].result()
    except Exception as error:
        return what, f"failed: {str(error)[:200]}", True, {}
    off = float(np.abs(curve - plain).max() / plain[0])
    # Without a fused call it would not be cuDNN's attention that was tried.
    bad = not off <= LOSS_TOLERANCE or (form == "cudnn") != (fused > 0)
    text = (
        f"loss {curve[0]:.4f} -> {curve[-1]:.4f}, differs from plain by {off:.1e} of the first "
        f"({LOSS_TOLERANCE:g} allowed); {fused} calls of cuDNN's attention"
    )
    numbers = {"losses": curve.tolist(), "difference": off, "fused_attention_calls": fused}
    return what, ("WRONG: " if bad else "ok: ") + text, bad, numbers


def losses(row: Row, form: str, steps: int = 20) -> tuple[np.ndarray, int]:
    """Gives the losses of training with a form of attention, and the number of cuDNN's calls in the program.

    With "no GPU forms", every other operation is plain too.
    """
    target, attention = ("none", "plain") if form == "no GPU forms" else ("gpu", form)
    with compiling_for(target):
        compiled, state, batch, _ = compile_step(row, attention=attention, learning_rate=3e-4)
    found = []
    for _ in range(steps):
        state, scalars = compiled(state, batch)
        found.append(scalars["loss"])
    return np.asarray(jax.device_get(found)), compiled.as_text().count(FUSED_ATTENTION)


# Part b: how fast is it?


def compile_step(row: Row, *, attention: str = "", learning_rate: float = 1e-4) -> tuple[Any, TrainState, Any, float]:
    """Gives a compiled bfloat16 step, the state and batch that it takes, and the GFLOP of one."""
    model = models.build(row.model, num_classes=CLASSES, options=models.ModelOptions(dtype=jnp.bfloat16))
    if attention:
        model = model.clone(attention=attention)
    images, labels = noise(row)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    assignment = groups_lib.assign(variables["params"], model.groups())
    chosen = groups_lib.select(assignment, row.unfreeze)
    optimizer = make_optimizer(chosen, OptimizerOptions(name="adamw", learning_rate=learning_rate, weight_decay=0.05))
    state = TrainState.create(variables, optimizer, jax.random.key(1))
    batch = {"image": images, "label": labels}
    step = partial(train_step, model=model, optimizer=optimizer, groups=chosen)
    gflop = model_gflop(step, state, batch)
    partitioner = make_partitioner(devices=jax.devices()[:1])
    state, batch = partitioner.shard_state(state), partitioner.shard_batch(batch)
    compiled = partitioner.compile(step, state, batch, donate=True)
    return compiled, as_taken(state, compiled), batch, gflop


def contestant(pipe: Connection, row: Row) -> None:
    """Makes the step ready; answers ("run", steps) with seconds, and "memory" and ("profile", steps)."""
    check_device(row.device)
    begun = time.perf_counter()
    compiled, state, batch, gflop = compile_step(row)

    def run(count: int) -> float:
        nonlocal state
        begun = time.perf_counter()
        for _ in range(count):
            state, scalars = compiled(state, batch)
        jax.block_until_ready((tree_of(state), scalars))
        return time.perf_counter() - begun

    run(WARMUP)
    pipe.send(
        {
            "ready_seconds": time.perf_counter() - begun,
            "gflop": gflop,
            "peak_tflops": peak_tflops(jax.devices()[0].device_kind),
            "fused_attention_calls": compiled.as_text().count(FUSED_ATTENTION),
        }
    )
    while True:
        match pipe.recv():
            case "run", count:
                pipe.send(run(count))
            case "profile", count:
                pipe.send(profile(run, count))
            case "memory":
                pipe.send((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def profile(run: Callable[[int], float], steps: int) -> dict[str, Any]:
    """Traces steps; gives what ran on the GPU by name, and how long it was busy of how long they took.

    On a CPU, where the trace has no streams, the threads that compute stand for them.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    run(steps)
    untraced = run(steps)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            traced = run(steps)
        file = next(Path(folder).rglob("*.xplane.pb"))
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        plane_name, line_name = ("GPU", "Stream") if jax.default_backend() == "gpu" else ("CPU", "tf_XLA")
        events = [
            (event.name, event.start_ns, event.duration_ns)
            for plane in planes
            for line in (plane.lines if plane_name in plane.name else ())
            for event in (line.events if line.name.startswith(line_name) else ())
        ]
    per_step = {"untraced": untraced, "traced": traced, "busy": busy_seconds(events)}
    return {
        **{f"{name}_ms": 1e3 * seconds / steps for name, seconds in per_step.items()},
        "kernels": totals(events, steps),
        # XLA numbers its fusions: without the numbers, what is alike in each block comes together.
        "kinds": totals(((re.sub(r"([._]\d+)+$", "", name), start, time) for name, start, time in events), steps),
    }


def totals(events: Iterable[tuple[str, float, float]], steps: int) -> list[tuple[str, float, float]]:
    """Gives (name, count a step, ms a step) of events, longest first."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for name, _, nanoseconds in events:
        found[name][0] += 1
        found[name][1] += nanoseconds / 1e6
    rows = [(name, count / steps, ms / steps) for name, (count, ms) in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def busy_seconds(events: list[tuple[str, float, float]]) -> float:
    """Gives the time in which at least one event ran."""
    busy = end = 0.0
    for _, start, duration in sorted(events, key=lambda event: event[1]):
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    return busy / 1e9
