"""The bench command: times the steps of a config, or estimates them on chips that are not here."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.experiment import benchmark, slice_plan
from jaxtl.experiment import workdir as files
from jaxtl.experiment.model import weights_location
from jaxtl.parallel import processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where bench.json goes")
    parser.add_argument(
        "--input",
        choices=benchmark.INPUTS,
        default="synthetic",
        help="one batch of noise over and over (default), or the data",
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
    if arguments.plan:
        # It needs no chip, and takes none from a run.
        jax.config.update("jax_platforms", "cpu")
        config = flags.load_config(arguments, overrides)
        slice_plan.run(config, arguments.workdir, arguments.plan, share=arguments.plan_share)
        return
    with flags.connected(arguments):
        config = flags.load_config(arguments, overrides)
        run(config, arguments.workdir, source=arguments.input, steps=arguments.steps, warmup=arguments.warmup)


def run(
    config: ConfigDict, workdir: Path | str, *, source: str = "synthetic", steps: int = 30, warmup: int = 3
) -> dict[str, Any]:
    """Times the steps of the first stage; returns what bench.json holds."""
    if steps < 2 or warmup < 1:
        raise UserError(f"--steps={steps} --warmup={warmup}: give at least 2 steps, after at least 1.")
    workdir = Path(workdir)
    files.open_workdir(workdir)
    experiment, inputs = benchmark.build_for_bench(config, workdir, source)
    timing, cost, compiling = benchmark.measure(experiment, inputs, source=source, steps_to_time=steps, warmup=warmup)
    batch_size, partitioner = experiment.config.train.batch_size, experiment.partitioner
    results = {
        "model": experiment.model.name,
        "weights": weights_location(config),
        "data": config.data.source if source == "real" else "",
        "input": source,
        "precision": config.train.precision,
        "batch_size": batch_size,
        "parameters": experiment.plan.counts,
        **benchmark.machine(partitioner),
        **benchmark.measurements(timing, cost, batch_size=batch_size, devices=partitioner.devices),
        "seconds": {"compile": compiling, "timed": float(timing.done[-1] - timing.done[0])},
        "run": benchmark.estimate(experiment, timing.seconds),
    }
    if processes.is_main():
        files.write_json(workdir / "bench.json", results)
        print(report(results))
        print(workdir / "bench.json")
    return results


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
        f"step alone; {memory['host_peak'] / 2**20:,.0f} MiB of the host's main process",
        f"{100 * results['waiting_for_data']:.1f} % of the time waiting for data",
    ]
    if run_:
        epochs = f", {run_['epochs']:.3g} epochs" if run_["epochs"] else ""
        lines.append(
            f"the whole run: {run_['steps']:,} steps, {run_['images']:,} images{epochs}, "
            f"about {run_['seconds']:,.0f} s of training, evaluation aside"
        )
    return "\n".join(lines)
