"""Stacking: a logistic regression that corrects the mean of several models' logits, and falls back to that mean.

The penalty is on what is added to the mean, not on the coefficients themselves: with few images for many coefficients
a ridge that shrinks towards zero gives up what the models know, where this one keeps it.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

# Penalties that cross-validation chooses among (the C of scikit-learn, from strong to weak); at 0 the mean alone stays.
_STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 5
# Steps of L-BFGS that a fit may take.
_STEPS = 500


def fit_stacking(labels: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the coefficients [C, M * C] and the intercept [C] of stacking, and its cross-validated log loss.

    The loss is that of the best penalty, each image judged by a fit that did not see it.

    Args:
      labels: class indices [N], N at least 2.
      logs: log-probabilities of M models [M, N, C].
    """
    models, _, classes = logs.shape
    features, mean = stacking_features(logs), logs.mean(0)

    def corrected(strength: float, seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        added = fit_correction(labels[seen], features[seen], mean[seen], strength)
        return mean[unseen] + _with_ones(features[unseen]) @ added.T

    losses = [cross_validated_loss(labels, partial(corrected, strength)) for strength in _STRENGTHS]
    best = int(np.argmin(losses))
    added = fit_correction(labels, features, mean, _STRENGTHS[best])
    # What all classes of an image have in common drops out of a softmax: the mean is one of features, too.
    return added[:, :-1] + np.tile(np.eye(classes), models) / models, added[:, -1], losses[best]


def stacking_features(logs: np.ndarray) -> np.ndarray:
    """Returns what stacking reads of log-probabilities [M, N, C]: [N, M * C], of each model with the mean 0."""
    centred = logs - logs.mean(-1, keepdims=True)
    return np.concatenate(list(centred), axis=-1)


def fit_correction(labels: np.ndarray, features: np.ndarray, mean: np.ndarray, strength: float) -> np.ndarray:
    """Returns what is added to the mean of logits: a coefficient of each feature, and an intercept [C, F + 1].

    It has the least sum of log losses and of its squares / (2 strength), the intercept's among them, which is convex.

    Args:
      labels: class indices [N].
      features: [N, F].
      mean: the mean of logits [N, C].
      strength: how far it may go; 0 for not at all.
    """
    from scipy.optimize import minimize  # Here, since it takes a moment to import.

    (count, classes), inputs = mean.shape, _with_ones(features)
    if not strength:
        return np.zeros((classes, inputs.shape[1]))
    rows = np.arange(count)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the objective by image, and its gradient."""
        added = flat.reshape(classes, -1)
        logs = log_softmax(mean + inputs @ added.T)
        errors = np.exp(logs)
        errors[rows, labels] -= 1
        value = -logs[rows, labels].sum() + (flat**2).sum() / (2 * strength)
        return float(value) / count, (errors.T @ inputs + added / strength).ravel() / count

    start = np.zeros(classes * inputs.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "ftol": 1e-12, "gtol": 1e-7})
    return np.asarray(found.x).reshape(classes, -1)


def cross_validated_loss(labels: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Returns the log loss of fits, each judged on images that it was not fitted to.

    Args:
      labels: class indices [N].
      fit: (indices to fit to, indices to judge by) -> logits of the latter.
    """
    total = 0.0
    for seen, unseen in folds(labels):
        total -= float(log_softmax(fit(seen, unseen))[np.arange(len(unseen)), labels[unseen]].sum())
    return total / len(labels)


def folds(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns pairs of images to fit to and images to judge by, each image judged once; classes are spread evenly.

    >>> [unseen.tolist() for _, unseen in folds(np.array([0, 1, 0, 1]))]
    [[2], [0], [1], [3]]
    """
    number = min(_FOLDS, len(labels))
    order = np.lexsort((np.random.default_rng(0).permutation(len(labels)), labels))
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % number
    return [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(number)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the softmax of logits [..., C], in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def _with_ones(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
