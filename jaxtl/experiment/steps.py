"""From a config to the parts of a step: its loss, what prepares a batch, and its options."""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtl.data.normalize import normalize
from jaxtl.errors import UserError
from jaxtl.experiment import setup
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import Stage
from jaxtl.parallel.partitioner import Partitioner
from jaxtl.parallel.scanned_layers import unstack_layers
from jaxtl.profiling.cost import Cost, model_gflop, reference_cost
from jaxtl.train import ema, loss_scaling
from jaxtl.train.losses import Loss, balanced_weights, make_loss, softmax_cross_entropy
from jaxtl.train.mixing import mix
from jaxtl.train.penalties import make_penalty
from jaxtl.train.scanned_state import first_by_scanned, scanned_state, with_scanned
from jaxtl.train.state import TrainState, with_params
from jaxtl.train.step import StepOptions, train_step
from jaxtl.train.storage_dtype import cast, rounded_leaves, with_cast_frozen
from jaxtl.trees import flatten, nest

T = TypeVar("T")


def make_step(
    config: ConfigDict,
    model: setup.Model,
    plan: Plan,
    stage: Stage,
    *,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    module: Any = None,
    cached: bool = False,
) -> functools.partial[tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the train step of a stage: (state, batch) -> (state, scalars).

    Args:
      config: the config.
      model: with its pixel facts.
      plan: of the run.
      stage: one of its stages.
      optimizer: of the stage.
      loss: from `choose_loss`.
      module: what to apply; the model's own by default.
      cached: whether batches hold features, which are neither normalised nor mixed.
    """
    augment = config.augment

    def prepare(batch, key):
        batch = {**batch, "image": normalize(batch["image"], model.pixels)}
        return mix(batch, key, mixup_alpha=augment.mixup, cutmix_alpha=augment.cutmix, num_classes=len(model.classes))

    penalty = make_penalty(stage.labels, plan.assignment, l1=config.finetune.l1, l2=config.finetune.l2)
    return functools.partial(
        train_step,
        model=module or model.module,
        optimizer=optimizer,
        groups=first_by_scanned(stage.labels, plan.scanned),
        loss_fn=loss,
        prepare=None if cached else prepare,
        penalty=penalty and (lambda leaves: penalty(flatten(unstack_layers(nest(leaves))))),
        options=StepOptions(
            clip_norm=config.optimizer.clip_norm,
            accumulate=config.train.accumulate,
            sam_rho=config.optimizer.sam_rho,
            skip_nonfinite=config.train.skip_nonfinite,
            ema_decay=config.train.ema_decay,
            ema_since=first_by_scanned(stage.since, plan.scanned),
        ),
    )


def make_state(
    config: ConfigDict, variables: Mapping[str, Any], stage: Stage, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state that a stage would start from if it were the first."""
    average = ema.trained_leaves(variables, stage.labels) if config.train.ema_decay else None
    loss_scale = config.train.loss_scale or (loss_scaling.FLOAT16_SCALE if config.train.precision == "float16" else 0.0)
    return TrainState.create(
        variables, optimizer, jax.random.key(config.train.seed), ema=average, loss_scale=loss_scale
    )


def abstract_step(
    config: ConfigDict, model: setup.Model, plan: Plan, stage: Stage, shapes: Mapping[str, Any]
) -> tuple[functools.partial[tuple[TrainState, dict[str, jax.Array]]], TrainState]:
    """Returns the step of a stage and the shapes of the state that it takes, from those of the variables."""
    optimizer = plan.make_optimizer(stage)
    # Class weights need data to count, and cost nothing.
    step = make_step(config, model, plan, stage, optimizer=optimizer, loss=softmax_cross_entropy)
    return step, abstract_state(config, model, plan, stage, shapes, optimizer)


def abstract_state(
    config: ConfigDict,
    model: setup.Model,
    plan: Plan,
    stage: Stage,
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Returns the shapes of the state that the step of a stage takes: one copy, as it lies on the devices."""
    to_cast = cast_paths(config, model, plan, variables)

    def begin(tree):
        state = with_params(make_state(config, tree, stage, optimizer), lambda params: cast(params, to_cast))
        return scanned_state(state, plan.scanned)

    return jax.eval_shape(begin, variables)


def place_states(
    config: ConfigDict, model: setup.Model, plan: Plan, variables: dict[str, Any], partitioner: Partitioner
) -> tuple[Partitioner, dict[str, Any]]:
    """Returns the partitioner of a run's states, and its variables, in the memory of the host where states differ.

    Frozen parameters are kept as finetune.frozen_dtype says, and blocks in the stacks of the plan.
    """
    partitioner = with_scanned(partitioner, plan.scanned)
    to_cast = cast_paths(config, model, plan, variables)
    if to_cast or plan.scanned:
        variables = jax.device_get(variables)  # The devices are to hold them once.
    return with_cast_frozen(partitioner, variables["params"], to_cast) if to_cast else partitioner, variables


def cast_paths(config: ConfigDict, model: setup.Model, plan: Plan, variables: Mapping[str, Any]) -> set[str]:
    """Returns the parameters that the devices hold in bfloat16: none unless finetune.frozen_dtype says so."""
    if config.finetune.frozen_dtype == "float32":
        return set()
    image = jax.ShapeDtypeStruct((1, model.pixels.size, model.pixels.size, 3), jnp.float32)
    rounded = rounded_leaves(model.module, variables, image)
    return {path for path in rounded if plan.labels[path] == FROZEN}


def choose_loss(config: ConfigDict, classes: int, labels: np.ndarray) -> Loss:
    """Returns the loss that the config describes.

    Args:
      config: the config.
      classes: number of classes.
      labels: of the training split, to count the classes.

    Raises:
      UserError: there are more or fewer weights than classes, or the loss is no such function.
    """
    text = config.train.class_weights
    weights = None
    if text == "balanced":
        weights = balanced_weights(np.bincount(labels, minlength=classes))
    elif text:
        weights = np.asarray([float(number) for number in text.split(",")], np.float32)
        if len(weights) != classes:
            raise UserError(
                f"train.class_weights has {len(weights)} numbers, but there are {classes} classes: give one a class."
            )
    return make_loss(
        config.train.loss,
        num_classes=classes,
        label_smoothing=config.train.label_smoothing,
        gamma=config.train.focal_gamma,
        weights=weights,
    )


def begin_reference_cost(config: ConfigDict, model: setup.Model, plan: Plan, variables: Any) -> Future[Cost]:
    """Starts counting what evaluation and full fine-tuning would cost, while the compiler works on the step."""
    size = model.pixels.size
    image = jax.ShapeDtypeStruct((config.train.batch_size, size, size, 3), jnp.float32)
    return _begin(reference_cost, model.module, variables, plan.assignment, image)


def begin_step_count(step: functools.partial[Any], state: TrainState, batch: Any) -> Future[float]:
    """Starts counting the GFLOP of a step, which takes a trace of its own, while the compiler works on it."""
    return _begin(model_gflop, step, state, batch)


def _begin(function: Callable[..., T], *arguments: Any) -> Future[T]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxtl-cost")
    future = pool.submit(function, *arguments)
    pool.shutdown(wait=False)
    return future


def cost_line(cost: Mapping[str, float], plan: Plan, stage: Stage) -> str:
    """Returns the cost of a stage's step beside that of full fine-tuning and of evaluation, in one line."""
    trained = plan.count(stage.since)
    frozen = plan.counts["total"] - trained
    return (
        f"{trained:,} parameters train, {frozen:,} are frozen; a step takes {_short(cost['step_gflop'])} GFLOP "
        f"(training everything {_short(cost['full_gflop'])}, forward alone {_short(cost['forward_gflop'])}), "
        f"{cost['optimizer_bytes'] / 2**20:.3g} MiB for the optimizer and {cost['temp_bytes'] / 2**20:.3g} MiB of "
        f"temporary buffers ({_short(cost['peak_bytes'] / 2**20)} MiB in all on each device)"
    )


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"
