"""Runs beside each other: their metrics, differences on the same images, learning curves, and configs; read only."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.errors import UserError
from jaxtl.evaluate.alignment import Aligned, NamedPredictions, align
from jaxtl.evaluate.bootstrap import Judged, bootstrap_intervals
from jaxtl.evaluate.details import judge
from jaxtl.evaluate.metrics import wilson_interval
from jaxtl.evaluate.paired import Difference, McNemar, holm, mcnemar, paired_differences, paired_t_test, plain_metrics
from jaxtl.evaluate.predictions import read_predictions, splits_in
from jaxtl.experiment import workdir as files
from jaxtl.report.learning_curves import parse_metrics

_OF_VAL = "val chose each run's checkpoint, so metrics on it are somewhat too good"
# Of these files, a train or an eval leaves one at least; other commands write a config.json, too.
_OF_A_RUN = ("results.json", "metrics.jsonl", "inputs.json")


@dataclass(frozen=True)
class Run:
    """What the files of a run, or of an evaluation, say.

    Attributes:
      name: short, and its own among those compared.
      workdir: where it lies.
      config: what config.json holds.
      results: what results.json holds; empty while it is not finished.
      lines: of metrics.jsonl; none of an evaluation.
      splits: those of predictions.npz.
    """

    name: str
    workdir: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    splits: Sequence[str]

    @property
    def members(self) -> Sequence[str]:
        """The names of what an ensemble was put together from; of a run none."""
        found: Sequence[str] = self.results.get("ensemble", {}).get("members", ())
        return found


@dataclass(frozen=True)
class Paired:
    """How runs with predictions differ on the same images.

    Attributes:
      aligned: what each said of them.
      baseline: the run that the others are compared with.
      differences: each other run -> metric -> how much higher it is than the baseline's.
      tests: each other run -> McNemar's test; the baseline is the first model of it.
      adjusted: each other run -> its p-value by Holm's correction for all of them.
      of_loss: each other run -> the p-value of a paired t-test of the log losses, and that by Holm's correction.
    """

    aligned: Aligned
    baseline: str
    differences: Mapping[str, Mapping[str, Difference]]
    tests: Mapping[str, McNemar]
    adjusted: Mapping[str, float]
    of_loss: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """What is to say of several runs.

    Attributes:
      runs: all of them.
      split: that of metrics and differences.
      metrics: run -> the metrics of results.json that are numbers, macro F1 and ROC-AUC among them, and "intervals".
      paired: differences; None where fewer than two runs have predictions.
      config: key -> run -> value, of the keys whose values differ.
      notes: what a reader should know.
    """

    runs: Sequence[Run]
    split: str
    metrics: Mapping[str, Mapping[str, Any]]
    paired: Paired | None
    config: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str]


def read_runs(workdirs: Sequence[Path]) -> list[Run]:
    """Reads what runs have left so far, but for predictions.

    Raises:
      UserError: a folder holds no run, or is given twice, or a file of it cannot be read.
    """
    refuse_twice(workdirs)
    return [_read(name, workdir) for name, workdir in zip(short_names(workdirs), workdirs, strict=True)]


def refuse_twice(workdirs: Sequence[Path]) -> None:
    """Sees that each folder is given once, whatever it is called.

    Raises:
      UserError: one is given twice.
    """
    seen: dict[Path, Path] = {}
    for workdir in workdirs:
        there = seen.get(workdir.resolve())
        if there is not None:
            more = "" if str(there) == str(workdir) else f" (as {there} and {workdir})"
            raise UserError(f"{workdir} is given twice{more}: give each run once.")
        seen[workdir.resolve()] = workdir


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """Returns a name for each folder: its last part, or where they are alike, the whole; each a name of its own.

    >>> short_names([Path("runs/a"), Path("runs/b")]), short_names([Path("x/run"), Path("y/run"), Path("y/run")])
    (['a', 'b'], ['x/run', 'y/run', 'y/run (2)'])
    """
    last = [Path(os.path.abspath(workdir)).name for workdir in workdirs]
    names = last if len(set(last)) == len(last) else [str(workdir) for workdir in workdirs]
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def compare(runs: Sequence[Run], *, split: str = "", shared: bool = False) -> Comparison:
    """Returns how runs differ; on their images where at least two have predictions of them.

    Args:
      runs: at least two.
      split: "test" or "val"; "" is test, or val where a run has no test.
      shared: whether to compare the images alone that all have, where they do not have the same ones.

    Raises:
      UserError: a run has no such split, or classes, images or labels differ.
    """
    notes = [note for run in runs if (note := _absence(run))]
    notes += [f"{run.name} is an ensemble of {', '.join(run.members)}: it has no config" for run in runs if run.members]
    able = [run for run in runs if run.splits]
    split, chosen = _choose_split(runs, able, split)
    notes += chosen
    if split == "val":
        fitted = [run for run in able if run.results.get("val", {}).get("in_sample")]
        notes += [f"{run.name} was fitted to val, so its metrics on it are in-sample: too good" for run in fitted]
    predictions = {run.name: _read_predictions(run, split) for run in able}
    paired = None
    metrics = {run.name: _results_of(run, split) for run in runs}
    if len(able) < 2:
        notes.append("fewer than two runs have predictions: there are no paired differences")
    else:
        aligned = align(predictions, shared=shared)
        notes += _notes_on_images(able, aligned)
        paired = pair(aligned)
        if any(aligned.left_out.values()):  # Of a part of the images results.json says nothing.
            judged = aligned.judged
            metrics = {run.name: metrics_of(judged[run.name]) if run.name in judged else {} for run in runs}
        if paired.baseline != runs[0].name:
            notes.append(f"{runs[0].name} has no predictions, so the others are compared with {paired.baseline}")
        if len({run.results.get("loss") == "binary" for run in able}) > 1:
            notes.append("log losses of sigmoids and of a softmax are sums of other terms: no differences are given")
            kept = {run: {key: of[key] for key in of if key != "log_loss"} for run, of in paired.differences.items()}
            paired = replace(paired, differences=kept)
    return Comparison(runs, split, metrics, paired, _config_differences(runs), notes)


def pair(aligned: Aligned) -> Paired:
    """Returns how the models differ from the first."""
    (baseline, first), *others = aligned.judged.items()
    names, models = [name for name, _ in others], [judged for _, judged in others]
    tests = [mcnemar(first.correct, judged.correct) for judged in models]
    of_loss = [paired_t_test(first.log_losses, judged.log_losses) for judged in models]
    return Paired(
        aligned,
        baseline,
        dict(zip(names, paired_differences([first, *models]), strict=True)),
        dict(zip(names, tests, strict=True)),
        dict(zip(names, holm([test.p for test in tests]), strict=True)),
        dict(zip(names, zip(of_loss, holm(of_loss), strict=True), strict=True)),
    )


def _read(name: str, workdir: Path) -> Run:
    if not workdir.is_dir():
        raise UserError(f"there is no folder {workdir}: give the workdirs of runs.")
    if not (workdir / "config.json").exists() or not any((workdir / file).exists() for file in _OF_A_RUN):
        raise UserError(f"there is no run in {workdir}: give the workdirs of train or eval.")
    results = files.read_json(workdir / "results.json") if (workdir / "results.json").exists() else {}
    log = workdir / "metrics.jsonl"
    lines = parse_metrics(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
    if any("hamming_loss" in each for each in (results.get("val", {}), results.get("test", {}), *lines)):
        raise UserError(
            f"the images of {workdir} have several labels, and compare pairs images of one class each: see the metrics "
            "of both runs in their results.json."
        )
    splits: list[str] = []
    if results and (workdir / "predictions.npz").exists():
        splits = splits_in(workdir / "predictions.npz")
    return Run(name, workdir, files.read_json(workdir / "config.json"), results, lines, splits)


def _read_predictions(run: Run, split: str) -> NamedPredictions:
    classes, found = read_predictions(run.workdir / "predictions.npz", [split])
    kept = found[split]
    if not len(kept.labels):
        raise UserError(f"{split} of {run.workdir} holds no images: there is nothing to compare.")
    judged = judge(kept.labels, kept.logits, sigmoid=run.results.get("loss") == "binary")
    return NamedPredictions(classes, [str(name) for name in kept.names], judged)


def _absence(run: Run) -> str:
    """Returns why a run has no predictions, or ""."""
    if run.splits:
        return ""
    if run.results:
        return f"{run.name} has no predictions: it is of an earlier version, or they were too many to keep"
    step = max((line["step"] for line in run.lines), default=0)
    return f"{run.name} is not finished (step {step:,}): only its learning curves and its config are compared"


def _choose_split(runs: Sequence[Run], able: Sequence[Run], asked: str) -> tuple[str, list[str]]:
    """Returns the split of metrics and differences, and what is to say of it."""
    if asked:
        lacking = [run for run in able if asked not in run.splits]
        if lacking:
            has = ", ".join(lacking[0].splits)
            raise UserError(f"{lacking[0].workdir} has no predictions of {asked}, only of {has}: compare on that.")
        return asked, [_OF_VAL] if asked == "val" else []
    lacking = [run for run in able if "test" not in run.splits]
    if not lacking:
        return "test", []
    if any("val" not in run.splits for run in able):
        has = "; ".join(f"{run.name}: {', '.join(run.splits)}" for run in able)
        raise UserError(f"there is no split of which all runs have predictions ({has}).")
    names = ", ".join(run.name for run in lacking)
    return "val", [f"compared on val, since there are no predictions of test in {names}", _OF_VAL]


def _notes_on_images(runs: Sequence[Run], aligned: Aligned) -> list[str]:
    notes = []
    if any(aligned.left_out.values()):
        more = ", ".join(f"{name} has {count:,} more" for name, count in aligned.left_out.items() if count)
        notes.append(f"only the {len(aligned.names):,} images that all have are compared: {more}")
    sources = {run.name: run.results.get("data", "") for run in runs}
    if len(set(sources.values())) > 1 and all(re.fullmatch(r"\w+/\d+", name) for name in aligned.names):
        named = ", ".join(f"{name}: {source}" for name, source in sources.items())
        notes.append(f"images are known by their number in a split alone, and the sources differ ({named})")
    return notes


def _results_of(run: Run, split: str) -> dict[str, Any]:
    """Returns the metrics of results.json on a split; none of a run that is not finished."""
    metrics = dict(run.results.get(split, {}))
    macro = metrics.get("macro", {})
    named = {f"macro_{key}": macro[key] for key in ("f1", "roc_auc") if key in macro}
    dropped = ("per_class", "confusion_matrix", "macro", "weighted", "top_k")
    return {key: value for key, value in metrics.items() if key not in dropped} | named


def metrics_of(judged: Judged) -> dict[str, Any]:
    """Returns the metrics of predictions alone, as tables have them: no results.json needs to hold them."""
    count = len(judged.labels)
    wilson = wilson_interval(int(judged.correct.sum()), count)
    intervals = bootstrap_intervals(judged)
    return {**plain_metrics(judged), "count": count, "accuracy_interval": wilson, "intervals": intervals}


def _config_differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Returns the keys of configs that differ: key -> run -> value. An ensemble has that of a member alone."""
    values = {run.name: config_lib.complete(run.config) for run in runs if not run.members}
    keys = dict.fromkeys(key for each in values.values() for key in each)
    found = {key: {name: each.get(key) for name, each in values.items()} for key in keys}
    return {key: of for key, of in found.items() if any(value != next(iter(of.values())) for value in of.values())}
