"""Cross-validation of a config: one resumable run for each fold, or linear probes of all folds at once."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.data import cuts
from jaxtl.data.folds import Fold, assign_folds
from jaxtl.data.splits import parse
from jaxtl.errors import UserError
from jaxtl.evaluate.cross_validation import TestFold, summarise
from jaxtl.evaluate.fold_probes import probe_folds
from jaxtl.evaluate.predictions import as_arrays, read_predictions
from jaxtl.experiment import fold_page
from jaxtl.experiment import workdir as files
from jaxtl.experiment.broken_images import all_named
from jaxtl.experiment.build import build
from jaxtl.experiment.model import weights_location
from jaxtl.experiment.probing import group_outputs, probe_splits, unweighed_notes
from jaxtl.experiment.run import train_run
from jaxtl.experiment.splits import open_splits, usable
from jaxtl.experiment.trained_images import count_trained, first_weights
from jaxtl.parallel import processes

NAME = files.CROSS_VALIDATION
_RUNS, _PROBES = "runs", "linear probes of frozen features"


@dataclass(frozen=True)
class Cut:
    """How a pool of images is cut.

    Attributes:
      folds: their number.
      repeats: how often it is cut anew.
    """

    folds: int
    repeats: int = 1

    @property
    def all(self) -> list[Fold]:
        """The folds of all repeats."""
        return [Fold(k, self.folds, r) for r in range(1, self.repeats + 1) for k in range(1, self.folds + 1)]


@dataclass(frozen=True)
class Plan:
    """The splits of every fold, chosen before anything is trained.

    Attributes:
      pool: the split that is cut, "train" or "all".
      folds: of all repeats.
      splits: of each of them.
      images: all that are cut.
    """

    pool: str
    folds: Sequence[Fold]
    splits: Sequence[data.Splits]
    images: data.Dataset


def cross_validate(config: ConfigDict, workdir: Path, cut: Cut, *, probe: bool = False) -> dict[str, Any]:
    """Trains and tests once for each fold, and writes crossval.json, crossval.html and predictions.npz.

    Args:
      config: of the runs; its train split names the pool, and its test split must be open.
      workdir: holds a folder for each run, such as fold1of5; those that are finished are kept.
      cut: into how many folds, and how often.
      probe: whether to fit linear classifiers to frozen features in place of runs, all at once.

    Returns:
      What crossval.json holds: see `evaluate.cross_validation.summarise`.

    Raises:
      Stopped: a run was asked to; started again, it goes on.
      UserError: whatever the user can fix, before anything is trained.
    """
    if cut.folds < 2 or cut.repeats < 1:
        raise UserError(f"--folds={cut.folds} --repeats={cut.repeats}: it takes two folds or more, one repeat or more.")
    config_lib.check(config)
    files.open_workdir(workdir, config.data.source)
    files.refuse_run(workdir, "crossval", None)
    _refuse_other_cut(workdir, config, cut, probe=probe)
    plan = _plan(config, cut)
    if not probe:
        _check_begun(config, workdir, plan)
    files.write_json(workdir / "config.json", config_lib.to_dict(config))
    tested, more = _probe(config, plan) if probe else _train(config, workdir, plan)
    classes = plan.splits[0].train.classes
    sigmoid = not probe and config.train.loss == "binary"
    results = {
        "model": config.model.name,
        "weights": weights_location(config),
        "data": config.data.source,
        "pool": plan.pool,
        "folds": cut.folds,
        "repeats": cut.repeats,
        "trained": _PROBES if probe else _RUNS,
        **summarise(tested, classes, sigmoid=sigmoid),
        **more,
    }
    files.write_arrays(workdir / "predictions.npz", {"classes": np.asarray(classes), **_out_of_fold(tested)})
    files.write_json(workdir / NAME, results)
    if processes.is_main():
        files.write_whole(workdir / fold_page.NAME, fold_page.fold_page(results, tested, plan.images, sigmoid=sigmoid))
    return results


def fold_config(config: ConfigDict, pool: str, fold: Fold) -> ConfigDict:
    """Returns the config of the run that is tested on a fold; each repeat has a seed of its own."""
    of_fold = copy.deepcopy(config)
    of_fold.data.train, of_fold.data.test = (f"{pool}[{part}]" for part in (fold.others, fold))
    of_fold.train.seed = config.train.seed + fold.repeat - 1
    return of_fold


def fold_name(fold: Fold) -> str:
    """Returns the name of a fold's folder: fold3of5, or repeat2_fold3of5."""
    return f"repeat{fold.repeat}_" * (fold.repeat > 1) + f"fold{fold.number}of{fold.of}"


