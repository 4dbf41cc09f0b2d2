"""The probe command: how well frozen features do, before anything is trained, and at which depth they do best."""

import argparse
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.config import to_dict
from jaxtl.evaluate.metrics import percent_interval
from jaxtl.evaluate.plot import plot_depth
from jaxtl.evaluate.probe import Score, probe_knn, probe_linear
from jaxtl.experiment import workdir as files
from jaxtl.experiment.broken_images import all_named
from jaxtl.experiment.build import build
from jaxtl.experiment.model import weights_location
from jaxtl.experiment.probing import begin_compiling, group_outputs, probe_splits, unweighed_notes

PROBES = {"knn": probe_knn, "linear": probe_linear}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where probe.json and the plot go")
    parser.add_argument("--per-group", action="store_true", help="probe the output of every group, and draw a plot")


def main(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Runs the command from its flags."""
    run(flags.load_config(arguments, overrides), arguments.workdir, per_group=arguments.per_group)


def run(config: ConfigDict, workdir: Path | str, *, per_group: bool = False) -> dict[str, Any]:
    """Probes the features before the head, or of every group; returns what probe.json holds."""
    started = time.perf_counter()
    workdir = Path(workdir)
    files.open_workdir(workdir, config.data.source)
    files.refuse_run(workdir, "probe", config.model.weights)
    experiment = build(config, purpose="features")
    model, splits, count = experiment.model, experiment.splits, len(experiment.splits.train.classes)
    assert splits.test is not None
    for note in (*splits.notes, *unweighed_notes(config, splits)):
        print(note)
    names = [name for name, _ in model.module.groups() if name != "head"]
    forward = functools.partial(group_outputs, model=model, names=names, chosen=names if per_group else names[-1:])
    # The compiler works on the linear probe while the images are decoded and pass through the model.
    examples = len(splits.train) + len(splits.val)
    compiling = begin_compiling(forward, experiment.variables, model, examples, count)
    begun = time.perf_counter()
    with all_named(splits.train, splits.val, splits.test, workers=config.data.workers):
        parts = probe_splits(experiment, forward)
    ended = time.perf_counter()
    compiling.result()
    scores = {
        group: {probe: measure(*parts[group], num_classes=count) for probe, measure in PROBES.items()}
        for group in parts
    }
    print(_table(scores))
    results = {
        "model": model.name,
        "weights": weights_location(config),
        "data": config.data.source,
        "count": len(splits.test),
        "groups": {
            group: {probe: score.to_json() for probe, score in found.items()} for group, found in scores.items()
        },
    }
    if per_group:
        _draw(scores, workdir / "probe.png", f"{model.name} on {config.data.source.rpartition('/')[2]}")
    results["seconds"] = {"total": time.perf_counter() - started, "features": ended - begun}
    files.write_json(workdir / "config.json", to_dict(config))
    files.write_json(workdir / "probe.json", results)
    seconds = results["seconds"]
    print(f"features {seconds['features']:.1f} s, {seconds['total']:.1f} s in all; {workdir / 'probe.json'}")
    return results


def _table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    width = max(len(group) for group in (*scores, "output of"))
    rows = [f"{'output of':<{width}}" + "".join(f"  {probe:^24}" for probe in PROBES)]
    for group, found in scores.items():
        cells = (f"{100 * score.accuracy:5.1f} % ({percent_interval(score.interval)})" for score in found.values())
        rows.append(f"{group:<{width}}" + "".join(f"  {cell:<24}" for cell in cells))
    if len(scores) > 1:
        for probe in PROBES:
            # Of equal ones the last: the fewer blocks train, the better a few images do.
            best = max(reversed(list(scores)), key=lambda group: scores[group][probe].accuracy)
            rows.append(f"{probe}: {best} transfers best: train what comes after it")
    return "\n".join(row.rstrip() for row in rows)


def _draw(scores: Mapping[str, Mapping[str, Score]], path: Path, title: str) -> None:
    curves = {probe: [(found[probe].accuracy, *found[probe].interval) for found in scores.values()] for probe in PROBES}
    plot_depth(path, list(scores), curves, title=title)
