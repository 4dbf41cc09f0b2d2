"""Measures opening ViT-L/16 (304 M parameters, 1.2 GB of safetensors) onto the device: time and host memory.

The bars: at most 2.5 times the time of reading the file in order with a warm page cache plus one copy of it, and a
peak of host memory of at most 1.3 times the file. On a CPU the arrays themselves are in host memory, once.

Run from the repository's root:  python tests/benchmarks/weights_open.py [--folder=/tmp]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxtl import models, pretrained
from jaxtl.models import vit
from jaxtl.pretrained import rename
from jaxtl.pretrained.load import abstract_variables

NAME = "vit_l16"


def write(path: Path) -> None:
    """Writes random weights in timm's names."""
    generator = np.random.default_rng(0)
    leaves = abstract_variables(models.build(NAME, num_classes=1000), 224)
    arrays = {path: generator.standard_normal(leaf.shape, dtype=np.float32) for path, leaf in leaves.items()}
    timm = next(key_mapping for key_mapping in vit.KEY_MAPPINGS if key_mapping.name == "timm")
    save_file(rename.to_source_keys(arrays, timm), path)


def read_and_copy(path: Path) -> float:
    """Gives the seconds of one sequential read and one copy."""
    start = time.perf_counter()
    buffer = bytearray(path.stat().st_size)
    with open(path, "rb", buffering=0) as file:
        view = memoryview(buffer)
        while len(view):
            view = view[file.readinto(view) :]
    np.frombuffer(buffer, np.uint8).copy()
    return time.perf_counter() - start


def _peak() -> int:
    # Not getrusage: its maximum is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def load_pretrained(path: Path) -> dict[str, float]:
    """Opens the file onto the device, sha256 included; gives seconds, and the growth of the peak of memory in bytes."""
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    model = models.build(NAME, num_classes=1000)
    before = _peak()
    start = time.perf_counter()
    opened = pretrained.open_weights(str(path), model=NAME)
    variables, load_report = pretrained.load_pretrained(opened, model, image_size=224, rng=jax.random.key(0))
    jax.block_until_ready(variables)
    seconds = time.perf_counter() - start
    assert load_report.sha256
    return {"seconds": seconds, "bytes": _peak() - before}


def main() -> None:
    """Prints the figures as one JSON object; each measurement runs in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load_pretrained(arguments.load)))
        return
    path = Path(arguments.folder) / "jaxtl_vit_l16.safetensors"
    write(path)
    try:
        baseline = min(read_and_copy(path) for _ in range(5))
        command = [sys.executable, __file__, f"--load={path}"]
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(5)]
        best = min(runs, key=lambda run: run["seconds"])
        size = os.path.getsize(path)
    finally:
        path.unlink()
    figures = {
        "file GB": round(size / 1e9, 3),
        "read and copy s": round(baseline, 2),
        "open s": round(best["seconds"], 2),
        "time ratio": round(best["seconds"] / baseline, 2),
        "memory ratio": round(best["bytes"] / size, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
