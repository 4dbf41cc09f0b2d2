"""The recipes of compress: what each makes of a run, as the config and the weights that a new run begins with."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import models
from jaxtl.compress.input_norms import NORMS, prune_by_inputs
from jaxtl.compress.pruning import prunable
from jaxtl.compress.quantization import FORMS, RANGES, round_inputs
from jaxtl.compress.refitting import GRAM, add_grams, refit
from jaxtl.compress.structure import choose_widths, cut_units, importance
from jaxtl.errors import UserError
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import Experiment, build, build_run
from jaxtl.experiment.compress_recipe import Recipe
from jaxtl.experiment.members import Member
from jaxtl.experiment.model import Model
from jaxtl.finetune.param_groups import assign
from jaxtl.models.base import GroupedModel
from jaxtl.pretrained import save_native
from jaxtl.profiling.flops import count_flops
from jaxtl.trees import flatten, nest

BEGINNING = "beginning.safetensors"
"""What a run begins with whose network is another than that of the run it was made of."""

_RATE = 0.3  # By which what only has to settle again trains, beside the run it was made of.
_IMAGES = 256  # That inputs are measured on.


def make_config(member: Member, recipe: Recipe, overrides: Mapping[str, str]) -> ConfigDict:
    """Returns the config of the new run, but for a beginning of its own (see `make_beginning`).

    It is that of the old one, with everything training, from its weights and with its head.

    Args:
      member: the old run.
      recipe: what is asked for.
      overrides: key -> value, as on the command line, of the fine-tuning.

    Raises:
      UserError: a key or a value is wrong.
    """
    config = copy.deepcopy(member.config)
    config.model.name = str(member.facts["model"])
    config.model.weights, config.model.head, config.model.scan = f"run:{member.workdir}", "keep", False
    config.model.image_size = member.facts["pixels"]["size"]
    config.finetune.update(unfreeze="all", stages=(), cache_features="off", head_start="zeros", frozen_dtype="float32")
    config.train.steps = 0
    config.train.check_learning_rate = False  # A loss that is low already falls at no rate.
    # A run that trains nothing keeps a length, which every config has.
    config.train.epochs = recipe.epochs or (config.train.epochs if config.train.epochs != 0 else 1.0)
    if recipe.name in ("prune", "2:4"):
        sparsity, pattern = (recipe.sparsity, "") if recipe.name == "prune" else (0.5, "2:4")
        # What is zero in the beginning already is what goes.
        scope = "global" if recipe.scope == "unit" else recipe.scope
        config.prune.update(sparsity=sparsity, pattern=pattern, ramp=recipe.ramp, scope=scope)
    elif config.prune.sparsity:
        config.prune.ramp = 0.0  # What is zero already stays so.
    # Whatever the run's own schedule is: it ends at a rate of zero.
    config.optimizer.schedule = "cosine"
    if recipe.name != "structure" and config.optimizer.learning_rate != "auto":
        config.optimizer.learning_rate *= _RATE
    if recipe.name in FORMS:
        config.model.name = models.with_fields(config.model.name, quantized=recipe.name)
    return config_lib.override(config, overrides)


def needs_beginning(recipe: Recipe) -> bool:
    """Tells whether the new run begins with other weights than the old one's, or with more."""
    return recipe.name in ("structure", "w8a8") or (recipe.name in ("prune", "2:4") and recipe.scope == "unit")


def make_beginning(config: ConfigDict, member: Member, recipe: Recipe, folder: Path) -> ConfigDict:
    """Writes BEGINNING, the weights that the new run begins with; returns the config that begins with them.

    Args:
      config: from `make_config`.
      member: the old run.
      recipe: what is asked for.
      folder: of the new run.

    Raises:
      UserError: the network has no units that may go, or not so many; or data cannot be opened.
    """
    model, variables, _ = build_run(member.workdir)
    config = copy.deepcopy(config)
    if recipe.name == "structure" and not model.module.removable():
        raise UserError(
            f"{model.name} has no units that can go: those that have are ViTs and DeiTs, ResNets but for ResNeXts, and "
            "the ResNets for CIFAR. prune and the recipes of few bits take any model."
        )
    if recipe.name == "structure":
        squares = _measure(member, config, NORMS, add_grams)[NORMS]
        config.model.name, variables = shrink(model, variables, squares, recipe.flops)
    elif recipe.name == "w8a8":
        variables = {**variables, **_measure(member, config, RANGES, round_inputs)}
    else:
        squares = _measure(member, config, NORMS, add_grams)[NORMS]
        groups = assign(variables["params"], model.module.groups())
        shapes = {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}
        paths = prunable(shapes, groups, model.module.first_layer.removeprefix("params/"))
        given = config.prune
        pruned = prune_by_inputs(variables["params"], squares, paths, given.sparsity, given.pattern)
        pruned = _refitted(variables["params"], pruned, squares, paths)
        variables = {**variables, "params": pruned}
    path = folder / BEGINNING
    save_native(
        path,
        jax.device_get(variables),
        model=config.model.name,
        pixels=model.pixels,
        classes=model.classes,
        epsilon=model.epsilon,
    )
    config.model.weights = str(path)
    return config


