"""An ensemble of runs: fitted on the val that all have held out, measured beside its members, and written."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.data.augment.prediction_views import PredictionViews
from jaxtl.deploy.ensemble import Ensemble, Network
from jaxtl.errors import UserError
from jaxtl.evaluate.combining import FITTED, WAYS, Combination, fit
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.calibrating import recalibrate
from jaxtl.experiment.ensemble_files import read_networks, write_ensemble
from jaxtl.experiment.ensemble_table import compare_candidates, make_candidates
from jaxtl.experiment.loading import ENSEMBLE_STEP
from jaxtl.experiment.measuring import measure_logits, write_predictions
from jaxtl.experiment.members import Member, check_classes, check_output, read_members
from jaxtl.experiment.records import environment_record
from jaxtl.experiment.reporting import report_at_end
from jaxtl.experiment.shared_splits import SharedSplits, open_shared

TABLE = "ensemble.md"
# Images of each class from which on what is fitted to val is worth its numbers.
_ENOUGH = 10


def make_ensemble(workdirs: Sequence[Path], workdir: Path, by: str, views: PredictionViews) -> dict[str, Any]:
    """Makes an ensemble of runs in a workdir, and prints how good it is; returns what its results.json holds.

    Args:
      workdirs: of the runs.
      workdir: of the ensemble.
      by: one of `combining.WAYS`: what the ensemble does; the others are measured, too.
      views: which views of an image each run predicts.

    Raises:
      UserError: the runs do not fit each other, their data cannot be opened, or the workdir is taken.
    """
    started = time.perf_counter()
    members = read_members(workdirs, no_ensemble="is a member of no other: give its members")
    _check_members(members, views)
    check_output(workdir, members)
    shared = open_shared(members)
    first = members[0].config
    made = files.open_workdir(workdir, first.data.source)
    try:
        networks, steps = zip(*read_networks(members), strict=True)
        ensemble = Ensemble(networks, views, Combination("logits", (1 / len(members),) * len(members)))
        print("\n".join(_opening_lines(ensemble, members, shared)), flush=True)
        logits = _predict(ensemble, shared, options.eval_batch_size(first), options.reading(first))
        fitted = _fit_all(shared.val, logits["val"].mean(2), by)
    except UserError:
        files.discard(workdir, made)
        raise
    ensemble = replace(ensemble, combination=fitted[by])
    print(f"weights   {_weights_in_words(ensemble.networks, fitted)}", flush=True)
    splits = {name: split for name, split in (("val", shared.val), ("test", shared.test)) if split is not None}
    candidates = {name: make_candidates(networks, logits[name], fitted) for name in splits}
    lines, table = compare_candidates(candidates, splits, by, fitted)
    measured = {name: measure_logits(name, split, candidates[name].ways[by]) for name, split in splits.items()}
    results = {
        **_facts(members, ensemble),
        **{name: found.metrics for name, found in measured.items()},
        "ensemble": {
            "by": by,
            "members": [network.name for network in networks],
            "weights": list(fitted["weighted"].weights),
            "views": views.to_json(),
            "table": table,
        },
        "command": _command(members, by, views),
        "seconds": {"total": time.perf_counter() - started},
    }
    if by in FITTED:
        results["val"]["in_sample"] = True
    files.write_json(workdir / "config.json", config_lib.to_dict(first))
    files.write_json(workdir / "environment.json", environment_record())
    write_ensemble(workdir, ensemble, members, steps)
    write_predictions(workdir, ensemble.classes, *measured.values())
    files.write_json(workdir / "results.json", results)
    if first.eval.calibration != "none":
        results = recalibrate(workdir, first.eval.calibration)
    files.write_whole(workdir / TABLE, "\n".join(lines) + "\n")
    print("\n".join(lines))
    if first.eval.report:
        report_at_end(workdir, splits)
    return results


def _check_members(members: Sequence[Member], views: PredictionViews) -> None:
    if len(members) < 2 and views.count == 1:
        raise UserError("ensemble takes two runs or more, or one with --flip, --crops=5 or --scales: one is given.")
    for member in members:
        if member.facts.get("several_labels") or member.results.get("loss") == "binary":
            raise UserError(
                f"{member.name} gives each class a yes or no of its own, and ensembles are of one class an image: give "
                "runs that were trained with another loss than binary."
            )
    check_classes(members)


def _opening_lines(ensemble: Ensemble, members: Sequence[Member], shared: SharedSplits) -> list[str]:
    lines = [
        f"member    {network.name}: {member.facts['model']}, {network.pixels.resize} -> {network.pixels.size} pixels, "
        f"{network.pixels.interpolation}"
        for network, member in zip(ensemble.networks, members, strict=True)
    ]
    lines.append(f"views     {ensemble.views.in_words()}")
    tested = "" if shared.test is None else f", {len(shared.test):,} to test"
    lines.append(f"images    {len(shared.val):,} to fit and validate{tested}")
    notes = list(shared.notes)
    if len(shared.val) < _ENOUGH * len(ensemble.classes):
        notes.append(
            f"{len(shared.val):,} images of {len(ensemble.classes)} classes are few to fit to: weights say little, and "
            "stacking less"
        )
    return lines + [f"note      {note}" for note in notes]


def _predict(ensemble: Ensemble, shared: SharedSplits, batch_size: int, reading: data.Reading) -> dict[str, np.ndarray]:
    """Returns the logits of all networks and views on each split [M, N, V, C]."""
    size = max(1, batch_size // ensemble.views.count)  # As many views at once as a run evaluates images.
    splits = {name: split for name, split in (("val", shared.val), ("test", shared.test)) if split is not None}
    return {name: ensemble.logits_of_dataset(split, batch_size=size, reading=reading) for name, split in splits.items()}


def _fit_all(val: data.Dataset, logits: np.ndarray, by: str) -> dict[str, Combination]:
    """Fits every way on val; one that cannot be fitted is left out, and said, unless it is the one asked for."""
    fitted = {}
    for way in WAYS:
        try:
            fitted[way] = fit(way, val.labels, logits)
        except ValueError:
            absent = ", ".join(val.classes[i] for i in np.flatnonzero(val.class_counts() == 0)[:5])
            why = f"stacking is fitted on val, which has no image of {absent}"
            if way == by:
                raise UserError(f"{why}: give another --by.") from None
            print(f"note      {why}: it is left out")
    return fitted


def _weights_in_words(networks: Sequence[Network], fitted: Mapping[str, Combination]) -> str:
    pairs = zip(networks, fitted["weighted"].weights, strict=True)
    return "of the weighted mean: " + ", ".join(f"{weight:.3f} {network.name}" for network, weight in pairs)


def _facts(members: Sequence[Member], ensemble: Ensemble) -> dict[str, Any]:
    """Returns what results.json says of an ensemble as of any run."""
    return {
        "model": f"ensemble of {', '.join(member.facts['model'] for member in members)}",
        "weights": ", ".join(str(member.workdir) for member in members),
        "data": members[0].config.data.source,
        "classes": list(ensemble.classes),
        "loss": "softmax",
        "steps": ENSEMBLE_STEP,
        "best_step": ENSEMBLE_STEP,
        "monitor": "loss",
    }


def _command(members: Sequence[Member], by: str, views: PredictionViews) -> str:
    runs = " ".join(shlex.quote(str(member.workdir)) for member in members)
    flags = " --flip" * views.flip + f" --crops={views.crops}" * (views.crops > 1)
    flags += f" --scales={','.join(f'{scale:g}' for scale in views.scales)}" * bool(views.scales)
    return f"python -m jaxtl.main ensemble {runs} --by={by}{flags} --workdir=NEW"
