"""What a run notes of itself at its start, for its report: groups.json, data.json and environment.json."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import jaxtl
from jaxtl import data
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def write_records(experiment: Experiment, workdir: Path) -> None:
    """Writes what is known before the first step; of several processes the first does."""
    config = experiment.config
    files.write_json(workdir / "groups.json", groups_record(experiment.plan, config.optimizer.learning_rate))
    files.write_json(workdir / "data.json", data_record(config.data.source, experiment.splits))
    files.write_json(workdir / "environment.json", environment_record())


def groups_record(plan: Plan, learning_rate: float) -> dict[str, Any]:
    """Returns the groups from input to head, with parameters, how many of them train, and rates; and the stages."""
    rows = []
    for group in dict.fromkeys(plan.assignment.values()):
        paths = [path for path, owner in plan.assignment.items() if owner == group]
        trained = [path for path in paths if plan.labels[path] != FROZEN]
        rows.append(
            {
                "group": group,
                "parameters": plan.count(paths),
                "trainable": plan.count(trained),
                "rates": sorted({plan.peak(path, learning_rate) for path in trained}),
                "largest": list(plan.shapes[max(paths, key=lambda path: math.prod(plan.shapes[path]))]),
            }
        )
    stages = [
        {"start": stage.start, "stop": stage.stop, "rate": stage.rate, "parameters": plan.count(stage.since)}
        for stage in plan.stages
    ]
    return {"groups": rows, "stages": stages}


def data_record(source: str, splits: data.Splits) -> dict[str, Any]:
    """Returns the number of images of each split and class, what was to be said of the data, and put right by hand."""
    chosen = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {
        "source": source,
        "splits": {name: _counts(split) for name, split in chosen.items() if split is not None},
        "notes": list(splits.notes),
        "changes": list(splits.changes),
    }


def _counts(split: data.Dataset) -> dict[str, Any]:
    counts = split.class_counts()
    return {"images": len(split), "per_class": dict(zip(split.classes, counts.tolist(), strict=True))}


def environment_record() -> Mapping[str, str]:
    """Returns versions and devices."""
    devices = jax.devices()
    return {
        "jaxtl": jaxtl.__version__,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
    }
