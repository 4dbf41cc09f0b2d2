"""bench --plan: what the step of a config would take on a slice of chips that is not here."""

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxtl.errors import UserError
from jaxtl.experiment import steps
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build
from jaxtl.parallel.backend import compiling_for
from jaxtl.parallel.mesh import AXES, abstract_arguments, mesh_shape
from jaxtl.parallel.partitioner import make_partitioner
from jaxtl.profiling.cost import computed_gflop, memory_cost
from jaxtl.profiling.hlo import KINDS, collectives, memory_bytes
from jaxtl.profiling.scaling_model import Program, estimate
from jaxtl.profiling.slices import Slice, find_slice

LEFT_OUT = (
    "reading and decoding images, copying them to the chips, evaluation, checkpoints, compiling",
    "chips or hosts that are slower than others, restarts, other users of the links",
    "slices joined by the data-centre network",
)
_BY_CPU = (
    "the memory's speed, fusion and the merging of collectives as the chip's own compiler does them: "
    "pip install -e '.[tpu]' plans for TPUs with it"
)


def run(config: ConfigDict, workdir: Path, name: str, *, share: float = 0.5) -> dict[str, Any]:
    """Compiles the first stage's step for a slice, tells what it would take there; returns what plan.json holds.

    Args:
      config: the config; train.batch_size is that of the whole slice.
      workdir: where plan.json goes.
      name: of the slice, such as "v5e-256".
      share: of the peak that computing is assumed to reach.
    """
    target = find_slice(name)
    if not 0 < share <= 1:
        raise UserError(f"--plan-share={share:g}: give a share of the chip's peak, above 0 and at most 1.")
    chips, batch_size = target.chips, config.train.batch_size
    mesh_shape(dict(config.train.mesh), chips)
    if batch_size % chips:
        raise UserError(
            f"train.batch_size is {batch_size}, which cannot be shared out evenly over the {chips} chips of {name}: "
            f"give a multiple, such as --config.train.batch_size={-(-batch_size // chips) * chips}."
        )
    files.open_workdir(workdir)
    own = target.chip.kind.startswith("TPU") and importlib.util.find_spec("libtpu") is not None
    begun = time.perf_counter()
    program = compile_apart(config, target, own=own)
    results = {
        "plan": name,
        "model": config.model.name,
        "precision": config.train.precision,
        "batch_size": batch_size,
        "compiled_by": f"the compiler for {target.chip.kind}" if own else f"the compiler for {chips} CPU devices",
        "compile_seconds": time.perf_counter() - begun,
        "assumed": {
            "share_of_peak": share,
            "peak_tflops": target.chip.peak / 1e12,
            "memory_gb_per_second": target.chip.hbm / 1e9,
            "link_gb_per_second_each_way": [rate / 1e9 for rate in target.chip.links],
        },
        "per_chip": {
            "gflop": program.flop / 1e9,
            "hbm_traffic_gb": program.hbm_bytes / 1e9,
            "peak_memory_gib": program.peak_bytes / 2**30,
            "memory_gib": target.chip.hbm_gib,
            "collectives": collectives_by_kind(program),
        },
        "slices": estimate(program, target, share=share),
        "left_out": [*LEFT_OUT, *(() if own else (_BY_CPU,))],
    }
    files.write_json(workdir / "plan.json", results)
    print(report(results))
    print(workdir / "plan.json")
    return results


def collectives_by_kind(program: Program) -> dict[str, dict[str, float]]:
    """Returns, by kind, how many collectives a step has, and the megabytes of their arrays and of what a chip sends."""
    found = {}
    for kind in KINDS:
        ones = [one for one in program.collectives if one.kind == kind]
        if ones:
            found[kind] = {
                "times": sum(one.times for one in ones),
                "mb": program.scale * sum(one.times * one.payload for one in ones) / 1e6,
                "mb_sent": program.scale * sum(one.sent for one in ones) / 1e6,
            }
    return found


