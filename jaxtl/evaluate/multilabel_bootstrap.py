"""Intervals by the bootstrap of the metrics of several labels an image."""

import numpy as np

from jaxtl.evaluate.bootstrap import RESAMPLES

# The mean average precision goes through the ranking of each label, for each resample: it has fewer of them, ...
RESAMPLES_OF_MAP = 200
# ... of large sets fewer still, so that it takes seconds, and of the largest none, where so few would say nothing.
_MOST, _FEWEST = 4 * 10**8, 50
# So many numbers of drawn images are looked at in one go.
_CHUNK = 2**22


def multilabel_intervals(
    labels: np.ndarray, logits: np.ndarray, decided: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """Returns 95 % percentile intervals: as many images are drawn again and again, with replacement.

    The macro F1 and the mean average precision of a resample go over the labels that it has positives of.

    Args:
      labels: which labels each image has, bool [N, C]; the order of the images does not matter.
      logits: [N, C].
      decided: which are predicted, bool [N, C].
      resamples: number of draws; for "map" RESAMPLES_OF_MAP at most.
      seed: of the draws.

    Returns:
      "subset_accuracy", "macro_f1" and "map", each [low, high]; what no resample has is not there.
    """
    # Images in an order of their own: two that cannot be told apart may change places.
    order = np.lexsort((labels.sum(1), decided.sum(1), np.where(labels, logits, 0).sum(1), logits.sum(1)))
    labels, logits, decided = labels[order], logits[order], decided[order]
    count, number = labels.shape
    rng = np.random.default_rng(seed)
    of_map = min(resamples, RESAMPLES_OF_MAP, _MOST // (count * number))
    of_map = of_map if of_map >= min(_FEWEST, resamples) else 0
    drawn: dict[str, list[np.ndarray]] = {"subset_accuracy": [], "macro_f1": [], "map": []}
    rows = max(1, _CHUNK // max(count, number))
    right = (labels == decided).all(1).astype(np.float32)
    hits, predicted, actual = (each.astype(np.float32) for each in (labels & decided, decided, labels))
    for first in range(0, resamples, rows):
        these = min(rows, resamples - first)
        index = rng.integers(0, count, (these, count)) + count * np.arange(these)[:, None]
        # How often each image is drawn. Sums stay whole numbers below 2 ** 24, which float32 has all.
        weights = np.bincount(index.ravel(), minlength=these * count).reshape(these, count).astype(np.float32)
        drawn["subset_accuracy"].append(weights @ right / count)
        there = weights @ actual
        both = weights @ predicted + there
        f1 = np.divide(2 * (weights @ hits), both, out=np.zeros_like(both), where=both > 0)
        drawn["macro_f1"].append(_mean(f1, there > 0))
        if first < of_map:
            drawn["map"].append(_map(weights[: of_map - first], labels, logits))
    found = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts) if parts else np.empty(0)
        values = values[~np.isnan(values)]
        if len(values):
            found[name] = [round(float(bound), 6) for bound in np.percentile(values.astype(np.float64), [2.5, 97.5])]
    return found


def _map(weights: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns the mean average precision of each resample [R], of images drawn `weights` [R, N] times."""
    counts = labels.sum(0)
    precisions, defined = [], []
    for c in np.flatnonzero((counts > 0) & (counts < len(labels))):
        order = np.argsort(-logits[:, c], kind="stable")
        falling, positive = logits[order, c], labels[order, c]
        # Images of one score are above together.
        ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        drawn = weights[:, order]
        above = drawn.cumsum(1)[:, ends]
        hits = (drawn * positive).cumsum(1)[:, ends]
        share = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        total = hits[:, -1]
        sums = (np.diff(hits, prepend=0, axis=1) * share).sum(1)
        precisions.append(np.divide(sums, total, out=np.zeros_like(sums), where=total > 0))
        defined.append(total > 0)
    if not precisions:
        return np.full(len(weights), np.nan)
    return _mean(np.stack(precisions, 1), np.stack(defined, 1))


def _mean(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns the means over the labels that are there [R]; NaN where none is."""
    number = there.sum(1)
    sums = np.where(there, values, 0).sum(1)
    return np.divide(sums, number, out=np.full(len(sums), np.nan), where=number > 0)
