"""Linear probes of all folds, repeats and penalties: as one vmapped program, and one fit after the other.

    python tests/benchmarks/fold_probes.py --data=DIR --weights=deit_tiny_patch16_224.safetensors

DIR holds train/ with one folder a class. Features are computed once (--keep=FILE.npz keeps them for the next time), and
each way then does the same: in each fold a fit for each of nine penalties, the choice on val, and the fit of the
chosen one to train and val. One after the other are the same solver, compiled once, a call for each fit; and with
--sklearn, scikit-learn's LogisticRegression, which stops by itself. Ways take turns; the first call of each, which
compiles, does not count, and seconds of a processor are given beside those of the clock, for machines that are shared.

Measured on two cores with much other work, DeiT-Tiny on 720 photographs of 12 flowers, by seconds of a processor:

- scikit-learn, 2 folds, 20 fits: 42.1 times as long (31.2 by the clock), with the same accuracy in every fold and log
  losses that differ by 5.3e-6 at most. With its tol at 1e-6 in place of 1e-9 it took 14.9 times as long (10.0), and its
  log losses were 1.3e-3 away.
- The same solver in turn, 5 folds x 3 repeats, 150 fits: 2.73 and 2.82 s, where at once took 3.18 and 3.13, with the
  same accuracy in every fold and log losses that differ by 8.9e-5 at most. On this CPU the products take the time in
  either way, so one program is no faster than its fits in turn. Not measured on a GPU.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config, data
from jaxtl.data.cuts import TEST, TRAIN, VAL
from jaxtl.data.folds import Fold
from jaxtl.evaluate import fold_probes
from jaxtl.evaluate.details import probabilities_of
from jaxtl.evaluate.probe import PENALTIES

ROOT = Path(__file__).parents[2]


def features_of(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Returns features, labels and names of the images below train/, from the model before its head."""
    if arguments.keep and arguments.keep.exists():
        return dict(np.load(arguments.keep))
    from jaxtl.experiment.build import build
    from jaxtl.experiment.probing import group_outputs, probe_splits

    values = {
        "data.source": f"folder:{arguments.data}",
        "model.weights": str(arguments.weights),
        "data.test": "fold 1/5",
    }
    experiment = build(config.load(f"{ROOT}/configs/vit_flowers.py:ti16", values), purpose="features")
    names = [name for name, _ in experiment.model.module.groups() if name != "head"]
    forward = functools.partial(group_outputs, model=experiment.model, names=names, chosen=names[-1:])
    (parts,) = probe_splits(experiment, forward).values()
    splits = experiment.splits
    found = {
        "features": np.concatenate([part.features for part in parts]),
        "labels": np.concatenate([part.labels for part in parts]),
        "names": np.array([*splits.train.names, *splits.val.names, *splits.test.names]),
    }
    if arguments.keep:
        np.savez(arguments.keep, **found)
    return found


def sides_of(labels: np.ndarray, names: np.ndarray, folds: int, repeats: int) -> np.ndarray:
    """Returns the side of each image in each fold of each repeat."""
    classes = tuple(map(str, range(labels.max() + 1)))
    dataset = data.Dataset(classes, labels.astype(np.int32), tuple(map(str, names)), lambda i: b"")
    source = data.Source("memory", classes, {"train": dataset})
    row, found = {name: i for i, name in enumerate(dataset.names)}, []
    for fold in (Fold(k, folds, r) for r in range(1, repeats + 1) for k in range(1, folds + 1)):
        splits = data.choose_splits(source, test=str(fold))
        side = np.full(len(labels), TRAIN, np.int8)
        for which, split in ((VAL, splits.val), (TEST, splits.test)):
            side[[row[name] for name in split.names]] = which
        found.append(side)
    return np.stack(found)


