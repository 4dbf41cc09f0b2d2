"""An ensemble measured on a data set, as eval measures a run."""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.errors import UserError
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.broken_images import all_named
from jaxtl.experiment.build import evaluated_split
from jaxtl.experiment.ensemble_files import read_ensemble
from jaxtl.experiment.evaluation import align_classes
from jaxtl.experiment.measuring import measure_logits, write_predictions
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.results import metric_lines
from jaxtl.experiment.splits import usable
from jaxtl.experiment.trained_images import count_trained


def ensemble_in(config: ConfigDict) -> Path | None:
    """Returns the workdir whose weights a config evaluates, if it is that of an ensemble."""
    location = str(config.model.weights)
    workdir = Path(location.removeprefix("run:"))
    return workdir if location.startswith("run:") and files.is_ensemble(workdir) else None


def evaluate_ensemble(config: ConfigDict, members: Path, workdir: Path) -> dict[str, Any]:
    """Evaluates an ensemble on the data of a config; returns what results.json holds.

    Args:
      config: whose data and section eval count.
      members: the workdir of the ensemble.
      workdir: where the results go; not that of the ensemble.

    Raises:
      UserError: the config is not sound, data or members cannot be opened, or they do not fit each other.
    """
    started = time.perf_counter()
    config_lib.check(config)
    if files.is_ensemble(workdir):
        raise UserError(f"--workdir={workdir} is that of an ensemble, whose files must stay: give another folder.")
    files.open_workdir(workdir, config.data.source)
    files.refuse_run(workdir, "eval", config.model.weights)
    ensemble = read_ensemble(members)
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    name, dataset = evaluated_split(config, source)
    if dataset.several:
        raise UserError(f"{source.uri} has several labels an image, and ensembles are of one class an image.")
    _, dataset = align_classes(len(ensemble.classes), ensemble.classes, source, dataset, exact=True)
    print(f"ensemble  {ensemble.combination.by} of {', '.join(each.name for each in ensemble.networks)}")
    for note in source.notes:
        print(note)
    print(f"evaluates {name} of {config.data.source}: {len(dataset):,} images", flush=True)
    if trained := count_trained(config.model.weights, source, dataset):
        print(f"warning   members were trained on {trained:,} of them: the metrics are too good")
    size = max(1, options.eval_batch_size(config) // ensemble.views.count)
    begun = time.perf_counter()
    with all_named(dataset, workers=config.data.workers):
        logits = ensemble.logits_of_dataset(dataset, batch_size=size, reading=options.reading(config))
    measured = measure_logits("test", dataset, ensemble.combination(logits.mean(2)))
    ended = time.perf_counter()
    results = {
        "model": files.read_json(members / "model.json")["model"],
        "weights": config.model.weights,
        "data": config.data.source,
        "split": name,
        "classes": list(ensemble.classes),
        "loss": "softmax",
        "seconds": {"total": ended - started, "evaluate": ended - begun},
        "test": measured.metrics,
        **({"trained_on": trained} if trained else {}),
    }
    files.write_json(workdir / "config.json", config_lib.to_dict(config))
    write_predictions(workdir, ensemble.classes, measured)
    files.write_json(workdir / "results.json", results)
    if config.eval.report:
        report_at_end(workdir, {"test": dataset})
    print("\n".join(metric_lines("test", measured.metrics)))
    print(f"{ended - started:.0f} s in all; {workdir / 'results.json'}")
    return results
