"""Predictions of several models put together: by vote, as means of probabilities or of logits, and by stacking."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtl.evaluate.stacking import cross_validated_loss, fit_stacking, log_softmax, stacking_features

WAYS = {
    "vote": "each model votes for its likeliest class; means of probabilities break ties",
    "weighted": "a weighted mean of probabilities, with the weights of the least log loss on val",
    "logits": "the mean of logits, which is the geometric mean of probabilities",
    "stacking": "the mean of logits and a logistic regression of what to add to it, fitted on val",
}
FITTED = ("weighted", "stacking")
"""The ways that are fitted to val, so that their metrics on it are in-sample: better than on other images."""
# No probability is taken for less: of one mistake that a model was sure of, the log loss should not be without end.
_LEAST = 1e-12


@dataclass(frozen=True)
class Combination:
    """A way to put the predictions of M models of C classes together.

    Attributes:
      by: one of WAYS.
      weights: of the models, not negative, with the sum 1; what stacking makes of each has no one number, and is ().
      coefficients: of stacking, [C, M * C]; else ().
      intercept: of stacking, [C]; else ().
      cross_validated: of what was fitted, the log loss on images that it was not fitted to; None where nobody knows.
    """

    by: str
    weights: tuple[float, ...] = ()
    coefficients: tuple[tuple[float, ...], ...] = ()
    intercept: tuple[float, ...] = ()
    cross_validated: float | None = None

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Returns logits [N, C], whose softmax are the probabilities, of the logits of all models [M, N, C]; float32.

        >>> both = np.log(np.array([[[0.5, 0.5]], [[0.9, 0.1]]]))
        >>> bool(np.allclose(np.exp(Combination("weighted", (0.5, 0.5))(both)), [[0.7, 0.3]]))
        True
        """
        logs = log_softmax(logits)
        if self.by == "stacking":
            found = stacking_features(logs) @ np.array(self.coefficients).T + np.array(self.intercept)
        elif self.by == "logits":
            found = np.tensordot(np.array(self.weights), logs, 1)
        else:
            means = np.tensordot(np.array(self.weights), np.exp(logs), 1)
            if self.by == "vote":
                votes = (logs.argmax(-1)[..., None] == np.arange(logs.shape[-1])).sum(0)
                # The mean counts as one more vote: it moves no class past one with more votes.
                means = (votes + means) / (len(logs) + 1)
            found = np.log(np.maximum(means, _LEAST))
        return np.asarray(found, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Gives plain values; `from_json` reads them again."""
        stacking = {"coefficients": [list(row) for row in self.coefficients], "intercept": list(self.intercept)}
        found = {"by": self.by, "weights": list(self.weights), **(stacking if self.coefficients else {})}
        return found | ({} if self.cross_validated is None else {"cross_validated_log_loss": self.cross_validated})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Combination":
        """Reads what `to_json` gave.

        Raises:
          ValueError, KeyError, TypeError: it is something else.
        """
        if values["by"] not in WAYS:
            raise ValueError(f"{values['by']!r} is none of {', '.join(WAYS)}")
        rows = tuple(tuple(map(float, row)) for row in values.get("coefficients", ()))
        weights, intercept = (tuple(map(float, values.get(key, ()))) for key in ("weights", "intercept"))
        loss = values.get("cross_validated_log_loss")
        return cls(values["by"], weights, rows, intercept, None if loss is None else float(loss))


def fit(by: str, labels: np.ndarray, logits: np.ndarray) -> Combination:
    """Returns the combination of that name, fitted where it has something to fit.

    Args:
      by: one of WAYS.
      labels: class indices [N] of images that trained none of the models.
      logits: of the models [M, N, C].

    Raises:
      ValueError: for stacking, a class has no image, or there is one class alone.
    """
    models, counts = len(logits), np.bincount(labels, minlength=logits.shape[-1])
    if by == "weighted":

        def means(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
            return Combination("weighted", fit_weights(labels[seen], logits[:, seen]))(logits[:, unseen])

        loss = cross_validated_loss(labels, means) if len(labels) > 1 else None
        return Combination(by, fit_weights(labels, logits), cross_validated=loss)
    if by == "stacking":
        if len(counts) < 2 or not counts.all():
            raise ValueError(f"class {int(counts.argmin())} has no image to fit to, or is the only one")
        coefficients, intercept, loss = fit_stacking(labels, log_softmax(logits))
        return Combination(by, (), tuple(map(tuple, coefficients.tolist())), tuple(intercept.tolist()), loss)
    return Combination(by, (1 / models,) * models)


def fit_weights(labels: np.ndarray, logits: np.ndarray) -> tuple[float, ...]:
    """Returns the weights with the least log loss of the weighted mean of probabilities, which is convex in them.

    The arguments are those of `fit`.
    """
    from scipy.optimize import minimize  # Here, since it takes a moment to import.

    models = len(logits)
    own = np.exp(log_softmax(logits)[:, np.arange(len(labels)), labels])  # Of the true class [M, N].

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ own, _LEAST)
        return float(-np.log(mixed).mean()), -(own / mixed).mean(1)

    found = minimize(
        loss,
        np.full(models, 1 / models),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * models,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: np.ones(models)},
        options={"ftol": 1e-10, "maxiter": 300},
    )
    weights = np.clip(found.x, 0, None)
    weights = np.where(weights < 1e-9, 0, weights)
    return tuple((weights / weights.sum()).tolist())