def compile_apart(config: ConfigDict, target: Slice, *, own: bool) -> Program:
    """Compiles the step in another process: how many devices a process has is fixed when it first asks for one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_compile, config, target, own).result()
        except BrokenProcessPool:
            raise UserError(
                "the process that compiles was killed: compiling may need more memory than is here."
            ) from None


def _compile(config: ConfigDict, target: Slice, own: bool) -> Program:
    jax.config.update("jax_platforms", "cpu")
    if own:
        devices = _described(target)
    else:
        jax.config.update("jax_num_cpu_devices", target.chips)
        devices = jax.devices()
    with compiling_for("tpu" if target.chip.kind.startswith("TPU") else "gpu"):
        return compile_step(config, devices, own=own)


def _described(target: Slice) -> Sequence[Any]:
    """Returns the devices of a slice of TPUs, to compile for."""
    from jax.experimental import topologies

    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    generation = target.chip.kind.removeprefix("TPU ")
    bounds = {} if target.chips > 1 else {"chips_per_host_bounds": [1, 1, 1]}
    with _quiet():
        return topologies.get_topology_desc(f"{generation}:{target.topology}", platform="tpu", **bounds).devices


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what the library for TPUs complains of where there are none."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def compile_step(config: ConfigDict, devices: Sequence[Any], *, own: bool) -> Program:
    """Compiles the first stage's step for devices, from shapes alone.

    Args:
      config: the config; the blocks of the model are compiled one by one, since a loop's body would be counted once.
      devices: to compile for.
      own: whether they are the chips themselves, so that their compiler tells HBM traffic and peak memory.
    """
    config = config.copy_and_resolve_references()
    config.model.scan = False
    rules, mesh = dict(config.train.sharding), dict(config.train.mesh)
    partitioner = make_partitioner("jit", mesh=mesh, rules=rules, devices=devices)
    experiment = build(config, abstract=True, weights_optional=True)
    step, state = steps.abstract_step(experiment, experiment.plan.stages[0])
    batch = steps.global_batch_shapes(steps.dummy_batch(experiment.model.pixels.size, config.train.batch_size))
    partitioner.check(state.variables)
    arguments = abstract_arguments(state, batch, mesh=mesh, rules=rules, devices=devices)
    try:
        compiled: Any = partitioner.compile(step, *arguments, donate=True)
    except jax.errors.JaxRuntimeError as error:
        if error.error_code_string != "RESOURCE_EXHAUSTED":
            raise
        raise UserError(
            f"the step does not fit into a chip's memory: {' '.join(str(error).split())[:200]}\n"
            "give a smaller train.batch_size, train.accumulate, model.remat, or train.mesh with fsdp."
        ) from None
    count, memory = len(devices), compiled.memory_analysis()
    state_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    text = compiled.as_text()
    return Program(
        flop=1e9 * computed_gflop(step, state, batch) / count,
        hbm_bytes=memory_bytes(text) if own else 0.0,
        state_bytes=state_bytes if own else 0.0,
        peak_bytes=memory_cost(compiled, state)["peak_bytes"],
        mesh=dict(zip(AXES, mesh_shape(mesh, count), strict=True)),
        # A CPU waits for each; what the chip's compiler will do is not known then.
        collectives=[one if own else dataclasses.replace(one, blocking=False) for one in collectives(text, count)],
        # A CPU computes in float32 what is asked for in 16 bits, and sends it so.
        scale=1.0 if own or config.train.precision == "float32" else 0.5,
    )


def report(results: Mapping[str, Any]) -> str:
    """Returns the metrics as lines and a table."""
    chip, assumed, batch_size = results["per_chip"], results["assumed"], results["batch_size"]
    rates = " and ".join(f"{rate:g}" for rate in assumed["link_gb_per_second_each_way"])
    hbm_bytes = f", {chip['hbm_traffic_gb']:.3g} GB of HBM traffic" if chip["hbm_traffic_gb"] else ""
    last = results["slices"][-1]
    weak = last["weak"]
    compute, links, blocking, delays = (
        1e3 * weak[f"{part}_seconds"] for part in ("compute", "link", "exposed", "delay")
    )
    lines = [
        f"{results['model']}, {results['precision']}, batch {batch_size} on {results['plan']} ({last['chips']} chips, "
        f"{last['topology']}, {' x '.join(f'{axis} {size}' for axis, size in last['mesh'].items())}); nothing was run",
        f"compiled by {results['compiled_by']} in {results['compile_seconds']:.0f} s; each chip: "
        f"{chip['gflop']:,.4g} GFLOP{hbm_bytes}, {chip['peak_memory_gib']:.3g} of {chip['memory_gib']} GiB at the peak",
        *(
            f"  {kind}: {ones['times']} a step, arrays of {ones['mb']:,.4g} MB, {ones['mb_sent']:,.4g} MB sent a chip"
            for kind, ones in chip["collectives"].items()
        ),
        f"assumed: {assumed['share_of_peak']:g} of {assumed['peak_tflops']:g} TFLOP/s, memory at "
        f"{assumed['memory_gb_per_second']:g} GB/s, links at {rates} GB/s each way",
        f"a step: {compute:.4g} ms computing, {links:.4g} ms on the links ({blocking:.4g} of them exposed), "
        f"{delays:.4g} ms of delays; {batch_size / weak['step_seconds']:,.0f} images/s",
        f"{'':18}{batch_size // last['chips']} rows a chip{'':33}batch {batch_size} shared out",
        f"{'chips':>6}{'':>11}{'step ms':>9}{'efficiency (exposed, hidden)':>31}{'step ms':>11}{'efficiency':>12}",
    ]
    for row in results["slices"]:
        weak, strong = row["weak"], row["strong"]
        bounds = f"({weak['efficiency_if_exposed']:.3f}, {weak['efficiency_if_hidden']:.3f})"
        lines.append(
            f"{row['chips']:>6}{row['topology']:>11}{1e3 * weak['step_seconds']:>9.4g}{weak['efficiency']:>15.3f}"
            f"{bounds:>16}{1e3 * strong['step_seconds']:>11.4g}{strong['efficiency']:>12.3f}"
        )
    return "\n".join([*lines, *(f"left out: {text}" for text in results["left_out"])])
