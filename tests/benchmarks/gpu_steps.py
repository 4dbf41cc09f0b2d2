"""Part b of gpu.py: steps of jaxtl and of timm's models in turn, each in a process of its own, one pair at a time."""

import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu_common import Deadline, Failed, OutOfTime, Report, Row, Worker, last_line

# The most telling first, in case time runs out.
ROWS = (
    *("vit_b16:all", "resnet50:all", "vit_s16:all", "vit_b16:2", "vit_b16:head", "vit_l16:all"),
    *("mobilenet_v3_large:all", "efficientnet_b0:all", "convnext_t:all", "vgg16:all"),
)
TINY_ROWS = ("vit_petals:1", "resnet18:head", "mobilenet_v3_large:all")
BATCH, SMALLER_BATCH = 128, {"vit_l16": 64}
SIDES = {"vit_petals": 64}
CONTESTANTS = {"jaxtl": "gpu_jax.contestant", "timm": "gpu_torch.contestant"}
PROFILED_STEPS = 5


def parse_row(text: str, tiny: bool) -> Row:
    """Reads "MODEL", "MODEL:UNFREEZE" or "MODEL:UNFREEZE:BATCH"."""
    model, unfreeze, batch = (*text.split(":"), "", "")[:3]
    usual = 4 if tiny else SMALLER_BATCH.get(model, BATCH)
    return Row(model, unfreeze or "all", int(batch or usual), SIDES.get(model, 224), "cpu" if tiny else "cuda")


@dataclass(frozen=True)
class Plan:
    """How rows are measured.

    Attributes:
      who: the contestants, of CONTESTANTS.
      steps: of a round.
      rounds: in which the contestants take turns.
      profile: whether the kernels of jaxtl's steps are listed.
      sequential: whether one compiles after the other, which takes longer: both may try forms of operations on the GPU.
      together: whether the contestants of all rows compile at once, before the first is timed: all must find room.
    """

    who: Sequence[str]
    steps: int
    rounds: int
    profile: bool
    sequential: bool
    together: bool


def run_part(report: Report, deadline: Deadline, rows: Sequence[Row], plan: Plan) -> None:
    if "timm" in plan.who and importlib.util.find_spec("timm") is None:
        report.add("b", "all rows", "skipped: timm is not installed (or give --who jaxtl)")
        return
    started: dict[Row, dict[str, Worker]] = {}
    if plan.together:
        started = {row: {name: Worker(CONTESTANTS[name], row) for name in plan.who} for row in rows}
    # Nothing is timed before all are ready.
    ready = {row: _receive_ready(report, deadline, row, workers) for row, workers in started.items()}
    for row in rows:
        if not deadline.left:
            report.add("b", row.name, "skipped: the time of part b is spent")
            for worker in started.get(row, {}).values():
                worker.end(0.0)
            continue
        _compare(report, deadline, row, plan, started.get(row, {}), ready.get(row, {}))


def _receive_ready(report: Report, deadline: Deadline, row: Row, workers: dict[str, Worker]) -> dict[str, Any]:
    try:
        return _receive_all(report, deadline, row, workers)
    except OutOfTime:
        return {}


def _compare(
    report: Report, deadline: Deadline, row: Row, plan: Plan, workers: dict[str, Worker], ready: dict[str, Any]
) -> None:
    """Measures one row, with the workers that are begun already, if any; none is timed before all are ready."""
    patience = 10.0
    try:
        for names in [] if workers else [[name] for name in plan.who] if plan.sequential else [plan.who]:
            workers |= {name: Worker(CONTESTANTS[name], row) for name in names}
            ready |= _receive_all(report, deadline, row, {name: workers[name] for name in names})
        if ready:
            seconds = _take_turns(deadline, {name: workers[name] for name in ready}, plan)
            memory = {name: workers[name].ask("memory", deadline) for name in ready}
            _add_line(report, row, ready, seconds, memory, plan.steps)
        if plan.profile and "jaxtl" in ready:
            found = workers["jaxtl"].ask(("profile", PROFILED_STEPS), deadline)
            _add_profile(report, row, found)
    except OutOfTime:
        report.add("b", row.name, "given up: the time of part b is spent")
        patience = 0.0
    except Failed as failure:
        report.log(row.name, str(failure))
        report.add("b", row.name, f"failed: {last_line(str(failure))}", bad=True)
    finally:
        for worker in workers.values():
            worker.end(patience)


