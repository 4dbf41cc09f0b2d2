"""One step of training: a pure function from (state, batch) to (state, scalars)."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxtl.train.freeze import frozen_modules
from jaxtl.train.groups import flatten, partition, unflatten
from jaxtl.train.losses import softmax_cross_entropy
from jaxtl.train.state import TrainState

Batch = Mapping[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    groups: Mapping[str, str],
    loss_fn: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
    prepare: Callable[[Batch, jax.Array], Batch] | None = None,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one optimizer step on one batch.

    Only the trainable leaves are differentiated and updated, so frozen parameters cost no backward pass whatever is
    done with the gradients (norms, clipping, accumulation), and come out bit for bit as they went in.

    Args:
      state: the state; safe to donate.
      batch: "image" [B, H, W, C], "label" [B] or [B, C], and optionally "mask" [B] with 0 for rows that do not count.
      model: a Linen module called as model.apply(variables, images, train=True).
      optimizer: from `make_optimizer`, or any optax transformation over the whole tree of parameters.
      groups: path of each parameter -> its group, or "frozen".
      loss_fn: (logits [B, C], labels) -> loss of each example [B].
      prepare: (batch, key) -> batch, run on the device before the model (normalisation, mixup).
      clip_norm: the largest global norm of the trainable gradients; 0 for no clipping.
      accumulate: number of equal parts the batch is split into, one after another, to save memory.
      axis_name: the pmap axis to sum over; None under jit, where the batch is already global.

    Returns:
      The next state, and float32 scalars of the global batch: "loss" and "accuracy" (means), "grad_norm" (before
      clipping).
    """
    key = jax.random.fold_in(state.rng, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    prepare_key, dropout_key = jax.random.split(key)
    batch = {"mask": jnp.ones(batch["image"].shape[:1], jnp.float32), **batch}
    if prepare is not None:
        batch = dict(prepare(batch, prepare_key))
    trainable, frozen = partition(state.params, groups)
    count = _sum(batch["mask"].sum(), axis_name)

    def loss_of(leaves, model_state, part, part_key):
        params = unflatten({**leaves, **frozen})
        with frozen_modules(groups, axis_name):
            logits, model_state = model.apply(
                {"params": params, **model_state},
                part["image"],
                train=True,
                mutable=list(model_state),
                rngs={"dropout": part_key},
            )
        # Divided by the global count here, sums over parts and devices are the mean over the global batch.
        loss = (loss_fn(logits, part["label"]) * part["mask"]).sum() / count
        return loss, (model_state, (_hits(logits, part["label"]) * part["mask"]).sum() / count)

    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate == 1:
        (loss, (model_state, accuracy)), grads = gradient(trainable, state.model_state, batch, dropout_key)
    else:
        loss, accuracy, model_state, grads = _accumulated(
            gradient, trainable, state.model_state, batch, dropout_key, accumulate
        )
    loss, accuracy, grads = jax.tree.map(lambda x: _sum(x, axis_name), (loss, accuracy, grads))

    norm = optax.tree.norm(grads)
    if clip_norm:
        scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-16))
        grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
    params, opt_state = _update(optimizer, state, grads, trainable, frozen)
    state = TrainState(state.step + 1, params, dict(model_state), opt_state, state.rng)
    return state, {"loss": loss, "accuracy": accuracy, "grad_norm": norm}


def _accumulated(gradient, trainable, model_state, batch, key, parts):
    """Sums loss, accuracy and gradients over equal parts of the batch, one after another."""
    # Every parts-th row goes to the same part: on a batch sharded by rows each part stays spread over all devices.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch))

    def body(carry, inputs):
        loss, accuracy, model_state, grads = carry
        part, part_key = inputs
        (part_loss, (model_state, part_accuracy)), part_grads = gradient(trainable, model_state, part, part_key)
        total = jax.tree.map(jnp.add, grads, part_grads)
        return (loss + part_loss, accuracy + part_accuracy, dict(model_state), total), None

    zeros = jax.tree.map(jnp.zeros_like, trainable)
    start = (jnp.zeros(()), jnp.zeros(()), model_state, zeros)
    return jax.lax.scan(body, start, (split, jax.random.split(key, parts)))[0]


def _update(optimizer, state, grads, trainable, frozen):
    # multi_transform wants the whole tree; the zeros of frozen leaves are constants that the compiler drops.
    whole = unflatten({**grads, **{path: jnp.zeros_like(leaf) for path, leaf in frozen.items()}})
    updates, opt_state = optimizer.update(whole, state.opt_state, state.params)
    updates = flatten(updates)
    # Frozen leaves are handed on, not added to: even p + 0 could change a bit (-0.0), and would cost a copy.
    moved = {path: (leaf + updates[path]).astype(leaf.dtype) for path, leaf in trainable.items()}
    return unflatten({path: moved.get(path, frozen.get(path)) for path in flatten(state.params)}), opt_state


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = labels if labels.ndim == 1 else labels.argmax(-1)
    return (logits.argmax(-1) == targets).astype(jnp.float32)


def _sum(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else jax.lax.psum(x, axis_name)
