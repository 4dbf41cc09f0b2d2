"""The bench command: how fast a config trains here, what a step costs, and how much of the chip that uses.

With --plan it tells instead what a step would take on a slice of chips that is not here.
"""

import argparse
import itertools
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import pretrained
from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.experiment import setup, slice_plan
from jaxtl.experiment import steps as steps_lib
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.build import open_parts, outline
from jaxtl.experiment.input_pipeline import Inputs, make_inputs
from jaxtl.experiment.training_plan import Plan
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.profiling.chips import peak_tflops
from jaxtl.profiling.cost import Cost, step_cost
from jaxtl.profiling.timing import Timing, time_steps

INPUTS = ("synthetic", "real")


@dataclass(frozen=True)
class Opened:
    """The parts of a run; `labels` are those of the training split, none where the input is noise."""

    model: setup.Model
    variables: dict[str, Any]
    plan: Plan
    inputs: Inputs
    labels: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where bench.json goes")
    parser.add_argument(
        "--input", choices=INPUTS, default="synthetic", help="one batch of noise over and over (default), or the data"
    )
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed (30)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (3)")
    parser.add_argument(
        "--plan",
        default="",
        metavar="CHIP-N",
        help="run nothing; estimate a step on a slice such as v5e-256 (plan.json)",
    )
    parser.add_argument(
        "--plan-share", type=float, default=0.5, metavar="X", help="share of the chip's peak that a plan assumes (0.5)"
    )
    flags.add_processes(parser)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    if not arguments.plan:
        flags.connect(arguments)
    config = flags.load_config(arguments, overrides)
    if arguments.plan:
        # It needs no chip, and takes none from a run.
        jax.config.update("jax_platforms", "cpu")
        slice_plan.run(config, arguments.workdir, arguments.plan, share=arguments.plan_share)
        return
    run(config, arguments.workdir, source=arguments.input, steps=arguments.steps, warmup=arguments.warmup)


def run(
    config: ConfigDict, workdir: Path, *, source: str = "synthetic", steps: int = 30, warmup: int = 3
) -> dict[str, Any]:
    """Times the steps of the first stage; returns what bench.json holds."""
    if steps < 2 or warmup < 1:
        raise UserError(f"--steps={steps} --warmup={warmup}: give at least 2 steps, after at least 1.")
    files.open_workdir(workdir)
    partitioner = setup.partitioner_for(config)
    setup.check_devices(config.train.batch_size, partitioner, "train.batch_size")
    opening = _synthetic if source == "synthetic" else _real
    opened = opening(config, workdir, partitioner)
    timing, cost, compiling = _measure(config, opened, partitioner, source=source, steps=steps, warmup=warmup)
    results = {
        "model": opened.model.name,
        "weights": config.model.weights,
        "data": config.data.source if source == "real" else "",
        "input": source,
        "precision": config.train.precision,
        "batch_size": config.train.batch_size,
        "parameters": opened.plan.counts,
        **_machine(partitioner),
        **measurements(timing, cost, batch_size=config.train.batch_size, devices=partitioner.devices),
        "seconds": {"compile": compiling, "timed": float(timing.done[-1] - timing.done[0])},
        "run": estimate(config, opened.plan, timing.seconds, len(opened.labels) if source == "real" else None),
    }
    if jax.process_index() == 0:
        files.write_json(workdir / "bench.json", results)
        print(report(results))
        print(workdir / "bench.json")
    return results


def _measure(
    config: ConfigDict, opened: Opened, partitioner: Partitioner, *, source: str, steps: int, warmup: int
) -> tuple[Timing, Cost, float]:
    """Compiles and runs the first stage's step; returns the timing, the cost and the seconds of compiling."""
    model, variables, plan, inputs = opened.model, opened.variables, opened.plan, opened.inputs
    stage = plan.stages[0]
    optimizer = plan.make_optimizer(stage)
    loss = steps_lib.choose_loss(config, len(model.classes), opened.labels)
    step = steps_lib.make_step(
        config, model, plan, stage, optimizer=optimizer, loss=loss, module=inputs.model, cached=inputs.cached
    )
    partitioner, variables = steps_lib.place_states(config, model, plan, variables, partitioner)
    partitioner.check(variables)
    state = partitioner.shard_state(steps_lib.make_state(config, variables, stage, optimizer))
    begun = time.perf_counter()
    compiled = partitioner.compile(step, state, partitioner.shard_batch(inputs.dummy), donate=True)
    compiling = time.perf_counter() - begun
    shapes = steps_lib.abstract_state(config, model, plan, stage, variables, optimizer)
    cost = step_cost(step, compiled, shapes, setup.global_batch_shapes(inputs.dummy))
    batches = inputs.batches(0)
    placed = (
        map(partitioner.shard_batch, batches)
        if source == "real"
        else itertools.repeat(partitioner.shard_batch(next(batches)))
    )
    return time_steps(compiled, state, placed, steps=steps, warmup=warmup)[1], cost, compiling


