"""How far features alone carry: k nearest neighbours and a linear classifier, chosen on val, measured on test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import logsumexp

from jaxtl.evaluate.lbfgs import minimise
from jaxtl.evaluate.metrics import wilson_interval

NEIGHBOURS = (1, 3, 5, 10, 20)
# Of the squared weights, beside the mean cross entropy; features have unit variance.
PENALTIES = tuple(float(x) for x in np.logspace(-4, 0, 9))
_ITERATIONS = 40
_TEMPERATURE = 0.07
# Queries compared at a time.
_CHUNK = 1024


@dataclass(frozen=True)
class Split:
    """Features [n, D] and their labels, int32 [n]."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Score:
    """What one classifier reached.

    Attributes:
      accuracy: on test.
      interval: the 95 % interval of it, Wilson's.
      val: accuracy on val of what was chosen.
      chosen: the number of neighbours, or the penalty.
    """

    accuracy: float
    interval: tuple[float, float]
    val: float
    chosen: float

    def to_json(self) -> dict[str, Any]:
        """Gives plain values."""
        return {"accuracy": self.accuracy, "interval": list(self.interval), "val": self.val, "chosen": self.chosen}


@dataclass(frozen=True)
class Linear:
    """A linear classifier of features: logits are features @ kernel + bias.

    Attributes:
      kernel: [D, C].
      bias: [C].
      penalty: of the squared weights, as chosen on val.
      accuracy: on val.
      loss: the mean cross entropy on val.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    accuracy: float
    loss: float


def probe_knn(train: Split, val: Split, test: Split, *, num_classes: int) -> Score:
    """Classifies by the nearest neighbours in cosine similarity, each voting with exp(similarity / 0.07).

    The weighting is that of https://arxiv.org/abs/1805.01978. The number of neighbours is chosen on val; for test,
    train and val together are the neighbours.
    """
    both = Split(np.concatenate([train.features, val.features]), np.concatenate([train.labels, val.labels]))
    counts = tuple(k for k in NEIGHBOURS if k <= len(train.labels))
    choose = _nearest(train.features, train.labels, val.features, counts, num_classes) == val.labels
    best = int(choose.mean(1).argmax())
    correct = (
        _nearest(both.features, both.labels, test.features, counts[best : best + 1], num_classes)[0] == test.labels
    )
    return _score(correct, choose[best], counts[best])


def probe_linear(train: Split, val: Split, test: Split, *, num_classes: int) -> Score:
    """Fits multinomial logistic regression to standardised features by L-BFGS, over a grid of penalties.

    The penalty is the one with the highest accuracy on val, the largest among equals; its classifier of train and
    val together is measured on test. Both fits of all penalties are the lanes of one vmapped program.
    """
    fitted, mean, std = _fit_all(train, val, num_classes, both=True)
    lanes = len(PENALTIES)
    right = _logits(fitted[:lanes], (val.features - mean) / std).argmax(-1) == val.labels
    # Val is small and ties are common: the strongest penalty among equals errs on the safe side.
    best = max(range(lanes), key=lambda lane: (right[lane].mean(), PENALTIES[lane]))
    correct = _logits(fitted[lanes + best], (test.features - mean) / std).argmax(-1) == test.labels
    return _score(correct, right[best], PENALTIES[best])


def fit_linear(train: Split, val: Split, *, num_classes: int) -> Linear:
    """Fits the classifier of `probe_linear` to train alone, with the penalty of the least cross entropy on val."""
    lanes, mean, std = _fit_all(train, val, num_classes, both=False)
    logits = _logits(lanes, (val.features - mean) / std)
    losses = logsumexp(logits, axis=-1).mean(1) - logits[:, np.arange(len(val.labels)), val.labels].mean(1)
    best = int(losses.argmin())
    kernel = lanes[best][:-1] / std[:, None]
    accuracy = float((logits[best].argmax(-1) == val.labels).mean())
    return Linear(kernel, lanes[best][-1] - mean @ kernel, PENALTIES[best], accuracy, float(losses[best]))


def _fit_all(train: Split, val: Split, num_classes: int, *, both: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the fits of all penalties to train [G, D + 1, C], and train's mean and standard deviation [D].

    The fits are those to features less that mean, divided by that standard deviation. With `both`, as many fits to
    train and val together follow.
    """
    features = np.concatenate([train.features, val.features])
    labels = np.concatenate([train.labels, val.labels])
    mean, std = train.features.mean(0), np.maximum(train.features.std(0), 1e-6)
    in_train = np.arange(len(labels)) < len(train.labels)
    sets = [in_train / in_train.sum(), np.full(len(labels), 1 / len(labels))][: 2 if both else 1]
    shares = np.repeat(np.stack(sets), len(PENALTIES), axis=0).astype(np.float32)
    penalties = np.tile(np.asarray(PENALTIES, np.float32), len(sets))
    fit = compile_linear(*features.shape, num_classes, lanes=len(penalties))
    return np.asarray(fit((features - mean) / std, labels.astype(np.int32), shares, penalties)), mean, std


@cache
def compile_linear(
    count: int, width: int, num_classes: int, lanes: int = 2 * len(PENALTIES)
) -> Callable[..., jax.Array]:
    """Compiles the fit of `probe_linear` for features [count, width]; called beforehand, it is found ready there."""
    arrays = ((count, width), np.float32), ((count,), np.int32), ((lanes, count), np.float32), ((lanes,), np.float32)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in arrays]
    return _fit_grid.lower(*shapes, num_classes=num_classes).compile()


def _score(correct: np.ndarray, val: np.ndarray, chosen: float) -> Score:
    """Returns the score of a classifier from which examples of test [n] and val [m] it has right."""
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return Score(float(correct.mean()), (low, high), float(val.mean()), chosen)


def _nearest(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, counts: Sequence[int], num_classes: int
) -> np.ndarray:
    """Returns the predictions for each number of neighbours, [K, Q]."""
    features, queries = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (features, queries))
    predicted = np.empty((len(counts), len(queries)), np.int64)
    for start in range(0, len(queries), _CHUNK):
        similarity = queries[start : start + _CHUNK] @ features.T
        index = np.argpartition(-similarity, max(counts) - 1, axis=1)[:, : max(counts)]
        near = np.take_along_axis(similarity, index, axis=1)
        order = np.argsort(-near, axis=1)
        index, near = np.take_along_axis(index, order, axis=1), np.take_along_axis(near, order, axis=1)
        votes = np.eye(num_classes)[labels[index]] * np.exp(near / _TEMPERATURE)[..., None]
        running = votes.cumsum(axis=1)
        predicted[:, start : start + _CHUNK] = np.stack([running[:, k - 1].argmax(-1) for k in counts])
    return predicted


def _logits(weights: Any, features: Any) -> Any:
    return features @ weights[..., :-1, :] + weights[..., -1:, :]


@partial(jax.jit, static_argnames="num_classes")
def _fit_grid(
    features: jax.Array, labels: jax.Array, shares: jax.Array, penalties: jax.Array, num_classes: int
) -> jax.Array:
    """Returns weights [L, D + 1, C], bias last: L fits, each with a penalty of its own.

    The share of each example in the mean loss of a fit stands in `shares` [L, n].
    """
    target = jax.nn.one_hot(labels, num_classes)
    # In the basis of the features' covariance, scaled by the bound on the curvature (Boehning, 1992), the loss is as
    # round as it gets: a few dozen steps then do what thousands would.
    variance, basis = jnp.linalg.eigh(features.T @ features / len(labels))
    turned = features @ basis
    bound = jnp.append(0.5 * jnp.maximum(variance, 0.0), 0.5)

    def fit(penalty: jax.Array, share: jax.Array) -> jax.Array:
        scale = (1 / jnp.sqrt(bound + penalty))[:, None]

        def loss(scaled: jax.Array) -> jax.Array:
            weights = scaled * scale
            examples = optax.softmax_cross_entropy(_logits(weights, turned), target)
            return (examples * share).sum() + 0.5 * penalty * (weights[:-1] ** 2).sum()

        start = jnp.zeros((features.shape[1] + 1, num_classes))
        scaled = minimise(loss, start, steps=_ITERATIONS, memory=10)
        weights = scaled * scale
        return jnp.concatenate([basis @ weights[:-1], weights[-1:]])

    return jax.vmap(fit)(penalties, shares)
