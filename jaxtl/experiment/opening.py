"""What a run needs before its first step: opened, checked, and told from what it began with."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import data, pretrained
from jaxtl.errors import UserError
from jaxtl.experiment import setup, steps
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.backbone import min_side
from jaxtl.experiment.build import open_parts
from jaxtl.experiment.input_pipeline import into_memory
from jaxtl.experiment.training_plan import Plan
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.train.losses import Loss


@dataclass(frozen=True)
class Run:
    """All that a run needs besides its state."""

    config: ConfigDict
    workdir: Path
    model: setup.Model
    splits: data.Splits
    plan: Plan
    loss: Loss
    partitioner: Partitioner
    steps_per_epoch: float


def open_run(config: ConfigDict, workdir: Path) -> tuple[Run, dict[str, Any]]:
    """Opens and checks everything; whatever the user can fix is reported here, before anything is compiled."""
    partitioner = setup.partitioner_for(config)
    setup.check_devices(config.train.batch_size, partitioner, "train.batch_size")
    setup.check_devices(config.eval.batch_size or config.train.batch_size, partitioner, "eval.batch_size")
    parts = open_parts(config)
    splits, model, variables, load_report, plan = (
        parts.splits,
        parts.model,
        parts.variables,
        parts.load_report,
        parts.plan,
    )
    loss = steps.choose_loss(config, len(model.classes), splits.train.labels)
    _check_shapes(config, model, partitioner)
    partitioner, variables = steps.place_states(config, model, plan, variables, partitioner)
    partitioner.check(variables)
    files.claim(workdir, config)
    splits = into_memory(config, splits, min_side(config, model))
    files.claim_inputs(workdir, _digests(splits, load_report))
    files.write_json(workdir / "model.json", model.facts())
    if load_report is not None:
        files.write_json(workdir / "weights.json", load_report.to_json())
        print(load_report.table())
    counts = plan.counts
    for note in (*splits.notes, *plan.notes):
        print(note)
    print(
        f"{model.name}: {counts['trainable']:,} of {counts['total']:,} parameters train in {plan.total_steps} steps, "
        f"on {len(splits.train):,} images; {len(splits.val):,} images to validate"
    )
    first = plan.stages[0]
    # Penalties are made here once, for what is wrong with their rules to be said now.
    steps.make_step(config, model, plan, first, optimizer=plan.make_optimizer(first), loss=loss)
    model = with_fastest_attention(config, model, partitioner, plan=plan, workdir=workdir)
    return Run(config, workdir, model, splits, plan, loss, partitioner, parts.steps_per_epoch), variables


def _check_shapes(config: ConfigDict, model: setup.Model, partitioner: Partitioner) -> None:
    """Raises a UserError for sizes that would fail in a thread, or in the compiler, later on."""
    resize, parts = config.augment.resize, config.train.accumulate * partitioner.devices
    if config.augment.crop == "resize_crop" and 0 < resize < model.pixels.size:
        raise UserError(f"augment.resize is {resize}, but the crop is {model.pixels.size} pixels: give more, or 0.")
    if partitioner.axis_name and config.train.batch_size % parts:
        raise UserError(
            f"train.batch_size {config.train.batch_size} cannot be split into train.accumulate "
            f"{config.train.accumulate} parts on each of {partitioner.devices} devices: give a multiple of {parts}."
        )


def _digests(splits: data.Splits, load_report: pretrained.LoadReport | None) -> dict[str, str]:
    """Returns what tells data and weights from others: a run that goes on must find the same."""
    digests = {f"weights {name}": value for name, value in (load_report.sha256 if load_report else {}).items()}
    for name, split in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if split is not None:
            listed = json.dumps([split.classes, split.labels.tolist(), list(split.names)])
            digests[f"data.{name}"] = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    return digests
