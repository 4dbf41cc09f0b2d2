"""Workdirs as runs leave them, written without training: for the tests of comparisons."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.config import default, to_dict
from jaxtl.evaluate.details import detailed_metrics
from jaxtl.evaluate.metrics import wilson_interval
from jaxtl.evaluate.predictions import as_arrays

CLASSES = ("cat", "dog", "emu")
NAMES = tuple(f"test/{number:02}.png" for number in range(30))


def logits_of(labels: np.ndarray, classes: int, seed: int, strength: float = 1.5) -> np.ndarray:
    """Returns logits [N, C] that favour the labels, with noise."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), classes))
    return np.float32(strength * np.eye(classes)[labels] + noise)


def write_run(
    workdir: Path,
    *,
    seed: int = 0,
    splits: Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] = CLASSES,
    loss: str = "softmax",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a finished run; an image's class follows from its name, so all runs have the same labels."""
    workdir.mkdir(parents=True)
    write_unfinished(workdir, config=config)
    splits = {"test": NAMES, "val": [name.replace("test", "val") for name in NAMES[:20]]} if splits is None else splits
    arrays, metrics = {}, {}
    for split, names in splits.items():
        labels = np.array([classes.index(sorted(classes)[int(name[-6:-4]) % len(classes)]) for name in names], np.int32)
        logits = logits_of(labels, len(classes), seed)
        arrays |= as_arrays(split, names, labels, logits)
        if len(labels):
            found = detailed_metrics(labels, logits, classes, sigmoid=loss == "binary")
            interval = wilson_interval(round(found["accuracy"] * len(labels)), len(labels))
            metrics[split] = {**found, "count": len(labels), "accuracy_interval": interval}
    np.savez(workdir / "predictions.npz", classes=np.asarray(classes), **arrays)
    results = {
        "model": "vit_ti16", "weights": "", "data": "folder:photos", "classes": list(classes), "loss": loss,
        "parameters": {"total": 1234567, "trainable": 1234}, "steps": 20, "best_step": 10, "steps_per_epoch": 10.0,
        "monitor": "accuracy", "seconds": {"total": 75.0, "train": 60.0}, "train": {"images_per_second": 123.4},
        "cost": {"step_gflop": 1.5, "peak_bytes": 2**20}, **metrics,
    }  # fmt: skip
    (workdir / "results.json").write_text(json.dumps(results))
    return workdir


def write_unfinished(workdir: Path, *, config: Mapping[str, Any] | None = None) -> Path:
    """Writes what a run leaves that trains, in the middle of a line of metrics.jsonl."""
    workdir.mkdir(parents=True, exist_ok=True)
    values = to_dict(default())
    for key, value in (config or {}).items():
        section, name = key.split(".")
        values[section][name] = value
    (workdir / "config.json").write_text(json.dumps(values))
    (workdir / "inputs.json").write_text("{}")
    lines = [
        {"step": 10, "split": "train", "loss": 1.0, "learning_rate": 0.1},
        {"step": 10, "split": "val", "loss": 0.75, "accuracy": 0.5},
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 12, "spl')
    return workdir


def write_eval(workdir: Path, *, seed: int = 0) -> Path:
    """Writes what the eval command leaves."""
    write_run(workdir, seed=seed, splits={"test": NAMES})
    for name in ("metrics.jsonl", "inputs.json"):
        (workdir / name).unlink()
    results = json.loads((workdir / "results.json").read_text())
    kept = {key: results[key] for key in ("model", "weights", "data", "classes", "loss", "test")}
    (workdir / "results.json").write_text(json.dumps({**kept, "split": "test", "seconds": {"total": 5.0}}))
    return workdir
