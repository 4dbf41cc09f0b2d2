"""The parts of a step that an experiment describes: step, state, and what they cost."""

import dataclasses
import functools
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.experiment import options
from jaxtl.experiment.build import Experiment
from jaxtl.experiment.training_plan import Plan
from jaxtl.finetune.param_groups import FROZEN
from jaxtl.finetune.stages import Stage
from jaxtl.parallel.background import in_background
from jaxtl.parallel.scanned_layers import unstack_layers
from jaxtl.profiling.cost import Cost, model_gflop, reference_cost, step_cost
from jaxtl.train import ema, loss_scaling
from jaxtl.train.mixing import mix
from jaxtl.train.penalties import make_penalty
from jaxtl.train.scanned_state import first_by_scanned, scanned_state, with_scanned
from jaxtl.train.state import TrainState, with_params
from jaxtl.train.step import step_keys, train_step
from jaxtl.train.storage_dtype import cast, rounded_leaves, with_cast_frozen
from jaxtl.trees import flatten, nest

Step = functools.partial[tuple[TrainState, dict[str, jax.Array]]]  # (state, batch) -> (state, scalars)


def make_step(
    experiment: Experiment,
    stage: Stage,
    optimizer: optax.GradientTransformation,
    *,
    module: Any = None,
    cached: bool = False,
) -> Step:
    """Returns the train step of a stage: (state, batch) -> (state, scalars).

    Args:
      experiment: with the plan that the stage is of.
      stage: one of its stages.
      optimizer: of the stage.
      module: what to apply; the model's own by default.
      cached: whether batches hold features, which are neither normalised nor mixed.
    """
    config, model, plan = experiment.config, experiment.model, experiment.plan

    def prepare(batch: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
        return _mixed(experiment, model.normalize(batch), key)

    penalty = make_penalty(stage.labels, plan.assignment, l1=config.finetune.l1, l2=config.finetune.l2)
    return functools.partial(
        train_step,
        model=module or model.module,
        optimizer=optimizer,
        groups=first_by_scanned(stage.labels, plan.scanned),
        loss_fn=experiment.loss,
        prepare=None if cached else prepare,
        penalty=penalty and (lambda leaves: penalty(flatten(unstack_layers(nest(leaves))))),
        options=dataclasses.replace(
            options.step(config, first_by_scanned(stage.since, plan.scanned)),
            several_labels=experiment.several,
            pruned=tuple(plan.pruning.paths) if plan.pruning else (),
        ),
    )


def mix_images(experiment: Experiment, batch: Mapping[str, jax.Array], *, step: int) -> Mapping[str, jax.Array]:
    """Returns a global batch, "image" float [B, S, S, C], mixed with the draws of a step under jit."""
    key, _ = step_keys(jax.random.key(experiment.config.train.seed), step)
    return _mixed(experiment, batch, key)


def _mixed(experiment: Experiment, batch: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
    augment, classes = experiment.config.augment, len(experiment.model.classes)
    return mix(batch, key, mixup_alpha=augment.mixup, cutmix_alpha=augment.cutmix, num_classes=classes)


def make_state(
    experiment: Experiment, stage: Stage, optimizer: optax.GradientTransformation, variables: Any = None
) -> TrainState:
    """Returns the state that a stage would start from if it were the first, of the experiment's variables or others."""
    train = experiment.config.train
    variables = experiment.variables if variables is None else variables
    average = ema.trained_leaves(variables, stage.labels) if train.ema_decay else None
    loss_scale = train.loss_scale or (loss_scaling.FLOAT16_SCALE if train.precision == "float16" else 0.0)
    return TrainState.create(variables, optimizer, jax.random.key(train.seed), ema=average, loss_scale=loss_scale)


def abstract_step(experiment: Experiment, stage: Stage) -> tuple[Step, TrainState]:
    """Returns the step of a stage and the shapes of the state that it takes."""
    optimizer = experiment.plan.make_optimizer(stage)
    return make_step(experiment, stage, optimizer), abstract_state(experiment, stage, optimizer)


def abstract_state(experiment: Experiment, stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the shapes of the state that the step of a stage takes: one copy, as it lies on the devices."""
    to_cast = _cast_paths(experiment)

    def begin(tree: Any) -> TrainState:
        state = make_state(experiment, stage, optimizer, tree)
        return scanned_state(with_params(state, lambda params: cast(params, to_cast)), experiment.plan.scanned)

    return jax.eval_shape(begin, experiment.variables)


def shard_states(experiment: Experiment) -> Experiment:
    """Returns the experiment with the partitioner of its states, and its variables on the host where states differ.

    Frozen parameters are kept as finetune.frozen_dtype says, and blocks in the stacks of the plan.
    """
    partitioner = with_scanned(experiment.partitioner, experiment.plan.scanned)
    variables, to_cast = experiment.variables, _cast_paths(experiment)
    if to_cast or experiment.plan.scanned:
        variables = jax.device_get(variables)  # The devices are to hold them once.
    if to_cast:
        partitioner = with_cast_frozen(partitioner, variables["params"], to_cast)
    partitioner.check(variables)
    return dataclasses.replace(experiment, partitioner=partitioner, variables=variables)


def _cast_paths(experiment: Experiment) -> set[str]:
    """Returns the parameters that the devices hold in bfloat16: none unless finetune.frozen_dtype says so."""
    if experiment.config.finetune.frozen_dtype == "float32":
        return set()
    model, labels = experiment.model, experiment.plan.labels
    image = jax.ShapeDtypeStruct((1, model.pixels.size, model.pixels.size, 3), jnp.float32)
    return {path for path in rounded_leaves(model.module, experiment.variables, image) if labels[path] == FROZEN}


def dummy_batch(size: int, batch_size: int, *, several: int = 0) -> dict[str, np.ndarray]:
    """Returns this host's rows of an empty batch of images [B, size, size, 3], of the shapes that the data give.

    Args:
      size: the side of an image.
      batch_size: rows of the global batch.
      several: the number of classes, where an image has several labels; 0 where it has one.
    """
    rows = batch_size // jax.process_count()
    return {
        "image": np.zeros((rows, size, size, 3), np.uint8),
        "label": np.zeros((rows, several), np.float32) if several else np.zeros(rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }


def dummy_of(experiment: Experiment, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the dummy batch of an experiment's images and labels."""
    several = len(experiment.model.classes) if experiment.several else 0
    return dummy_batch(experiment.model.pixels.size, batch_size, several=several)


def global_batch_shapes(dummy: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the batch of which each host holds such rows."""
    hosts = jax.process_count()
    return {key: jax.ShapeDtypeStruct((hosts * len(x), *x.shape[1:]), x.dtype) for key, x in dummy.items()}


def begin_reference_cost(experiment: Experiment) -> Future[Cost]:
    """Starts counting what evaluation and full fine-tuning would cost, while the compiler works on the step."""
    model, size = experiment.model, experiment.model.pixels.size
    image = jax.ShapeDtypeStruct((experiment.config.train.batch_size, size, size, 3), jnp.float32)
    return in_background(reference_cost, model.module, experiment.variables, experiment.plan.assignment, image)


def begin_step_count(step: functools.partial[Any], state: TrainState, batch: Any) -> Future[float]:
    """Starts counting the GFLOP of a step, which takes a trace of its own, while the compiler works on it."""
    return in_background(model_gflop, step, state, batch)


def stage_cost(experiment: Experiment, stage: Stage) -> str:
    """Compiles the step of a stage for one device, from shapes alone, and tells what it costs, in one line."""
    step, state = abstract_step(experiment, stage)
    dummy = dummy_batch(experiment.model.pixels.size, experiment.config.train.batch_size)
    reference = begin_reference_cost(experiment)
    compiled = jax.jit(step, donate_argnums=0).lower(state, dummy).compile()
    return cost_line(step_cost(step, compiled, state, dummy) | reference.result(), experiment.plan, stage)


def cost_line(cost: Mapping[str, float], plan: Plan, stage: Stage) -> str:
    """Returns the cost of a stage's step beside that of full fine-tuning and of evaluation, in one line."""
    trained = plan.count(stage.since)
    frozen = plan.counts["total"] - trained
    return (
        f"{trained:,} parameters train, {frozen:,} are frozen; a step takes {_flop(cost['step_gflop'])} "
        f"(training everything {_flop(cost['full_gflop'])}, forward alone {_flop(cost['forward_gflop'])}), "
        f"{_size(cost['optimizer_bytes'])} for the optimizer and {_size(cost['temp_bytes'])} of temporary buffers "
        f"({_size(cost['peak_bytes'])} in all on each device)"
    )


def _flop(gflop: float) -> str:
    """Returns a number of operations in the unit that makes it a plain number."""
    for factor, unit in ((1.0, "GFLOP"), (1e3, "MFLOP")):
        if gflop * factor >= 1:
            return f"{_short(gflop * factor)} {unit}"
    return f"{_short(gflop * 1e6)} kFLOP"


def _size(count: float) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{_short(count / 2**power)} {unit}"
    return f"{count:.0f} bytes"


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"
