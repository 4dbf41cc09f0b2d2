"""The describe command: what a config would train, without data and without compiling."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jaxtl import data, weights
from jaxtl.commands import arguments as flags
from jaxtl.commands import setup
from jaxtl.commands.plan import Plan, make_plan
from jaxtl.errors import UserError
from jaxtl.train.groups import FROZEN
from jaxtl.weights.adopt import abstract_variables, nest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    parser.add_argument("--workdir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--leaves", action="store_true", help="list every parameter, not only the groups")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), leaves=arguments.leaves)


def run(config: ConfigDict, *, leaves: bool = False) -> None:
    """Prints the weights' passport, and the groups with shapes, counts, what trains, and each one's rate."""
    notes = []
    try:
        opened = setup.open_weights(config)
    except UserError as error:
        opened = None
        notes.append(f"the weights are not here, so the model is shown as if new: {str(error).splitlines()[0]}")
    classes, origin = _classes(config, opened)
    notes.append(f"{len(classes)} classes, from {origin}")
    model = setup.make_model(config, opened, classes)
    shapes = abstract_variables(model.module, model.pixels.size)
    new_head = opened is None or opened.num_classes != len(classes) or config.model.head == "new"
    params = nest({path: leaf for path, leaf in shapes.items() if path.startswith("params/")})["params"]
    # The rate shown is the highest one, so the length of the run does not matter.
    plan = make_plan(config, model.module, params, total_steps=config.train.steps or 1, new_head=new_head)
    if opened is not None:
        print(weights.Passport.begin(opened, head="new" if new_head else "kept").table())
    print("\n".join([*notes, *plan.notes]))
    print(table(plan, config.optimizer.learning_rate, leaves=leaves))


def table(plan: Plan, learning_rate: float, *, leaves: bool = False) -> str:
    """Returns the groups from input to head: parameters, how many of them train, the rate, and shapes."""
    rows = [("group", "parameters", "trains", "rate", "shapes")]
    for group in dict.fromkeys(plan.assignment.values()):
        paths = [path for path, owner in plan.assignment.items() if owner == group]
        trained = [path for path in paths if plan.labels[path] != FROZEN]
        rates = sorted({learning_rate * plan.multipliers[path] for path in trained})
        largest = max(paths, key=lambda path: math.prod(plan.shapes[path]))
        total, trains = (sum(math.prod(plan.shapes[path]) for path in chosen) for chosen in (paths, trained))
        shown = f"{largest} {list(plan.shapes[largest])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        rows.append((group, f"{total:,}", f"{trains:,}" if trains else "frozen", _range(rates), shown))
        if leaves:
            for path in paths:
                frozen = plan.labels[path] == FROZEN
                rate = "" if frozen else f"{learning_rate * plan.multipliers[path]:.3g}"
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


def _classes(config: ConfigDict, opened: weights.Weights | None) -> tuple[tuple[str, ...], str]:
    """Returns the classes of the data if they are at hand, else those of the weights."""
    try:
        return data.open_source(config.data.source, data_dir=config.data.data_dir).classes, config.data.source
    except UserError:
        count = opened.num_classes if opened is not None and opened.num_classes else 1000
        names = opened.classes if opened is not None and opened.classes else tuple(f"class {i}" for i in range(count))
        return (
            names,
            "the weights, since the data are not here" if opened else "nothing: neither data nor weights are here",
        )


def _range(rates: list[float]) -> str:
    if not rates:
        return ""
    return f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
