"""What a run needs before its first step: its workdir claimed, its data checked, and told from what it began with."""

import json
from dataclasses import replace
from pathlib import Path

from jaxtl.errors import UserError
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.build import Experiment, check_devices
from jaxtl.experiment.changes import changed_facts, digests
from jaxtl.experiment.head_start import begins_with_probe
from jaxtl.experiment.input_pipeline import load_into_memory
from jaxtl.experiment.records import write_records
from jaxtl.experiment.sizes import replaced
from jaxtl.experiment.steps import make_step, shard_states
from jaxtl.experiment.summary import opening_lines
from jaxtl.train.writers.choose import check_installed, parse_names


def start_run(experiment: Experiment, workdir: Path) -> Experiment:
    """Claims the workdir for a run, and returns its experiment as it trains.

    Images are in memory as far as they fit, states are sharded as the plan says, and on a GPU the form of
    attention is chosen.

    Raises:
      UserError: the workdir holds another run, or whatever else the user can fix; nothing was compiled.
    """
    _check_shapes(experiment)
    check_installed(parse_names(experiment.config.log.to))
    if experiment.config.finetune.head_start == "probe":
        begins_with_probe(experiment)  # What is wrong with that is said now; "auto" takes what it can.
    experiment = shard_states(experiment)
    files.claim(workdir, experiment.given or experiment.config)
    began = files.began_sparing(workdir)
    if began is not None:  # A run goes on as it began.
        experiment = replace(experiment, plan=replace(experiment.plan, no_weight_decay=began))
    experiment = load_into_memory(experiment)
    model, plan, splits, report = experiment.model, experiment.plan, experiment.splits, experiment.load_report
    # What was cut to the size of the data or set by a preset; runs of before cut nothing, and note nothing.
    given = experiment.given or experiment.config
    fitted = {} if experiment.earlier else {files.FITTED: json.dumps(replaced(given, experiment.config))}
    files.claim_inputs(workdir, {**digests(splits, report.sha256 if report else {}), **fitted})
    files.claim_facts(workdir, model.facts(), changed_facts)
    files.write_json(workdir / "weight_decay.json", {"spares": plan.no_weight_decay})
    if report is not None:
        files.write_json(workdir / "weights.json", report.to_json())
    write_records(experiment, workdir)
    print("\n".join(opening_lines(experiment)), flush=True)
    first = plan.stages[0]
    # Penalties are made here once, for what is wrong with their rules to be said now.
    make_step(experiment, first, plan.make_optimizer(first))
    return with_fastest_attention(experiment, workdir=workdir)


def _check_shapes(experiment: Experiment) -> None:
    """Raises a UserError for sizes that would fail in a thread, or in the compiler, later on."""
    config, partitioner, size = experiment.config, experiment.partitioner, experiment.model.pixels.size
    check_devices(options.eval_batch_size(config), partitioner, "eval.batch_size")
    augment, parts = options.augmentation(config), config.train.accumulate * partitioner.devices
    resize = augment.resize
    if augment.crop == "resize_crop" and 0 < resize < size:
        raise UserError(f"augment.resize is {resize}, but the crop is {size} pixels: give more, or 0.")
    if partitioner.axis_name and config.train.batch_size % parts:
        raise UserError(
            f"train.batch_size {config.train.batch_size} cannot be split into train.accumulate "
            f"{config.train.accumulate} parts on each of {partitioner.devices} devices: give a multiple of {parts}."
        )
