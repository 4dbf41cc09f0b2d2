"""The eval command: measures weights, or a run, on a data set."""

import argparse
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl import data
from jaxtl.commands import flags
from jaxtl.config import to_dict
from jaxtl.errors import UserError
from jaxtl.evaluate.metrics import compute_metrics, headline
from jaxtl.experiment import setup
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where results.json goes; not that of a run")
    flags.add_processes(parser)


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    flags.connect(arguments)
    run(flags.load_config(arguments, overrides), arguments.workdir)


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Evaluates config.model.weights on config.data.source; returns what results.json holds."""
    started = time.perf_counter()
    files.open_workdir(workdir)
    if (workdir / "checkpoints").exists():
        raise UserError(
            f"--workdir={workdir} is that of a run, whose results.json must stay: give another folder "
            f"(to evaluate that run, add --config.model.weights=run:{workdir})."
        )
    partitioner = setup.partitioner_for(config)
    batch_size = config.eval.batch_size or config.train.batch_size
    setup.check_devices(batch_size, partitioner, "eval.batch_size")
    opened, source = setup.open_both(config)
    if opened is None:
        raise UserError("eval needs weights: give --config.model.weights (run:WORKDIR for a run of yours).")
    split, dataset = _dataset(config, source)
    classes, dataset = _align(opened.num_classes, opened.classes, source, dataset)
    model = setup.make_model(config, opened, classes)
    config.model.head = "keep"
    variables, load_report = setup.variables_for(config, opened, model)
    assert load_report is not None
    print(load_report.table())
    print(f"evaluates {split} of {config.data.source}: {len(dataset):,} images")
    model = with_fastest_attention(config, model, partitioner)
    variables = partitioner.shard_state(variables)
    begun = time.perf_counter()
    location = config.model.weights
    # A run knows with which loss it trained.
    trained = files.run_config(Path(location.removeprefix("run:"))) if location.startswith("run:") else config
    loss = setup.evaluation_loss(trained, len(classes))
    evaluate = setup.compile_evaluation(
        model, variables, partitioner, batch_size, loss, config.data.workers, config.data.reader
    )
    compiled = time.perf_counter()
    result = compute_metrics(evaluate(variables, dataset), classes)
    ended = time.perf_counter()
    results = {
        "model": model.name,
        "weights": config.model.weights,
        "data": config.data.source,
        "split": split,
        "classes": list(classes),
        "loss": trained.train.loss,
        "seconds": {"total": ended - started, "compile": compiled - begun, "evaluate": ended - compiled},
        "test": result,
    }
    files.write_json(workdir / "config.json", to_dict(config))
    files.write_json(workdir / "weights.json", load_report.to_json())
    files.write_json(workdir / "results.json", results)
    print(f"test   {headline(result)}")
    print(
        f"{ended - started:.0f} s in all; {len(dataset) / (ended - compiled):.1f} images/s; {workdir / 'results.json'}"
    )
    return results


def _dataset(config: ConfigDict, source: data.Source) -> tuple[str, data.Dataset]:
    """Chooses what to measure: what was asked, the test split, or a source without splits as a whole."""
    names = source.split_names
    split = config.eval.split or config.data.test
    if not split:
        split = next((name for name in ("test", "validation", "val", "valid") if name in names), "")
    if not split and len(names) == 1:
        split = names[0]
    if not split:
        raise UserError(f"{source.uri} has the splits {', '.join(names)}: say which with --config.eval.split.")
    return split, source.split(split)


def _align(
    width: int, source_classes: tuple[str, ...] | None, source: data.Source, dataset: data.Dataset
) -> tuple[tuple[str, ...], data.Dataset]:
    """Returns the classes of the head, and the data with labels in their order.

    Raises:
      UserError: the weights have no head, or one for other classes.
    """
    if not width:
        raise UserError("these weights have no head, so they predict no classes: train first.")
    classes = source.classes
    if source_classes and set(classes) <= set(source_classes):
        place = np.asarray([source_classes.index(name) for name in classes], np.int32)
        return source_classes, dataclasses.replace(dataset, classes=source_classes, labels=place[dataset.labels])
    # Plain indices say which output is meant, even where the highest of them do not occur.
    if len(classes) <= width and all(name == str(index) for index, name in enumerate(classes)):
        classes = source_classes or tuple(str(index) for index in range(width))
        return classes, dataclasses.replace(dataset, classes=classes)
    # So do numbers with names beside them.
    if len(classes) < width and source_classes is None and source.uri.startswith(("csv:", "npz:")):
        classes = classes + tuple(f"class {index}" for index in range(len(classes), width))
        return classes, dataclasses.replace(dataset, classes=classes)
    if len(classes) != width:
        known = f" ({', '.join(source_classes[:3])}, ...)" if source_classes else ""
        raise UserError(
            f"{source.uri} has {len(classes)} classes ({', '.join(classes[:3])}, ...), but the weights have a head for "
            f"{width}{known}: train first, or give data of the same classes."
        )
    return classes, dataset
