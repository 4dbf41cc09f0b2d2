"""The describe command: what a config would train, without data, and without compiling unless asked to."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.experiment import steps
from jaxtl.experiment.build import build
from jaxtl.experiment.summary import group_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help="compile the step, and tell what it costs")
    parser.add_argument("--leaves", action="store_true", help="list every parameter, not only the groups")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    print(run(flags.load_config(arguments, overrides), leaves=arguments.leaves, cost=arguments.compile))


def run(config: ConfigDict, *, leaves: bool = False, cost: bool = False) -> str:
    """Returns the load report, the groups with shapes, counts, what trains and its rate, and the step's cost."""
    experiment = build(config, abstract=True)
    plan = experiment.plan
    lines = [] if experiment.load_report is None else [experiment.load_report.table()]
    lines += [f"{len(experiment.model.classes)} classes, from {experiment.origin}", *plan.notes]
    # The rates shown are the highest, so the length of an epoch does not matter.
    lines += [group_table(plan, experiment.config.optimizer.learning_rate, leaves=leaves)]
    for number, stage in enumerate(plan.stages, start=1):
        if len(plan.stages) > 1:
            spec = config.finetune.stages[number - 1]
            length = f"{spec['steps']} steps" if "steps" in spec else f"{spec['epochs']:g} epochs"
            lines.append(
                f"stage {number}: {length}, {plan.count(stage.since):,} parameters train, rates x {stage.rate:g}"
            )
        if cost:
            lines.append(steps.stage_cost(experiment, stage))
    return "\n".join(lines)
