"""Part c of gpu.py: whole runs on photographs as processes of their own, jaxtl's commands beside a PyTorch loop.

Both train the recipe configs/vit_flowers.py:ti16 in bfloat16 (timm's loop with its usual rates), see the test split
once, at the end, and are timed from the start of the process to its end. jaxtl keeps a tenth of train for validation.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpu_common import WARMUP, Deadline, Failed, OutOfTime, Report, last_line

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Where the tests look for real weights and photographs, too.
SHARED = ROOT.parent / "shared" / "data"
PHOTOS = SHARED / "datasets" / "oxford_flowers12"
WEIGHTS = SHARED / "weights" / "deit_tiny_imagenet1k" / "deit_tiny_patch16_224.safetensors"
RUNS = ("vit_ti16:all", "vit_b16:all", "vit_ti16:head")
TINY_RUNS = ("vit_petals:head",)
PRETRAINED = "vit_ti16"  # What --weights fits.


@dataclass(frozen=True)
class Run:
    model: str
    unfreeze: str
    weights: Path | None
    photos: Path
    epochs: int
    batch: int
    device: str

    @property
    def name(self) -> str:
        return f"{self.model}:{self.unfreeze}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, help="holds train/ and test/ with one folder of JPEG files a class")
    parser.add_argument("--weights", type=Path, help="a safetensors file of DeiT-Tiny, for vit_ti16")
    parser.add_argument("--runs", nargs="+", metavar="MODEL:UNFREEZE", help=f"default: {' '.join(RUNS)}")
    parser.add_argument("--epochs", type=int, default=0, help="of each run (20)")
    parser.add_argument("--run-batch", type=int, default=0, help="images of a step of each run (64)")


def run_part(report: Report, deadline: Deadline, arguments: argparse.Namespace) -> None:
    photos, weights = arguments.photos or PHOTOS, arguments.weights or WEIGHTS
    if not photos.is_dir():
        report.add("c", "all runs", f"skipped: no photographs at {photos}; give --photos", bad=bool(arguments.photos))
        return
    if not weights.is_file():
        report.add("c", "weights", f"no file {weights}: {PRETRAINED} begins at random", bad=bool(arguments.weights))
    tiny = arguments.tiny
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            Run(
                *name.split(":"),
                weights.resolve() if name.startswith(PRETRAINED) and weights.is_file() else None,
                _few(photos, Path(folder) / "few") if tiny else photos.resolve(),
                arguments.epochs or (1 if tiny else 20),
                arguments.run_batch or (8 if tiny else 64),
                "cpu" if tiny else "cuda",
            )
            for name in arguments.runs or (TINY_RUNS if tiny else RUNS)
        ]
        workdirs = [Path(folder) / f"run{number}" for number in range(len(runs))]
        steps = [_both(report, deadline, *each, arguments.who) for each in zip(runs, workdirs, strict=True)]
        # Waiting comes last: it takes jaxtl another process, and says least.
        for run, workdir, count in zip(runs, workdirs, steps, strict=True):
            if count:
                with _told(report, f"{run.name} waiting"):
                    _waiting(report, deadline, run, workdir, count)


@contextlib.contextmanager
def _told(report: Report, what: str) -> Iterator[None]:
    """Turns what goes wrong within into a line of the table."""
    try:
        yield
    except OutOfTime:
        report.add("c", what, "skipped or given up: the time of part c is spent")
    except Failed as failure:
        report.add("c", what, f"failed: {failure}", bad=True)


def _few(photos: Path, folder: Path) -> Path:
    """Copies a few photographs of a few classes."""
    for split, count in (("train", 16), ("test", 4)):
        for source in sorted((photos / split).iterdir())[:3]:
            target = folder / split / source.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(source.iterdir())[:count]:
                shutil.copy(file, target)
    return folder


def _both(report: Report, deadline: Deadline, run: Run, workdir: Path, who: list[str]) -> int:
    """Runs each contestant, and adds a line for each; gives the number of jaxtl's steps, 0 where it did not finish."""
    found: dict[str, dict[str, Any]] = {}
    for name, start in (("jaxtl", partial(_jaxtl, workdir=workdir)), ("timm", _timm)):
        if name in who:
            with _told(report, f"{run.name} {name}"):
                found[name] = start(report, deadline, run)
                _add_line(report, run, name, found[name])
    if len(found) == 2:
        keys = {"training": "images_per_second", "whole": "whole_images_per_second"}
        ratios = {name: found["jaxtl"][key] / found["timm"][key] for name, key in keys.items()}
        text = f"jaxtl/timm: images/s in training x {ratios['training']:.2f}, in all x {ratios['whole']:.2f}"
        report.add("c", f"{run.name} ratio", text, **ratios)
    return found.get("jaxtl", {}).get("steps", 0)