def at_once(features: np.ndarray, labels: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns penalties [J] and logits [J, N, C] by the one program."""
    found = fold_probes.probe_folds(features, labels, sides, num_classes=int(labels.max()) + 1)
    return found.penalties, found.logits


_fit = jax.jit(fold_probes.fit, static_argnames="rounds")
_basis = jax.jit(fold_probes.make_basis, static_argnums=2)


def choose(side: np.ndarray, labels: np.ndarray, fit: Callable[[np.ndarray, float], np.ndarray]) -> tuple:
    """Returns the penalty and logits [N, C] of a fold; `fit` gives the logits of the fit to some rows."""
    val, losses = side == VAL, []
    for penalty in PENALTIES:
        found = fit(side == TRAIN, penalty)
        losses.append(probabilities_of(labels[val], found[val], sigmoid=False)[1].mean())
    best = PENALTIES[int(np.argmin(losses))]
    return best, fit(side != TEST, best)


def in_turn(features: np.ndarray, labels: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same by the same solver, one call for each fit."""
    scaled, basis = _basis(features, labels, int(labels.max()) + 1)

    def one(side: np.ndarray) -> tuple:
        std = fold_probes.standard_deviations(scaled, jnp.asarray(side == TRAIN)[None] / (side == TRAIN).sum())[0]

        def fit(rows: np.ndarray, penalty: float) -> np.ndarray:
            share = (rows / rows.sum()).astype(np.float32)
            rounds = fold_probes.CHOOSING if (rows == (side == TRAIN)).all() else fold_probes.FINAL
            return np.asarray(_fit(basis, share, std, np.float32(penalty), rounds=rounds)).T

        return choose(side, labels, fit)

    penalties, logits = zip(*map(one, sides), strict=True)
    return np.array(penalties), np.stack(logits)


def by_sklearn(features: np.ndarray, labels: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same by scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    def one(side: np.ndarray) -> tuple:
        # In float32 it stops too early.
        train = features[side == TRAIN].astype(np.float64)
        scaled = (features - train.mean(0)) / np.maximum(train.std(0), 1e-6)

        def fit(rows: np.ndarray, penalty: float) -> np.ndarray:
            model = LogisticRegression(C=1 / (penalty * rows.sum()), tol=1e-9, max_iter=10_000)
            return model.fit(scaled[rows], labels[rows]).predict_log_proba(scaled)

        return choose(side, labels, fit)

    penalties, logits = zip(*map(one, sides), strict=True)
    return np.array(penalties), np.stack(logits)


def figures(labels: np.ndarray, sides: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns accuracy and log loss of each fold on its test images [J, 2]."""
    found = []
    for side, of_fold in zip(sides, logits, strict=True):
        test = side == TEST
        _, losses = probabilities_of(labels[test], of_fold[test], sigmoid=False)
        found.append(((of_fold[test].argmax(1) == labels[test]).mean(), losses.mean()))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--keep", type=Path, help="a file for the features")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sklearn", action="store_true")
    arguments = parser.parse_args()
    found = features_of(arguments)
    features, labels = found["features"].astype(np.float32), found["labels"].astype(np.int32)
    sides = sides_of(labels, found["names"], arguments.folds, arguments.repeats)
    fits = len(sides) * (len(PENALTIES) + 1)
    print(f"{len(labels)} images, {features.shape[1]} features, {len(sides)} folds, {fits} fits", flush=True)
    ways = {"at once": at_once, "in turn": in_turn, **({"scikit-learn": by_sklearn} if arguments.sklearn else {})}
    results: dict[str, np.ndarray] = {}
    for name, way in list(ways.items())[:2]:  # One fold compiles what takes turns.
        begun = time.perf_counter()
        way(features, labels, sides if name == "at once" else sides[:1])
        print(f"{name}: {time.perf_counter() - begun:.1f} s the first time", flush=True)
    for _ in range(arguments.rounds):
        taken = {}
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            _, logits = way(features, labels, sides)
            taken[name] = time.perf_counter() - clock, time.process_time() - processor
            results[name] = figures(labels, sides, logits)
        of_once = taken["at once"]
        for name, (clock, processor) in taken.items():
            ratios = f"{clock / of_once[0]:.1f} by the clock, {processor / of_once[1]:.1f} by the processor"
            differ = abs(results[name] - results["at once"]).max(0)
            means = results[name].mean(0)
            print(
                f"{name:<13} {clock:.2f} s, {processor:.2f} of a processor ({ratios}); accuracy {means[0]:.6f}, "
                f"log loss {means[1]:.6f}; largest difference in a fold {differ[0]:.1e} and {differ[1]:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
