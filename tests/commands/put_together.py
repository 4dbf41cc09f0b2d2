"""Runs of one network, made of one that has trained: tests of what is put together need several."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxtl.checkpoints.manager import Checkpoints, read_best


def variant(run: Path, folder: Path, change: Callable[[str, np.ndarray], np.ndarray], *, step: int = 12) -> Path:
    """Copies a run, with one checkpoint whose parameters are what `change` makes of their paths and values."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "report", "events"))
    _, variables = read_best(run)
    changed = jax.tree_util.tree_map_with_path(lambda path, x: change(jax.tree_util.keystr(path), x), variables)
    save(folder, {step: changed})
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "best_step": step}))
    return folder


def save(folder: Path, steps: dict) -> None:
    """Writes checkpoints; later ones are the better."""
    with Checkpoints(folder / "checkpoints", keep_latest=len(steps)) as checkpoints:
        for step, variables in steps.items():
            checkpoints.save(step, variables, {"step": np.int32(step)}, {}, float(step))


def shifted(seed: int, scale: float = 0.02) -> Callable[[str, np.ndarray], np.ndarray]:
    """Returns a change by noise, the same for a seed."""

    def change(path: str, x: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, *path.encode()])
        return (np.asarray(x) + scale * rng.normal(size=x.shape)).astype(x.dtype)

    return change
