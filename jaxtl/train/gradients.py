"""Gradients of a batch with respect to the trainable leaves alone: in parts, over devices, scaled, with penalties."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxtl.finetune.freezing import frozen_modules
from jaxtl.finetune.stages import group_of
from jaxtl.models.base import auxiliary_weight
from jaxtl.train.losses import Loss
from jaxtl.train.penalties import Penalty
from jaxtl.train.state import Batch, Leaves, Scalars
from jaxtl.trees import Params, nest

ModelState: TypeAlias = Mapping[str, Params]
Sums: TypeAlias = tuple[Leaves, dict[str, Params], Scalars]
# (leaves, model state, batch, key) -> (gradients, (next model state, scalars)).
Gradient: TypeAlias = Callable[[Leaves, ModelState, Batch, jax.Array], tuple[Leaves, tuple[ModelState, Scalars]]]


@dataclass(frozen=True)
class Objective:
    """What is minimised: the loss of a model as a function of those of its parameters that train.

    Attributes:
      model: as in `train_step`.
      groups: as in `train_step`.
      loss_fn: as in `train_step`.
      penalty: leaves -> scalar, added to the mean loss of the batch.
      axis_name: the pmap axis to sum over, or None.
      auxiliary_weight: weight of the loss of each auxiliary output; None for what the model states.
      several_labels: as in `StepOptions`.
    """

    model: nn.Module
    groups: Mapping[str, str]
    loss_fn: Loss
    penalty: Penalty | None = None
    axis_name: str | None = None
    auxiliary_weight: float | None = None
    several_labels: bool = False

    def auxiliary_weights(self, auxiliary: Iterable[str]) -> dict[str, float]:
        """Returns the weights of the auxiliary outputs that count, by name: those of heads that train.

        A frozen head holds the others to what it says, which is nothing sensible where it is new; and where all before
        it is frozen too, there is nothing that its loss could move.
        """
        weight = self.auxiliary_weight
        stated = auxiliary_weight(self.model) if weight is None else weight
        training = {group_of(label) for label in self.groups.values()}
        return {name: stated for name in auxiliary if name in training}


def gradients(
    trainable: Leaves,
    frozen: Leaves,
    model_state: ModelState,
    batch: Batch,
    key: jax.Array,
    *,
    objective: Objective,
    accumulate: int = 1,
    scale: jax.Array | None = None,
) -> tuple[Leaves, dict[str, Params], Scalars]:
    """Returns the gradients by path, the next model state, and the scalars of the global batch.

    Args:
      trainable: leaves by path, to be differentiated.
      frozen: the other leaves.
      model_state: the collections other than params.
      batch: "image", "label" and "mask", ready for the model: how much each row counts in the loss, 0 for padding.
      key: of dropout.
      objective: the loss and its model.
      accumulate: number of parts the batch is computed in.
      scale: factor on the loss while it is differentiated; the gradients are divided by it again.
    """
    axis_name, penalty = objective.axis_name, objective.penalty
    count = _sum((batch["mask"] > 0).astype(jnp.float32).sum(), axis_name)

    def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
        # Divided by the global count here, sums over parts and devices are the mean over the global batch.
        return (values * weights).sum() / count

    def loss_of(
        leaves: Leaves, model_state: ModelState, part: Batch, part_key: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Scalars]]:
        params = nest({**leaves, **frozen})
        with frozen_modules(objective.groups, axis_name):
            outputs, model_state = objective.model.apply(
                {"params": params, **model_state},
                part["image"],
                train=True,
                mutable=list(model_state),
                rngs={"dropout": part_key},
            )
        logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, {})
        loss = mean(objective.loss_fn(logits, part["label"]), part["mask"])
        total = loss
        for name, weight in objective.auxiliary_weights(auxiliary).items():
            total += weight * mean(objective.loss_fn(auxiliary[name], part["label"]), part["mask"])
        hits = _all_right if objective.several_labels else _hits
        scalars = {"loss": loss, "accuracy": mean(hits(logits, part["label"]), part["mask"] > 0)}
        return total if scale is None else total * scale, (model_state, scalars)

    gradient = jax.grad(loss_of, has_aux=True)
    if accumulate == 1:
        grads, (model_state, scalars) = gradient(trainable, model_state, batch, key)
    else:
        grads, model_state, scalars = _accumulated(gradient, trainable, model_state, batch, key, accumulate)
    grads, scalars = jax.tree.map(lambda x: _sum(x, axis_name), (grads, scalars))
    if scale is not None:
        grads = jax.tree.map(lambda g: g / scale.astype(g.dtype), grads)
    if penalty is not None:
        # Once for the batch, not once a part or a device.
        scalars["penalty"], penalty_grads = jax.value_and_grad(penalty)(trainable)
        grads = jax.tree.map(jnp.add, grads, penalty_grads)
    return grads, dict(model_state), scalars


def sam_perturb(leaves: Leaves, grads: Leaves, radius: float) -> Leaves:
    """Returns the leaves moved uphill by a vector of length `radius`: the first half of a step of SAM.

    The gradient there leads to flat minima (https://arxiv.org/abs/2010.01412).
    """
    length = radius / jnp.maximum(optax.tree.norm(grads), 1e-12)
    return {path: leaf + length.astype(leaf.dtype) * grads[path] for path, leaf in leaves.items()}


def _accumulated(
    gradient: Gradient, trainable: Leaves, model_state: ModelState, batch: Batch, key: jax.Array, parts: int
) -> Sums:
    """Sums gradients and scalars over equal parts of the batch, one after another."""
    # Every parts-th row goes to the same part: on a batch sharded by rows each part stays spread over all devices.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch))

    def body(carry: Sums, inputs: tuple[Batch, jax.Array]) -> tuple[Sums, None]:
        grads, model_state, scalars = carry
        part_grads, (after, part_scalars) = gradient(trainable, model_state, *inputs)
        return (
            jax.tree.map(jnp.add, grads, part_grads),
            dict(after),
            jax.tree.map(jnp.add, scalars, part_scalars),
        ), None

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    start = (zeros, dict(model_state), {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())})
    return jax.lax.scan(body, start, (split, jax.random.split(key, parts)))[0]


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = labels if labels.ndim == 1 else labels.argmax(-1)
    return (logits.argmax(-1) == targets).astype(jnp.float32)


def _all_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return ((logits >= 0) == (labels > 0.5)).all(-1).astype(jnp.float32)


def _sum(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.psum(x, axis_name)