def _add_line(report: Report, run: Run, name: str, found: dict[str, Any]) -> None:
    found["whole_images_per_second"] = found["images"] / found["seconds"]
    waiting = f", waiting {100 * found['waiting']:.0f} %" if "waiting" in found else ""
    text = (
        f"batch {run.batch}, {run.epochs} epochs: {found['images_per_second']:,.0f} images/s in training{waiting}, "
        f"{found['whole_images_per_second']:,.0f} in all; test accuracy {found['accuracy']:.3f}; "
        f"{found['seconds']:.1f} s, of which compiling {found['seconds_compile']:.1f}, "
        f"training {found['seconds_train']:.1f}, evaluating {found['seconds_evaluate']:.1f}"
    )
    report.add("c", f"{run.name} {name}", text, batch=run.batch, epochs=run.epochs, **found)


def _flags(run: Run, workdir: Path) -> list[str]:
    keys = {
        "model.name": run.model,
        "model.weights": run.weights or "",
        "data.source": f"folder:{run.photos}",
        "finetune.unfreeze": run.unfreeze,
        "train.batch_size": run.batch,
        "train.epochs": run.epochs,
        "train.precision": "bfloat16",
        "train.eval_every": 1_000_000,  # After the last step only, as the PyTorch loop.
        **({"optimizer.warmup_steps": 0} if run.device == "cpu" else {}),  # A tiny run is shorter than the recipe's.
    }
    return [
        "--config=configs/vit_flowers.py:ti16",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
    ]


def _jaxtl(report: Report, deadline: Deadline, run: Run, *, workdir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "jaxtl.main", "train", *_flags(run, workdir)]
    seconds, _ = _process(report, deadline, f"{run.name} jaxtl", command, _cache(workdir))
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    shutil.rmtree(workdir)  # Checkpoints are large.
    parts = results["seconds"]
    return {
        "images": results["train"]["images_per_second"] * parts["train"],
        "images_per_second": results["train"]["images_per_second"],
        "accuracy": results["test"]["accuracy"],
        "seconds": seconds,
        **{f"seconds_{key}": value for key, value in parts.items()},
        "steps": results["steps"],
    }


def _timm(report: Report, deadline: Deadline, run: Run) -> dict[str, Any]:
    if any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")):
        raise Failed("timm or torchvision is not installed (give --who jaxtl)")
    flags = {
        "photos": run.photos,
        "model": run.model,
        "unfreeze": run.unfreeze,
        "epochs": run.epochs,
        "batch": run.batch,
        "device": run.device,
        **({"weights": run.weights} if run.weights else {}),
    }
    command = [sys.executable, str(HERE / "gpu_photos.py"), *(f"--{key}={value}" for key, value in flags.items())]
    seconds, printed = _process(report, deadline, f"{run.name} timm", command)
    return {**json.loads(printed.splitlines()[-1]), "seconds": seconds}


def _cache(workdir: Path) -> Path:
    """A folder that is empty when a run starts, and spares the bench after it what is compiled alike."""
    return workdir.with_suffix(".cache")


def _waiting(report: Report, deadline: Deadline, run: Run, workdir: Path, steps: int) -> None:
    """Times the steps of jaxtl's run once more, with a watch on when the device has nothing to do."""
    steps = max(2, steps - WARMUP)
    flags = ["--input=real", f"--steps={steps}", f"--warmup={WARMUP}"]
    command = [sys.executable, "-m", "jaxtl.main", "bench", *_flags(run, workdir), *flags]
    _process(report, deadline, f"{run.name} bench", command, _cache(workdir))
    found = json.loads((workdir / "bench.json").read_text(encoding="utf-8"))
    text = (
        f"bench --input=real, {steps} steps: {100 * found['waiting_for_data']:.1f} % of the time waiting for data, "
        f"{found['images_per_second']:,.0f} images/s"
    )
    keys = ("waiting_for_data", "images_per_second", "step_seconds", "mfu")
    report.add("c", f"{run.name} waiting", text, **{key: found[key] for key in keys})


def _process(
    report: Report, deadline: Deadline, title: str, command: list[str], cache: Path | None = None
) -> tuple[float, str]:
    """Runs a command as a user would; gives its seconds and what it printed.

    Args:
      report: whose log keeps what it prints.
      deadline: of the part.
      title: what the log calls it.
      command: the program and its arguments.
      cache: the folder in which JAX keeps compiled programs; None for none.

    Raises:
      OutOfTime: the time of the part ended first.
      Failed: its status was not 0.
    """
    if not deadline.left:
        raise OutOfTime
    environment = dict(os.environ)
    environment.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)  # It has the GPU to itself.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {}
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=max(1.0, deadline.left)
        )
    except subprocess.TimeoutExpired:
        raise OutOfTime from None
    seconds = time.perf_counter() - begun
    report.log(f"{title}: status {done.returncode}, {seconds:.1f} s", f"{done.stdout}\n{done.stderr}")
    if done.returncode:
        raise Failed(last_line(done.stderr or done.stdout))
    return seconds, done.stdout
