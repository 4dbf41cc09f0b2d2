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

# A longer memory brings no lane nearer, and takes most of the time under vmap.
_STEPS, _MEMORY = 30, 4
# Times so many steps: to choose a penalty takes fewer than to give figures that another solver finds too.
CHOOSING, FINAL = 3, 6
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
      variance: along each [D + 1]; 1 for the ones.
      targets: 1 for the class of each example [C, N].
    """

    turned: jax.Array
    back: jax.Array
    variance: jax.Array
    targets: jax.Array


def probe_folds(features: np.ndarray, labels: np.ndarray, sides: np.ndarray, *, num_classes: int) -> FoldProbes:
    """Fits multinomial logistic regression in every fold over a grid of penalties, `probe.PENALTIES`, all at once.

    In each fold features are standardised by its train. The penalty is the one with the lowest log loss on its val,
    where accuracies of a few dozen images would tie; the logits are those of the fit to train and val together. Folds
    are masks over one matrix of features, and fits the lanes of one vmapped program: their products are one large
    product.

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
    return FoldProbes(np.asarray(PENALTIES)[best], val, logits)


def make_basis(features: jax.Array, labels: jax.Array, num_classes: int) -> tuple[jax.Array, Basis]:
    """Returns features of mean 0 and variance 1 [N, D], and their basis."""
    mean, std = (of(features, 0, keepdims=True) for of in (jnp.mean, jnp.std))
    scaled = (features - mean) / jnp.maximum(std, 1e-6)
    variance, vectors = jnp.linalg.eigh(scaled.T @ scaled / len(labels))
    turned = jnp.concatenate([scaled @ vectors, jnp.ones((len(labels), 1), scaled.dtype)], 1)
    variance = jnp.append(jnp.maximum(variance, 0.0), 1.0)
    return scaled, Basis(turned, vectors.T, variance, jax.nn.one_hot(labels, num_classes, axis=0))


def fit(basis: Basis, share: jax.Array, std: jax.Array, penalty: jax.Array, *, rounds: int) -> jax.Array:
    """Returns the logits of all examples [C, N] by the fit to some: one lane.

    Args:
      basis: of the features.
      share: of each example in the mean cross entropy [N], 0 for those that do not train.
      std: of each feature among those that train [D]; the penalty is that of features divided by it.
      penalty: of half the squared weights.
      rounds: how often to begin anew from the curvature found so far.
    """
    turn = basis.back * std[None]
    # On the weights of features, not on the intercept.
    ridge = penalty * (jnp.arange(len(basis.variance)) < len(basis.back))

    def loss(weights: jax.Array) -> jax.Array:
        found = weights @ basis.turned.T
        # By hand and with the classes first, which vectorises over the examples.
        highest = jax.lax.stop_gradient(found.max(0))
        entropy = jnp.log(jnp.exp(found - highest[None]).sum(0)) + highest - (found * basis.targets).sum(0)
        return (entropy * share).sum() + 0.5 * penalty * ((weights[:, :-1] @ turn) ** 2).sum()

    def descend(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        # The curvature is about that of each class, mean p (1 - p), times the variance: where weak penalties make
        # nearly all probabilities 0 or 1, far below its bound, and steps scaled by that would crawl.
        weights, curvature = carry
        scale = 1 / jnp.sqrt(jnp.maximum(curvature[:, None] * basis.variance[None] + ridge[None], 1e-8))
        point = minimise(lambda point: loss(point * scale), weights / scale, steps=_STEPS, memory=_MEMORY)
        weights = point * scale
        probabilities = jax.nn.softmax(weights @ basis.turned.T, axis=0)
        curvature = (probabilities * (1 - probabilities) * share[None]).sum(1)
        return (weights, jnp.maximum(curvature, 1e-4)), None

    classes = len(basis.targets)
    # At first its bound (Boehning, 1992).
    start = jnp.zeros((classes, len(basis.variance))), jnp.full(classes, 0.5)
    (weights, _), _ = jax.lax.scan(descend, start, None, length=rounds)
    return weights @ basis.turned.T


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
        found, val = fit(basis, shares[0][fold], std[fold], penalty, rounds=CHOOSING), sides[fold] == VAL
        losses = -(jax.nn.log_softmax(found, axis=0) * basis.targets).sum(0)
        return jnp.stack([(losses * val).sum(), ((found.argmax(0) == labels) & val).sum()]) / val.sum()

    def refit(fold: jax.Array, penalty: jax.Array) -> jax.Array:
        return fit(basis, shares[1][fold], std[fold], penalty, rounds=FINAL).T

    folds, count = jnp.arange(len(sides)), len(penalties)
    on_grid = _over(on_val, lanes, jnp.repeat(folds, count), jnp.tile(penalties, len(sides))).reshape(-1, count, 2)
    best = on_grid[..., 0].argmin(1)
    return best, on_grid[folds, best, 1], _over(refit, lanes, folds, penalties[best])


def _over(function: Callable[..., jax.Array], lanes: int, *arguments: jax.Array) -> jax.Array:
    """Returns the function's results for each row of its arguments, so many at a time."""
    if lanes >= len(arguments[0]):
        return jax.vmap(function)(*arguments)
    found: jax.Array = jax.lax.map(lambda each: function(*each), arguments, batch_size=lanes)
    return found
