"""The describe command: what a config would train, without data, and without compiling unless asked to."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxtl import pretrained
from jaxtl.commands import flags
from jaxtl.errors import UserError
from jaxtl.experiment import setup, steps
from jaxtl.experiment.build import Outline, outline
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import Stage
from jaxtl.profiling.cost import step_cost


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
    known = outline(config, _open_weights(config))
    plan = known.plan
    if known.load_report is not None:
        print(known.load_report.table())
    print("\n".join([f"{len(known.model.classes)} classes, from {known.classes_from}", *plan.notes]))
    # The rates shown are the highest, so the length of an epoch does not matter.
    print(table(plan, config.optimizer.learning_rate, leaves=leaves))
    for number, stage in enumerate(plan.stages, start=1):
        if len(plan.stages) > 1:
            spec = config.finetune.stages[number - 1]
            length = f"{spec['steps']} steps" if "steps" in spec else f"{spec['epochs']:g} epochs"
            print(f"stage {number}: {length}, {plan.count(stage.since):,} parameters train, rates x {stage.rate:g}")
        if cost:
            print(_cost(config, known, stage))


def _cost(config: ConfigDict, known: Outline, stage: Stage) -> str:
    """Compiles the step of a stage for one device, from shapes alone, and tells what it costs."""
    model, plan, shapes = known.model, known.plan, known.shapes
    step, state = steps.abstract_step(config, model, plan, stage, shapes)
    dummy = setup.dummy_batch(model.pixels.size, config.train.batch_size)
    reference = steps.begin_reference_cost(config, model, plan, shapes)
    compiled = jax.jit(step, donate_argnums=0).lower(state, dummy).compile()
    cost = step_cost(step, compiled, state, dummy) | reference.result()
    return steps.cost_line(cost, plan, stage)


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


def _open_weights(config: ConfigDict) -> pretrained.Weights | None:
    """Opens the weights as train does, and says how to do without them."""
    try:
        return setup.open_weights(config)
    except UserError as error:
        if config.model.name == "auto":
            raise
        raise UserError(f'{error}\nTo see the model without them: --config.model.weights=""') from error


def _range(rates: list[float]) -> str:
    if not rates:
        return ""
    return f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