def _refuse_other_cut(workdir: Path, config: ConfigDict, cut: Cut, *, probe: bool) -> None:
    if any((workdir / name).exists() for name in ("results.json", "probe.json")):
        raise UserError(f"--workdir={workdir} holds the results of another command: give another folder.")
    found = [match for path in sorted(workdir.iterdir()) if (match := files.FOLD.fullmatch(path.name))]
    others = [match for match in found if int(match["of"]) != cut.folds]
    if others:
        count, names = others[0]["of"], ", ".join(match[0] for match in others[:3])
        raise UserError(
            f"--workdir={workdir} holds a cross-validation of {count} folds ({names}): give --folds={count}, or "
            "another --workdir."
        )
    path = workdir / NAME
    kind = files.read_json(path).get("trained", _RUNS) if path.exists() else _RUNS if found else ""
    if kind and (kind == _PROBES) != probe:
        raise UserError(
            f"--workdir={workdir} holds a cross-validation of {kind}, which would be overwritten: "
            f"{'leave out' if probe else 'give'} --probe, or give another --workdir."
        )
    if config.data.test:
        raise UserError(
            f'data.test is "{config.data.test}", but each fold is tested on in turn: leave it out; data.train says '
            'what is cut, "train" or "all".'
        )


def _plan(config: ConfigDict, cut: Cut) -> Plan:
    """Opens the data and chooses the splits of all folds, so that what is wrong with any is said now."""
    pool = config.data.train or "train"
    terms = parse(pool)
    if len(terms) != 1 or terms[0].fold or not (terms[0].start is None and terms[0].stop is None):
        raise UserError(f'data.train is "{pool}", but a whole split is cut into folds: give "train" or "all".')
    source = usable(config, data.open_source(config.data.source, data_dir=config.data.data_dir))
    whole = source.split(pool)
    if whole.several:
        raise UserError(f"{source.uri} has several labels an image: cross-validation measures one class an image.")
    _refuse_seen(config, source, whole)
    assign_folds(whole, cut.folds)
    splits = [open_splits(fold_config(config, pool, fold), source) for fold in cut.all]
    return Plan(pool, cut.all, splits, whole)


def _refuse_seen(config: ConfigDict, source: data.Source, images: data.Dataset) -> None:
    weights = config.model.weights
    if seen := count_trained(weights, source, images):
        first = first_weights(weights)
        advice = f"give what it began with, --config.model.weights={first}" if first else "give other weights"
        raise UserError(
            f"--config.model.weights={weights} was trained on {seen:,} of the {len(images):,} images that are cut into "
            f"folds, so each fold would be tested by a model that has seen it: {advice}."
        )


def _check_begun(config: ConfigDict, workdir: Path, plan: Plan) -> None:
    """Sees that runs of before can be put together with the others, before anything is written or trained."""
    for fold, splits in zip(plan.folds, plan.splits, strict=True):
        folder, of_fold = workdir / fold_name(fold), fold_config(config, plan.pool, fold)
        is_done = (folder / "results.json").exists()
        if is_done or files.has_checkpoints(folder):
            files.claim(folder, files.with_former_defaults(of_fold, folder))
        if is_done:
            _tested(folder, splits)


