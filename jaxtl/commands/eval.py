"""The eval command: measures weights, a run, or an ensemble, on a data set."""

import argparse
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl.commands import flags
from jaxtl.config import to_dict
from jaxtl.experiment import workdir as files
from jaxtl.experiment.attention import with_fastest_attention
from jaxtl.experiment.broken_images import all_named
from jaxtl.experiment.build import build
from jaxtl.experiment.ensemble_evaluation import ensemble_in, evaluate_ensemble
from jaxtl.experiment.evaluation import title
from jaxtl.experiment.input_pipeline import compile_image_evaluator
from jaxtl.experiment.measuring import measure, write_predictions
from jaxtl.experiment.model import weights_location
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.results import metric_lines
from jaxtl.experiment.thresholds import read_thresholds, with_thresholds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    flags.add_config(parser)
    flags.add_workdir(parser, "where results.json goes; not that of a run")
    flags.add_processes(parser)


def run(config: ConfigDict, workdir: Path | str) -> dict[str, Any]:
    """Evaluates config.model.weights on config.data.source; returns what results.json holds."""
    started = time.perf_counter()
    workdir = Path(workdir)
    if (members := ensemble_in(config)) is not None:
        return evaluate_ensemble(config, members, workdir)
    files.open_workdir(workdir, config.data.source)
    files.refuse_run(workdir, "eval", config.model.weights)
    experiment = build(config, purpose="evaluate")
    model, dataset, load_report = experiment.model, experiment.splits.test, experiment.load_report
    assert dataset is not None
    assert load_report is not None
    print(load_report.table())
    for note in experiment.splits.notes:
        print(note)
    print(f"evaluates {experiment.origin} of {config.data.source}: {len(dataset):,} images")
    if experiment.trained_on:
        print(f"warning   the run was trained on {experiment.trained_on:,} of them: the metrics are too good")
    experiment = with_fastest_attention(experiment)
    variables = experiment.partitioner.shard_state(experiment.variables)
    begun = time.perf_counter()
    evaluator = compile_image_evaluator(experiment, variables)
    compiled = time.perf_counter()
    with all_named(dataset, workers=config.data.workers):
        measured = measure(experiment, evaluator, variables, "test", dataset)
    ended = time.perf_counter()
    chosen = {}
    if experiment.several and config.model.weights.startswith("run:"):
        run_thresholds = read_thresholds(Path(config.model.weights.removeprefix("run:")))
        chosen = with_thresholds(experiment, {"test": measured}, run_thresholds) if run_thresholds else {}
    results = {
        "model": model.name,
        "weights": weights_location(config),
        "data": config.data.source,
        "split": experiment.origin,
        "classes": list(model.classes),
        "loss": experiment.loss_name,
        "seconds": {"total": ended - started, "compile": compiled - begun, "evaluate": ended - compiled},
        "test": measured.metrics,
        **({"trained_on": experiment.trained_on} if experiment.trained_on else {}),
        **chosen,
    }
    files.write_json(workdir / "config.json", to_dict(config))
    files.write_json(workdir / "weights.json", load_report.to_json())
    write_predictions(workdir, experiment.model.classes, measured)
    files.write_json(workdir / "results.json", results)
    if config.eval.report:
        report_at_end(workdir, {"test": dataset})
    print("\n".join(metric_lines(title(experiment.origin), measured.metrics)))
    print(
        f"{ended - started:.0f} s in all; {len(dataset) / (ended - compiled):.1f} images/s; {workdir / 'results.json'}"
    )
    return results


main = flags.main_of(run)
