"""Measures jaxtl on one GPU: is it right, how fast are its steps beside timm's, and how fast are whole runs.

    python tests/benchmarks/gpu.py --output=runs/gpu --photos=DIR --weights=deit_tiny_patch16_224.safetensors
    python tests/benchmarks/gpu.py --part b --rows vit_b16:all resnet50:all:64 --seconds 240 --profile
    python tests/benchmarks/gpu.py --part b --who jaxtl --rows vit_b16:all --profile     # jaxtl alone: half the time
    python tests/benchmarks/gpu.py --tiny                                                # tries the script on a CPU

Part a, correctness. Logits on the GPU against the CPU's, float32 within 1e-4 and bfloat16 within 2e-2 of the largest,
with random parameters; and the losses of 20 steps with each form of attention, and with every operation in its plain
form, within 2e-2 of the first.

Part b, steps. jaxtl (bfloat16) against timm's models (torch.compile, autocast to bfloat16, channels_last for CNNs,
fused AdamW, cuDNN's own choice of algorithms), on the same batch of noise that lies ready on the GPU. A row is
MODEL:UNFREEZE or MODEL:UNFREEZE:BATCH. Each contestant is a process of its own; both compile at once, then they take
turns. The ratio of a round is timm's time by jaxtl's, above 1 where jaxtl is faster; the median counts.

Part c, whole runs on photographs, from JPEG files to the test accuracy: `python -m jaxtl.main` beside a PyTorch loop
with DataLoader workers, on the same views. DIR holds train/ and test/ with one folder a class.

Every part has a time budget of its own (--seconds 90, or a=60 b=150 c=90); what does not fit is skipped, and says so.
Lines go to the screen and to lines.jsonl as they come, all to gpu.json; log.txt and kernels.txt hold the details.
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpu_runs
import gpu_steps
from gpu_common import Deadline, Failed, OutOfTime, Report, Worker, last_line

ROOT = Path(__file__).parents[2]
SECONDS = {"a": 70.0, "b": 140.0, "c": 90.0}


def main() -> int:
    arguments = parse()
    gpu = ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    if arguments.tiny:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    elif not gpu:
        print("nvidia-smi finds no GPU here: give --tiny to try the script on a CPU.", file=sys.stderr)
        return 1
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Two processes share the GPU.
    sys.path.insert(0, str(ROOT))  # Workers begin with this path.
    from jaxtl.parallel import gpu_flags

    gpu_flags.set_flags()  # As the commands do; workers begin with this environment.
    report = Report(arguments.output)
    add_machine(report, gpu if not arguments.tiny else "no GPU: --tiny on a CPU")
    for part in arguments.part:
        begun = time.monotonic()
        deadline = Deadline(arguments.seconds[part])
        if part == "a":
            check(report, deadline, arguments.tiny)
        elif part == "b":
            rows = arguments.rows or (gpu_steps.TINY_ROWS if arguments.tiny else gpu_steps.ROWS)
            plan = gpu_steps.Plan(
                arguments.who,
                arguments.steps or (2 if arguments.tiny else 20),
                arguments.rounds or (2 if arguments.tiny else 5),
                arguments.profile,
                arguments.sequential,
                arguments.together,
            )
            gpu_steps.run_part(report, deadline, [gpu_steps.parse_row(row, arguments.tiny) for row in rows], plan)
        else:
            gpu_runs.run_part(report, deadline, arguments)
        report.add(part, "time", f"{time.monotonic() - begun:.0f} s of {arguments.seconds[part]:.0f}")
    report.finish()
    print(f"{report.bad} bad lines; {report.folder}")
    return int(report.bad > 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(SECONDS), default=list(SECONDS))
    parser.add_argument("--seconds", nargs="+", default=[], metavar="[PART=]S", help="time budget of each part, or one")
    parser.add_argument("--output", type=Path, help="default: a new temporary folder")
    parser.add_argument("--tiny", action="store_true", help="small models on a CPU: tries the script, measures nothing")
    parser.add_argument("--rows", nargs="+", metavar="MODEL:UNFREEZE", help=f"default: {' '.join(gpu_steps.ROWS)}")
    parser.add_argument("--who", nargs="+", choices=list(gpu_steps.CONTESTANTS), default=list(gpu_steps.CONTESTANTS))
    parser.add_argument("--steps", type=int, default=0, help="steps of a round (20)")
    parser.add_argument("--rounds", type=int, default=0, help="rounds (5)")
    parser.add_argument("--profile", action="store_true", help="list the kernels of jaxtl's steps in kernels.txt")
    parser.add_argument("--sequential", action="store_true", help="let one compile after the other, not at once")
    parser.add_argument("--together", action="store_true", help="let all rows compile at once, then time each")
    gpu_runs.add_arguments(parser)
    arguments = parser.parse_args()
    budgets = {part: seconds * (2 if arguments.tiny else 1) for part, seconds in SECONDS.items()}
    for item in arguments.seconds:
        part, _, seconds = item.rpartition("=")
        budgets.update({part: float(seconds)} if part else dict.fromkeys(budgets, float(seconds)))
    arguments.seconds = budgets
    arguments.output = arguments.output or Path(tempfile.mkdtemp(prefix="jaxtl-gpu-"))
    return arguments


def ask(*command: str) -> str:
    """Gives what a program prints, or "" where it is absent or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def add_machine(report: Report, gpu: str) -> None:
    commit = ask("git", "rev-parse", "--short", "HEAD") or "unknown"
    if commit != "unknown" and ask("git", "status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    packages = {name: version(name) for name in ("jax", "flax", "optax", "torch", "torchvision", "timm")}
    names = ", ".join(f"{name} {found}" for name, found in packages.items())
    day = time.strftime("%Y-%m-%d")
    text = f"{gpu}; {len(os.sched_getaffinity(0))} cores; {day}; commit {commit}; {names}"
    report.add("-", "machine", text, gpu=gpu, date=day, commit=commit, packages=packages)


def check(report: Report, deadline: Deadline, tiny: bool) -> None:
    """Part a: passes on what a process of its own finds, so that nothing of it stays on the GPU."""
    worker = Worker("gpu_jax.checks", tiny)
    patience = 10.0
    try:
        while (line := worker.receive(deadline)) is not None:
            what, text, bad, numbers = line
            report.add("a", what, text, bad=bad, **numbers)
    except OutOfTime:
        report.add("a", "the rest", "given up: the time of part a is spent")
        patience = 0.0
    except Failed as failure:
        report.log("part a", str(failure))
        report.add("a", "the rest", f"failed: {last_line(str(failure))}", bad=True)
    finally:
        worker.end(patience)


if __name__ == "__main__":
    sys.exit(main())
