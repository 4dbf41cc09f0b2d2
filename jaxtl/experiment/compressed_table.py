"""What compressing changed: accuracy, size, zeros, FLOPs and time of a run and of what was made of it."""

import statistics
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.compress.quantization import pack
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.comparison_tables import Cell, Table, to_markdown
from jaxtl.experiment.compressing import forward_flops
from jaxtl.models.base import GroupedModel
from jaxtl.trees import flatten

TABLE = "compress.md"
_IMAGES, _ROUNDS = 8, 7  # Timed at once, and how often.


def compression_table(before: Path, after: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Puts a run and what was made of it beside each other, by their files and by timing both in turn.

    Returns:
      Lines in Markdown, and a row for each of the two: "run", "accuracy" and "count" of "test", or of "val" where there
      is none, "bytes" as export writes it, "gzip_bytes", "parameters", "zeros" (a share), "gflop" of an image, and "ms"
      of an image, in batches of 8.
    """
    opened = [_open(workdir) for workdir in (before, after)]
    seconds = _time_in_turn([(module, variables) for module, variables, _ in opened])
    rows = [{**row, "ms": 1000 * each / _IMAGES} for (_, _, row), each in zip(opened, seconds, strict=True)]
    head = ["run", f"accuracy on {rows[0]['split']}", "MB", "MB, gzip", "parameters", "zeros", "GFLOP", "ms an image"]
    body = [
        [
            row["run"],
            f"{100 * row['accuracy']:.2f} %",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['gzip_bytes'] / 1e6:.2f}",
            f"{row['parameters']:,}",
            f"{row['zeros']:.1%}",
            f"{row['gflop']:.3f}",
            f"{row['ms']:.1f}",
        ]
        for row in rows
    ]
    table = Table(head, [[Cell(text) for text in line] for line in body], numeric=[False, *[True] * (len(head) - 1)])
    return to_markdown(table).splitlines(), rows


def _open(workdir: Path) -> tuple[GroupedModel, Mapping[str, Any], dict[str, Any]]:
    """Returns a run's module, its variables as they are served, and its row."""
    results = files.read_json(workdir / "results.json")
    model, variables, _ = build_run(workdir)
    module = model.module
    parameters = flatten(variables["params"]).values()
    if module.quantized:
        variables = pack(variables, module.quantized, module.precise_kernels())
    arrays = [np.ascontiguousarray(leaf) for leaf in flatten(variables).values()]
    split = "test" if "test" in results else "val"
    count = sum(leaf.size for leaf in parameters)
    row = {
        "run": str(workdir),
        "split": split,
        "accuracy": results[split]["accuracy"],
        "count": results[split].get("count"),
        "bytes": sum(array.nbytes for array in arrays),
        "gzip_bytes": sum(len(zlib.compress(array.tobytes(), 6)) for array in arrays),
        "parameters": count,
        "zeros": sum(int((np.asarray(leaf) == 0).sum()) for leaf in parameters) / count,
        "gflop": forward_flops(module) / 1e9,
    }
    return module, variables, row


def _time_in_turn(networks: list[tuple[GroupedModel, Mapping[str, Any]]]) -> list[float]:
    """Returns the median seconds of a batch of each network; they take turns, for a busy machine to slow all alike."""
    calls = []
    for module, variables in networks:
        images = jnp.zeros((_IMAGES, module.image_size, module.image_size, 3))
        run = jax.jit(lambda tree, x, module=module: module.apply(tree, x, train=False))
        tree = jax.device_put(dict(variables))
        run(tree, images).block_until_ready()
        calls.append((run, tree, images))
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for times, (run, tree, images) in zip(found, calls, strict=True):
            begun = time.perf_counter()
            run(tree, images).block_until_ready()
            times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in found]