def _receive_all(report: Report, deadline: Deadline, row: Row, workers: dict[str, Worker]) -> dict[str, Any]:
    """Gives what each contestant says when it is ready; one that fails gets a line, and the other goes on alone."""
    ready = {}
    for name, worker in workers.items():
        try:
            ready[name] = worker.receive(deadline)
        except Failed as failure:
            report.log(f"{row.name} {name}", str(failure))
            report.add("b", row.name, f"{name} failed: {last_line(str(failure))}", bad=True)
    return ready


def _take_turns(deadline: Deadline, workers: dict[str, Worker], plan: Plan) -> list[dict[str, float]]:
    """Gives the seconds of each contestant in each round."""
    for worker in workers.values():
        worker.ask(("run", max(1, plan.steps // 4)), deadline)
    return [
        {name: worker.ask(("run", plan.steps), deadline) for name, worker in workers.items()}
        for _ in range(plan.rounds)
    ]


def _add_line(
    report: Report, row: Row, ready: dict[str, Any], rounds: list[dict[str, float]], memory: dict[str, int], steps: int
) -> None:
    numbers: dict[str, Any] = {"batch": row.batch, "memory_bytes": memory, "rounds": rounds, "steps": steps, **ready}
    parts = [f"batch {row.batch}"]
    for name in ready:
        seconds = statistics.median(times[name] for times in rounds) / steps
        numbers[f"{name}_ms"], numbers[f"{name}_images_per_second"] = 1e3 * seconds, row.batch / seconds
        text = f"{name} {1e3 * seconds:7.2f} ms {row.batch / seconds:7,.0f} images/s"
        gflop, peak = (ready.get("jaxtl", {}).get(key) for key in ("gflop", "peak_tflops"))
        if gflop and peak:
            # The same mathematics for both: what timm computes beyond it is no work done.
            numbers[f"{name}_mfu"] = gflop / 1e3 / seconds / peak
            text += f" MFU {numbers[f'{name}_mfu']:.3f}"
        parts.append(f"{text} {memory[name] / 2**30:5.1f} GiB, ready in {ready[name]['ready_seconds']:.0f} s")
    if len(ready) == 2:
        ratios = sorted(times["timm"] / times["jaxtl"] for times in rounds)
        numbers["ratio"] = [statistics.median(ratios), ratios[0], ratios[-1]]
        parts.append(f"timm/jaxtl x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if "jaxtl" in ready:
        parts.append(f"{ready['jaxtl']['fused_attention_calls']} calls of cuDNN's attention")
    report.add("b", row.name, " | ".join(parts), **numbers)


def _add_profile(report: Report, row: Row, found: dict[str, Any]) -> None:
    """Appends the kernels of a row to kernels.txt, and their sum to the table."""
    total = sum(ms for _, _, ms in found["kernels"])
    times = (
        f"a step takes {found['untraced_ms']:.3f} ms, traced {found['traced_ms']:.3f} ms, of which the GPU is busy "
        f"{found['busy_ms']:.3f} ms; its kernels sum to {total:.3f} ms"
    )
    with (report.folder / "kernels.txt").open("a", encoding="utf-8") as file:
        file.write(f"=== {row.name} batch {row.batch}: {times}\n")
        for title, key in (("kinds", "kinds"), ("kernels", "kernels")):
            file.write(f"--- {title}: ms a step, count a step, name\n")
            file.writelines(f"{ms:10.4f} {count:8.1f}  {name}\n" for name, count, ms in found[key])
    numbers = {key: found[key] for key in ("untraced_ms", "traced_ms", "busy_ms")}
    report.add("b", f"{row.name} profile", f"{times}; kernels.txt", kernels_ms=total, **numbers)
