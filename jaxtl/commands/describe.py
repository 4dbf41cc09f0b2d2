"""The describe command: what a config would train, without data, and without compiling unless asked to."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.experiment import steps
from jaxtl.experiment.build import build
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help="compile the step, and tell what it costs")
    parser.add_argument("--leaves", action="store_true", help="list every parameter, not only the groups")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), leaves=arguments.leaves, cost=arguments.compile)


def run(config: ConfigDict, *, leaves: bool = False, cost: bool = False) -> None:
    """Prints the load report, the groups with shapes, counts, what trains and its rate, and the step's cost."""
    experiment = build(config, abstract=True)
    plan = experiment.plan
    if experiment.load_report is not None:
        print(experiment.load_report.table())
    print("\n".join([f"{len(experiment.model.classes)} classes, from {experiment.origin}", *plan.notes]))
    # The rates shown are the highest, so the length of an epoch does not matter.
    print(table(plan, config.optimizer.learning_rate, leaves=leaves))
    for number, stage in enumerate(plan.stages, start=1):
        if len(plan.stages) > 1:
            spec = config.finetune.stages[number - 1]
            length = f"{spec['steps']} steps" if "steps" in spec else f"{spec['epochs']:g} epochs"
            print(f"stage {number}: {length}, {plan.count(stage.since):,} parameters train, rates x {stage.rate:g}")
        if cost:
            print(steps.stage_cost(experiment, stage))


def table(plan: Plan, learning_rate: float, *, leaves: bool = False) -> str:
    """Returns the groups from input to head: parameters, how many of them train, the rate, and shapes."""
    rows = [("group", "parameters", "trains", "rate", "shapes")]
    for group in dict.fromkeys(plan.assignment.values()):
        paths = [path for path, owner in plan.assignment.items() if owner == group]
        trained = [path for path in paths if plan.labels[path] != FROZEN]
        rates = sorted({plan.peak(path, learning_rate) for path in trained})
        largest = max(paths, key=lambda path: math.prod(plan.shapes[path]))
        total, trains = (sum(math.prod(plan.shapes[path]) for path in chosen) for chosen in (paths, trained))
        shown = f"{largest} {list(plan.shapes[largest])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        rows.append((group, f"{total:,}", f"{trains:,}" if trains else "frozen", _range(rates), shown))
        if leaves:
            for path in paths:
                frozen = plan.labels[path] == FROZEN
                rate = "" if frozen else f"{plan.peak(path, learning_rate):.3g}"
                size = math.prod(plan.shapes[path])
                rows.append(
                    (f"  {path}", f"{size:,}", "frozen" if frozen else f"{size:,}", rate, str(list(plan.shapes[path])))
                )
    counts = plan.counts
    rows.append(("total", f"{counts['total']:,}", f"{counts['trainable']:,}", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def _range(rates: list[float]) -> str:
    if not rates:
        return ""
    return f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
