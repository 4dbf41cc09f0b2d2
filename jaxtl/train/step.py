"""One step of training: a pure function from (state, batch) to (state, scalars)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxtl.compress.pruning import with_zeros
from jaxtl.errors import UserError
from jaxtl.finetune.param_groups import partition
from jaxtl.train import ema, loss_scaling
from jaxtl.train.gradients import Objective, gradients, sam_perturb
from jaxtl.train.losses import Loss, softmax_cross_entropy
from jaxtl.train.penalties import Penalty
from jaxtl.train.state import Batch, Leaves, Scalars, TrainState
from jaxtl.trees import flatten, nest


@dataclass(frozen=True)
class StepOptions:
    """How a step is taken, beyond plain descent; every default is "off", but for the weight of auxiliary heads.

    Attributes:
      clip_norm: the largest global norm of the trainable gradients; 0 for no clipping.
      accumulate: number of equal parts the batch is split into, one after another, to save memory.
      sam_rho: radius of sharpness-aware minimisation (https://arxiv.org/abs/2010.01412), at twice the cost; 0 for none.
      skip_nonfinite: whether a gradient that is not finite leaves all but the step count and the scaling as they were;
        with loss scaling it always does.
      ema_decay: of the moving average in state.ema.
      ema_since: path -> the step at which a parameter began to train; 0 where absent.
      auxiliary_weight: weight of the loss of each auxiliary output, where the model has some; None for what the model
        states (see `jaxtl.models.base.auxiliary_weight`).
      several_labels: whether an image has several labels, or none: "accuracy" is then the share of images whose labels
        are all right; else the label of an image is the largest of its [C].
      pruned: paths of kernels whose zeros are pruned weights (see `jaxtl.compress.pruning`): their averages are zero.
    """

    clip_norm: float = 0.0
    accumulate: int = 1
    sam_rho: float = 0.0
    skip_nonfinite: bool = False
    ema_decay: float = 0.0
    ema_since: Mapping[str, int] | None = None
    auxiliary_weight: float | None = None
    several_labels: bool = False
    pruned: Sequence[str] = ()


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    groups: Mapping[str, str],
    loss_fn: Loss = softmax_cross_entropy,
    prepare: Callable[[Batch, jax.Array], Batch] | None = None,
    penalty: Penalty | None = None,
    options: StepOptions = StepOptions(),
    axis_name: str | None = None,
) -> tuple[TrainState, Scalars]:
    """Takes one optimizer step on one batch.

    Only the trainable leaves are differentiated and updated, so frozen parameters cost no backward pass whatever is
    done with the gradients (norms, clipping, accumulation), and come out bit for bit as they went in.

    Args:
      state: the state; safe to donate. Its `ema` and `scaling` are kept up where they are not empty.
      batch: "image" [B, H, W, C], "label" [B] or [B, C], and optionally "mask" [B]: how
        much each row counts in the loss, whose mean is over the rows that are not 0.
      model: a Linen module called as model.apply(variables, images, train=True); it returns logits, or (logits,
        {group: auxiliary logits}). The losses of those whose group trains then count `options.auxiliary_weight` each in
        what is differentiated.
      optimizer: from `make_optimizer`, or any optax transformation over the whole tree of parameters.
      groups: path of each parameter -> its group, or "frozen".
      loss_fn: (logits [B, C], labels) -> loss of each example [B].
      prepare: (batch, key) -> batch, run on the device before the model (normalisation, mixup).
      penalty: trainable leaves by path -> scalar, added to the mean loss (see `penalties`).
      options: clipping, accumulation, averages and the like (see `StepOptions`).
      axis_name: the pmap axis to sum over; None under jit, where the batch is already global.

    Returns:
      The next state, and float32 scalars of the global batch: "loss" and "accuracy" (means of the main
      logits, with no part of auxiliary ones), "grad_norm" (before clipping), and where they apply "penalty", "skipped"
      (1 or 0) and "loss_scale".

    Raises:
      UserError: the batch lacks a key.
    """
    _check_keys(batch, "image")
    prepare_key, dropout_key = step_keys(state.rng, state.step, axis_name)
    batch = {"mask": jnp.ones(batch["image"].shape[:1], jnp.float32), **batch}
    if prepare is not None:
        batch = dict(prepare(batch, prepare_key))
    _check_keys(batch, "image", "label")
    trainable, frozen = partition(state.params, groups)
    at = partial(
        gradients,
        frozen=frozen,
        model_state=state.model_state,
        batch=batch,
        key=dropout_key,
        objective=Objective(
            model, groups, loss_fn, penalty, axis_name, options.auxiliary_weight, options.several_labels
        ),
        accumulate=options.accumulate,
        scale=state.scaling.get("scale"),
    )
    grads, model_state, scalars = at(trainable)
    if options.sam_rho:
        grads, _, _ = at(sam_perturb(trainable, grads, options.sam_rho))

    norm = optax.tree.norm(grads)
    if options.clip_norm:
        factor = jnp.minimum(1.0, options.clip_norm / jnp.maximum(norm, 1e-16))
        grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    moved, opt_state = _update(optimizer, state, grads, trainable, frozen)
    scalars["grad_norm"] = norm
    next_scaling = state.scaling
    if options.skip_nonfinite or state.scaling:
        # The norm is finite only if every gradient is.
        finite = jnp.isfinite(norm)
        moved, opt_state, model_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (moved, opt_state, model_state),
            (trainable, state.opt_state, dict(state.model_state)),
        )
        scalars["skipped"] = 1.0 - finite
        if state.scaling:
            scalars["loss_scale"] = state.scaling["scale"]
            next_scaling = loss_scaling.update(state.scaling, finite)
    # Frozen leaves are handed on, not added to: even p + 0 could change a bit (-0.0), and would cost a copy.
    params = nest({path: moved.get(path, frozen.get(path)) for path in flatten(state.params)})
    average = state.ema
    if average:
        # Of a skipped step too: the average then takes the old weights once more.
        variables = {"params": params, **model_state}
        since = options.ema_since or {}
        average = ema.update(average, variables, decay=options.ema_decay, step=state.step, since=since)
        average = with_zeros(average, params, options.pruned)
    return TrainState(state.step + 1, params, model_state, opt_state, state.rng, average, next_scaling), scalars


def step_keys(rng: jax.Array, step: jax.Array | int, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a step: that of `prepare`, and that of dropout and stochastic depth."""
    key = jax.random.fold_in(rng, step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    prepare_key, dropout_key = jax.random.split(key)
    return prepare_key, dropout_key


def _check_keys(batch: Batch, *needed: str) -> None:
    """Raises a UserError if keys are missing; under jit as it is traced, so that no step waits for it."""
    missing = [key for key in needed if key not in batch]
    if missing:
        given = ", ".join(repr(key) for key in batch if key != "mask") or "nothing"
        raise UserError(
            f"a batch lacks {' and '.join(repr(key) for key in missing)}, it holds {given}: it needs 'image' "
            "[B, H, W, C] and 'label' [B] or [B, C], and may have 'mask' [B]."
        )


def _update(
    optimizer: optax.GradientTransformation, state: TrainState, grads: Leaves, trainable: Leaves, frozen: Leaves
) -> tuple[Leaves, optax.OptState]:
    """Returns the trainable leaves after the optimizer's update, and its next state."""
    # multi_transform wants the whole tree; the zeros of frozen leaves are constants that the compiler drops.
    whole = nest({**grads, **{path: jnp.zeros_like(leaf) for path, leaf in frozen.items()}})
    # Rates follow the run's step, not an optimizer's own count, which stops while steps are skipped.
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(whole, state.opt_state, state.params, step=state.step)
    updates = flatten(updates)
    return {path: (leaf + updates[path]).astype(leaf.dtype) for path, leaf in trainable.items()}, opt_state