def _train(config: ConfigDict, workdir: Path, plan: Plan) -> tuple[list[TestFold], dict[str, Any]]:
    """Trains what is not finished, fold by fold, and reads what each run said of its test images."""
    configs = [fold_config(config, plan.pool, fold) for fold in plan.folds]
    folders = [workdir / fold_name(fold) for fold in plan.folds]
    done = [(folder / "results.json").exists() for folder in folders]
    for number, (fold, of_fold, folder) in enumerate(zip(plan.folds, configs, folders, strict=True), start=1):
        state = ": finished already" if done[number - 1] else ""
        print(f"== {fold} ({number} of {len(folders)}), {folder}{state}", flush=True)
        if not done[number - 1]:
            train_run(of_fold, folder)
    tested = []
    for fold, folder, splits in zip(plan.folds, folders, plan.splits, strict=True):
        labels, logits = _tested(folder, splits)
        assert splits.test is not None
        # Val trains nothing in a run.
        tested.append(TestFold(fold.number, fold.repeat, splits.test.names, labels, logits, len(splits.train)))
    return tested, {"runs": [folder.name for folder in folders]}


def _tested(folder: Path, splits: data.Splits) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and logits of the test images of a finished run, in the order of the split.

    Raises:
      UserError: they are other images than those of the fold now, or it kept no predictions.
    """
    _, kept = read_predictions(folder / "predictions.npz", ["test"])
    assert splits.test is not None
    found, names = kept["test"], [str(name) for name in np.asarray(splits.test.names, np.str_)]
    if found.names.tolist() != names or found.labels.tolist() != splits.test.labels.tolist():
        raise UserError(
            f"{folder} was tested on other images than its fold has now: the data have changed since. Give another "
            "--workdir, to train all folds on what is there now."
        )
    return found.labels, found.logits


def _probe(config: ConfigDict, plan: Plan) -> tuple[list[TestFold], dict[str, Any]]:
    """Passes over all images once, and fits linear classifiers in all folds at once."""
    experiment = build(fold_config(config, plan.pool, plan.folds[0]), purpose="features")
    names = [name for name, _ in experiment.model.module.groups() if name != "head"]
    forward = functools.partial(group_outputs, model=experiment.model, names=names, chosen=names[-1:])
    splits = experiment.splits
    for note in unweighed_notes(config, splits):
        print(note)
    with all_named(splits.train, splits.val, splits.test, workers=config.data.workers):
        parts = probe_splits(experiment, forward)[names[-1]]
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    assert splits.test is not None
    row = {name: i for i, name in enumerate((*splits.train.names, *splits.val.names, *splits.test.names))}
    sides = np.stack([_sides(each, row) for each in plan.splits])
    found = probe_folds(features, labels, sides, num_classes=len(splits.train.classes))
    tested = []
    for fold, of_fold, logits in zip(plan.folds, plan.splits, found.logits, strict=True):
        assert of_fold.test is not None
        rows = [row[name] for name in of_fold.test.names]
        trained = len(of_fold.train) + len(of_fold.val)
        tested.append(TestFold(fold.number, fold.repeat, of_fold.test.names, labels[rows], logits[rows], trained))
    return tested, {"penalties": found.penalties.tolist(), "val": found.val.tolist()}


def _sides(splits: data.Splits, row: Mapping[str, int]) -> np.ndarray:
    """Returns the side of each row of the features in a fold."""
    sides = np.full(len(row), cuts.TRAIN, np.int8)
    for side, split in ((cuts.VAL, splits.val), (cuts.TEST, splits.test)):
        assert split is not None
        sides[[row[name] for name in split.names]] = side
    return sides


def _out_of_fold(tested: Sequence[TestFold]) -> dict[str, np.ndarray]:
    """Returns what predictions.npz keeps of each repeat: every image once, and the fold it was tested in."""
    arrays: dict[str, np.ndarray] = {}
    for repeat in sorted({fold.repeat for fold in tested}):
        of = [fold for fold in tested if fold.repeat == repeat]
        names = [name for fold in of for name in fold.names]
        labels, logits = (np.concatenate([getattr(fold, key) for fold in of]) for key in ("labels", "logits"))
        split = f"repeat{repeat}"
        numbers = np.concatenate([np.full(len(fold.labels), fold.number, np.int32) for fold in of])
        arrays |= {**as_arrays(split, names, labels, logits.astype(np.float32)), f"{split}_folds": numbers}
    return arrays
