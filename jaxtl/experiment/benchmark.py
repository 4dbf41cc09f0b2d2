"""The steps of a config, timed: on noise, or on its data as train would read them."""

import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxtl import pretrained
from jaxtl.data.loader import Batch
from jaxtl.experiment import options, steps
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.build import Experiment, build, check_devices
from jaxtl.experiment.input_pipeline import Inputs, make_inputs
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.profiling.chips import peak_tflops
from jaxtl.profiling.cost import Cost, step_cost
from jaxtl.profiling.timing import Timing, time_steps

INPUTS = ("synthetic", "real")


def build_for_bench(config: ConfigDict, workdir: Path, source: str) -> tuple[Experiment, Inputs]:
    """Returns the experiment and what its steps read.

    Args:
      config: the config.
      workdir: where cached features lie.
      source: "synthetic": noise, for which neither data nor weights need be at hand; "real": the data.
    """
    if source == "synthetic":
        return _synthetic(config)
    experiment = with_fastest_attention(build(config))
    plan = experiment.plan
    epochs = plan.total_steps / experiment.steps_per_epoch
    return experiment, make_inputs(experiment, workdir, stages=plan.stages, epochs=epochs)


def _synthetic(config: ConfigDict) -> tuple[Experiment, Inputs]:
    partitioner = options.partitioner(config)
    check_devices(config.train.batch_size, partitioner, "train.batch_size")
    abstract = build(config, abstract=True, weights_optional=True)
    experiment = with_fastest_attention(dataclasses.replace(abstract, partitioner=partitioner))
    model = experiment.model
    # Products of other numbers take as long.
    variables = pretrained.initialise(model.module, jax.random.key(config.train.seed), model.pixels.size)
    dummy = steps.dummy_batch(model.pixels.size, config.train.batch_size)
    noise = np.random.default_rng(0).integers(0, 256, dummy["image"].shape, np.uint8)
    labels = np.arange(len(noise), dtype=np.int32) % len(model.classes)

    def batches(start_step: int) -> Iterator[Batch]:
        return itertools.repeat({**dummy, "image": noise, "label": labels})

    inputs = Inputs(model.module, False, dummy, batches, _no_evaluation)
    return dataclasses.replace(experiment, variables=variables), inputs


def _no_evaluation(*_: Any) -> NoReturn:
    raise AssertionError("a benchmark evaluates nothing")


def measure(
    experiment: Experiment, inputs: Inputs, *, source: str, steps_to_time: int, warmup: int
) -> tuple[Timing, Cost, float]:
    """Compiles and runs the first stage's step; returns the timing, the cost and the seconds of compiling."""
    stage = experiment.plan.stages[0]
    optimizer = experiment.plan.make_optimizer(stage)
    step = steps.make_step(experiment, stage, optimizer, module=inputs.model, cached=inputs.cached)
    experiment = steps.shard_states(experiment)
    partitioner = experiment.partitioner
    state = partitioner.shard_state(steps.make_state(experiment, stage, optimizer))
    begun = time.perf_counter()
    compiled = partitioner.compile(step, state, partitioner.shard_batch(inputs.dummy), donate=True)
    compiling = time.perf_counter() - begun
    shapes = steps.abstract_state(experiment, stage, optimizer)
    cost = step_cost(step, compiled, shapes, steps.global_batch_shapes(inputs.dummy))
    batches = inputs.batches(0)
    on_devices = (
        map(partitioner.shard_batch, batches)
        if source == "real"
        else itertools.repeat(partitioner.shard_batch(next(batches)))
    )
    return time_steps(compiled, state, on_devices, steps=steps_to_time, warmup=warmup)[1], cost, compiling


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


def estimate(experiment: Experiment, seconds: float) -> dict[str, Any] | None:
    """Returns how long the run would take at `seconds` a step; None if unknown data decide its length."""
    config, plan, images = experiment.config, experiment.plan, len(experiment.splits.train)
    lengths = config.finetune.stages or ({"steps": config.train.steps} if config.train.steps else {},)
    if not images and not all("steps" in stage for stage in lengths):
        return None
    seen = plan.total_steps * config.train.batch_size
    return {
        "steps": plan.total_steps,
        "images": seen,
        "epochs": seen / images if images else None,
        "seconds": plan.total_steps * seconds,
    }


def machine(partitioner: Partitioner) -> dict[str, Any]:
    """Returns what the steps run on."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": partitioner.devices,
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }
