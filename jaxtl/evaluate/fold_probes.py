"""Linear probes of all folds, repeats and penalties over one matrix of features: one vmapped program."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.cuts import TEST, TRAIN, VAL
from jaxtl.evaluate.lbfgs import minimise
from jaxtl.evaluate.probe import PENALTIES

# More than `probe_linear` takes, for figures that another solver finds too; a longer memory brought none nearer.
_STEPS, _MEMORY = 60, 4
# Logits of all fits under way; more fits go in parts, for the memory that they take.
_LOGITS = 2**27


@dataclass(frozen=True)
class FoldProbes:
    """What J folds gave, on all N examples and C classes.

    Attributes:
      penalties: chosen on the val of each fold [J].
      val: accuracy there, of the classifier of train alone [J].
      logits: of the classifier of train and val together [J, N, C].
    """

    penalties: np.ndarray
    val: np.ndarray
    logits: np.ndarray


class Basis(NamedTuple):
    """Features in a basis in which the loss is as round as it gets, the same for all fits.

    Attributes:
      turned: features of mean 0 and variance 1 in the basis of their covariance, and a column of ones [N, D + 1].
      back: that basis, transposed [D, D].
      bound: on the curvature of the cross entropy along each [D + 1] (Boehning, 1992).
      targets: 1 for the class of each example [C, N].
    """

    turned: jax.Array
    back: jax.Array
    bound: jax.Array
    targets: jax.Array


def probe_folds(features: np.ndarray, labels: np.ndarray, sides: np.ndarray, *, num_classes: int) -> FoldProbes:
    """Fits multinomial logistic regression in every fold over a grid of penalties, `probe.PENALTIES`, all at once.

    In each fold features are standardised by its train. The penalty is the one with the highest accuracy on its val,
    the largest among equals; the logits are those of the fit to train and val together. Folds are masks over one matrix
    of features, and fits the lanes of one vmapped program: their products are one large product.

    Args:
      features: [N, D].
      labels: class indices [N].
      sides: of each example in each fold, `cuts.TRAIN`, `VAL` or `TEST` [J, N]; each fold has examples of all three.
      num_classes: C.
    """
    for side in (TRAIN, VAL, TEST):
        if not (sides == side).any(1).all():
            raise ValueError(f"a fold has no example of the side {side}")
    penalties = np.asarray(PENALTIES, np.float32)
    lanes = max(1, _LOGITS // (len(labels) * num_classes))
    found = _fit_all(
        features.astype(np.float32), labels.astype(np.int32), sides, penalties, num_classes=num_classes, lanes=lanes
    )
    best, val, logits = map(np.asarray, found)
    return FoldProbes(penalties[best], val, logits)


def make_basis(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, Basis]:
    """Returns features of mean 0 and variance 1 [N, D], and their basis."""
    mean, std = (of(features, 0, keepdims=True) for of in (jnp.mean, jnp.std))
    scaled = (features - mean) / jnp.maximum(std, 1e-6)
    variance, vectors = jnp.linalg.eigh(scaled.T @ scaled / len(labels))
    turned = jnp.concatenate([scaled @ vectors, jnp.ones((len(labels), 1), scaled.dtype)], 1)
    bound = jnp.append(0.5 * jnp.maximum(variance, 0.0), 0.5)
    return scaled, Basis(turned, vectors.T, bound, jax.nn.one_hot(labels, num_classes, axis=0))


def fit(basis: Basis, share: jax.Array, std: jax.Array, penalty: jax.Array) -> jax.Array:
    """Returns the logits of all examples [C, N] by the fit to some: one lane.

    Args:
      basis: of the features.
      share: of each example in the mean cross entropy [N], 0 for those that do not train.
      std: of each feature among those that train [D]; the penalty is that of features divided by it.
      penalty: of half the squared weights.
    """
    scale = 1 / jnp.sqrt(basis.bound + penalty)[None]
    turn = basis.back * std[None]

    def logits(point: jax.Array) -> jax.Array:
        return (point * scale) @ basis.turned.T

    def loss(point: jax.Array) -> jax.Array:
        found = logits(point)
        # By hand and with the classes first, which vectorises over the examples.
        highest = jax.lax.stop_gradient(found.max(0))
        entropy = jnp.log(jnp.exp(found - highest[None]).sum(0)) + highest - (found * basis.targets).sum(0)
        return (entropy * share).sum() + 0.5 * penalty * (((point * scale)[:, :-1] @ turn) ** 2).sum()

    start = jnp.zeros((len(basis.targets), basis.turned.shape[1]))
    return logits(minimise(loss, start, steps=_STEPS, memory=_MEMORY))


def standard_deviations(scaled: jax.Array, share: jax.Array) -> jax.Array:
    """Returns the standard deviation of each feature among the examples that train [J, D], by their shares [J, N]."""
    mean = share @ scaled
    return jnp.maximum(jnp.sqrt(jnp.maximum(share @ scaled**2 - mean**2, 0.0)), 1e-6)


@partial(jax.jit, static_argnames=("num_classes", "lanes"))
def _fit_all(
    features: jax.Array, labels: jax.Array, sides: jax.Array, penalties: jax.Array, *, num_classes: int, lanes: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns of each fold which penalty is best [J], its accuracy on val [J], and logits [J, N, C]."""
    scaled, basis = make_basis(features, labels, num_classes)
    train, held = ((sides == TRAIN), (sides != TEST))
    shares = train / train.sum(1, keepdims=True), held / held.sum(1, keepdims=True)
    std = standard_deviations(scaled, shares[0])

    def on_val(fold: jax.Array, penalty: jax.Array) -> jax.Array:
        right = fit(basis, shares[0][fold], std[fold], penalty).argmax(0) == labels
        return (right & (sides[fold] == VAL)).sum()

    def refit(fold: jax.Array, penalty: jax.Array) -> jax.Array:
        return fit(basis, shares[1][fold], std[fold], penalty).T

    folds, count = jnp.arange(len(sides)), len(penalties)
    right = _over(on_val, lanes, jnp.repeat(folds, count), jnp.tile(penalties, len(sides))).reshape(-1, count)
    # Val is small and ties are common: the strongest penalty among equals errs on the safe side.
    best = count - 1 - right[:, ::-1].argmax(1)
    val = right[folds, best] / (sides == VAL).sum(1)
    return best, val, _over(refit, lanes, folds, penalties[best])


def _over(function: Callable[..., jax.Array], lanes: int, *arguments: jax.Array) -> jax.Array:
    """Returns the function's results for each row of its arguments, so many at a time."""
    if lanes >= len(arguments[0]):
        return jax.vmap(function)(*arguments)
    found: jax.Array = jax.lax.map(lambda each: function(*each), arguments, batch_size=lanes)
    return found