def _synthetic(config: ConfigDict, workdir: Path, partitioner: Partitioner) -> Opened:
    """Returns the parts of a run on noise: neither data nor weights need be at hand."""
    known = outline(config, setup.try_weights(config))
    model = with_fastest_attention(config, known.model, partitioner, plan=known.plan)
    # Products of other numbers take as long.
    variables = pretrained.initialise(model.module, jax.random.key(config.train.seed), model.pixels.size)
    dummy = setup.dummy_batch(model.pixels.size, config.train.batch_size)
    noise = np.random.default_rng(0).integers(0, 256, dummy["image"].shape, np.uint8)
    labels = np.arange(len(noise), dtype=np.int32) % len(model.classes)

    def batches(start_step: int) -> Iterator[Any]:
        return itertools.repeat({**dummy, "image": noise, "label": labels})

    inputs = Inputs(model.module, False, dummy, batches, lambda variables: _never)
    return Opened(model, variables, known.plan, inputs, np.zeros(0, np.int32))


def _never(*_: Any) -> Any:
    raise AssertionError("bench evaluates nothing")


def _real(config: ConfigDict, workdir: Path, partitioner: Partitioner) -> Opened:
    """Returns the parts of a run as train would start it."""
    parts = open_parts(config)
    splits, plan = parts.splits, parts.plan
    model = with_fastest_attention(config, parts.model, partitioner, plan=plan)
    inputs = make_inputs(
        config,
        workdir,
        model,
        splits,
        partitioner,
        variables=parts.variables,
        assignment=plan.assignment,
        labels=[stage.labels for stage in plan.stages],
        epochs=plan.total_steps / parts.steps_per_epoch,
    )
    return Opened(model, parts.variables, plan, inputs, splits.train.labels)


def measurements(timing: Timing, cost: Mapping[str, float], *, batch_size: int, devices: int) -> dict[str, Any]:
    """Returns speed, step times, cost and utilisation.

    Args:
      timing: of the steps.
      cost: of a step, from `step_cost`.
      batch_size: rows of the global batch.
      devices: that share it.
    """
    p50, p90, p99 = timing.percentiles(50, 90, 99)
    tflops = cost["step_gflop"] / 1e3 / timing.seconds / devices
    peak = peak_tflops(jax.devices()[0].device_kind)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "images_per_second": batch_size / timing.seconds,
        "step_seconds": {"mean": timing.seconds, "p50": p50, "p90": p90, "p99": p99},
        "waiting_for_data": timing.waiting,
        "step_gflop": cost["step_gflop"],
        "tflops_per_device": tflops,
        "peak_tflops_per_device": peak,
        "mfu": tflops / peak if peak else None,
        "memory_bytes": {
            "step_alone": cost["temp_bytes"],
            "step_in_all": cost["peak_bytes"],
            "device_peak": stats.get("peak_bytes_in_use"),
            # Kilobytes, but on a Mac.
            "host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        },
    }


def estimate(config: ConfigDict, plan: Plan, seconds: float, images: int | None) -> dict[str, Any] | None:
    """Returns how long the config's run would take at `seconds` a step; None if unknown data decide its length."""
    lengths = config.finetune.stages or ({"steps": config.train.steps} if config.train.steps else {},)
    if images is None and not all("steps" in stage for stage in lengths):
        return None
    seen = plan.total_steps * config.train.batch_size
    return {
        "steps": plan.total_steps,
        "images": seen,
        "epochs": seen / images if images else None,
        "seconds": plan.total_steps * seconds,
    }


def _machine(partitioner: Partitioner) -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "devices": partitioner.devices,
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


def report(results: Mapping[str, Any]) -> str:
    """Returns the metrics in a few lines."""
    step, memory, run_ = results["step_seconds"], results["memory_bytes"], results["run"]
    mfu = "no MFU: the peak of this device is not in the table"
    if results["mfu"]:
        mfu = f"MFU {results['mfu']:.3f} of {results['peak_tflops_per_device']:g} TFLOP/s in bfloat16"
    lines = [
        f"{results['model']}, batch {results['batch_size']}, {results['precision']}, {results['input']} input, on "
        f"{results['devices']} x {results['device']}",
        f"{results['images_per_second']:.4g} images/s; step {1e3 * step['p50']:.4g} ms (p50), "
        f"{1e3 * step['p90']:.4g} (p90), {1e3 * step['p99']:.4g} (p99)",
        f"{results['seconds']['compile']:.1f} s to compile",
        f"{results['step_gflop']:.4g} GFLOP a step, {results['tflops_per_device']:.3g} TFLOP/s a device; {mfu}",
        f"{memory['step_in_all'] / 2**20:,.0f} MiB a device, of which {memory['step_alone'] / 2**20:,.0f} MiB for the "
        f"step alone; {memory['host_peak'] / 2**20:,.0f} MiB of the host",
        f"{100 * results['waiting_for_data']:.1f} % of the time waiting for data",
    ]
    if run_:
        epochs = f", {run_['epochs']:.3g} epochs" if run_["epochs"] else ""
        lines.append(
            f"the whole run: {run_['steps']:,} steps, {run_['images']:,} images{epochs}, "
            f"about {run_['seconds']:,.0f} s of training, evaluation aside"
        )
    return "\n".join(lines)