def begun_config(config: ConfigDict, recipe: Recipe, folder: Path) -> ConfigDict:
    """Returns the config that begins with the BEGINNING that lies there already: a run that goes on keeps its own.

    Made again, on another device, it would differ by its rounding, and no run goes on with other weights.

    Args:
      config: from `make_config`.
      recipe: what is asked for.
      folder: of the run that goes on.
    """
    config = copy.deepcopy(config)
    if recipe.name == "structure":  # How many units stayed was chosen by what was measured.
        config.model.name = files.run_config(folder).model.name
    config.model.weights = str(folder / BEGINNING)
    return config


def _refitted(params: Any, pruned: Any, sums: Any, paths: Sequence[str]) -> dict[str, Any]:
    """Returns pruned parameters whose weights that stay are fitted to what the layers gave, where that is known."""
    leaves, whole, known = flatten(pruned), flatten(params), flatten(sums)
    print(f"fits      what stays of {len(paths)} layers to what they gave", flush=True)
    for path in paths:
        gram = known.get(path.removesuffix("kernel") + GRAM)
        if gram is not None:
            shape, rows = whole[path].shape, (-1, whole[path].shape[-1])
            kernel, mask = jnp.asarray(whole[path]).reshape(rows), (leaves[path] != 0).reshape(rows)
            leaves[path] = refit(kernel, mask, jnp.asarray(gram)).reshape(shape)
    return nest(leaves)


def shrink(
    model: Model, variables: Mapping[str, Any], squares: Mapping[str, Any], share: float
) -> tuple[str, dict[str, Any]]:
    """Takes units out of a network that has some to spare, until its evaluation takes that share fewer FLOPs.

    Args:
      model: of the network.
      variables: of it, nested.
      squares: sums of squared inputs of its layers, and of their products where they are known, nested.
      share: of the FLOPs.

    Returns:
      The name of the smaller model, and its variables.

    Raises:
      UserError: so many units cannot go.
    """
    layers, leaves = model.module.removable(), flatten(variables)
    scores = {units.name: importance(units, leaves, flatten(squares)) for units in layers}
    build_as = partial(_rebuilt, model)
    try:
        fields = choose_widths(layers, scores, lambda fields: forward_flops(build_as(fields)), share)
    except ValueError as error:
        raise UserError(f"--flops={share:g} of {model.name} cannot go: {error}.") from None
    return models.with_fields(model.name, **fields), nest(
        cut_units(leaves, layers, scores, fields, sums=flatten(squares))
    )


def _rebuilt(model: Model, fields: Mapping[str, Any]) -> GroupedModel:
    module: GroupedModel = model.module.clone(**fields)
    return module


def forward_flops(module: GroupedModel) -> int:
    """Returns the FLOPs of the evaluation of one image."""
    image = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)
    return count_flops(partial(_evaluate, module), shapes, image)


def _evaluate(module: GroupedModel, variables: Any, images: jax.Array) -> Any:
    return module.apply(variables, images, train=False)


def _measure(member: Member, config: ConfigDict, collection: str, intercept: Callable[..., Any]) -> dict[str, Any]:
    """Returns what an interceptor gathers in a collection, over training images as evaluation sees them."""
    plain = copy.deepcopy(config)
    plain.model.name, plain.model.weights = str(member.facts["model"]), f"run:{member.workdir}"
    plain.prune.update(sparsity=0.0, pattern="", ramp=0.0)
    experiment = build(plain)

    @jax.jit
    def step(variables: Any, images: jax.Array) -> Any:
        with nn.intercept_methods(intercept):
            return experiment.model.module.apply(variables, images, train=False, mutable=[collection])[1]

    found: dict[str, Any] = {}
    for batch in _batches(experiment):
        images = experiment.model.normalize(batch)["image"]
        found = dict(step({**experiment.variables, **found}, images))
    return found


def _batches(experiment: Experiment) -> list[Mapping[str, jax.Array]]:
    dataset = experiment.splits.train
    size = min(32, len(dataset))
    batches = options.plain_train_batches(experiment.config, experiment.model.pixels, dataset, size)
    try:
        return [
            {key: jnp.asarray(value) for key, value in next(batches).items()}
            for _ in range(max(min(len(dataset), _IMAGES) // size, 1))
        ]
    finally:
        batches.close()
