"""From a config to the parts that a command works with."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtl import data, models, pretrained
from jaxtl.data.normalize import normalize
from jaxtl.errors import UserError
from jaxtl.evaluate.accumulate import accumulate_batches, eval_step
from jaxtl.experiment import workdir as files
from jaxtl.models.base import GroupedModel
from jaxtl.parallel.partitioner import Partitioner, make_partitioner
from jaxtl.preprocessing import Pixels, resolve_pixels
from jaxtl.train.losses import Loss, make_loss

T = TypeVar("T")

# What an untrained model sees: there is no fact to keep, so pixels are brought to [-1, 1].
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Model:
    """A model with what must stay with it.

    Attributes:
      name: as `models.build` takes it.
      module: the Linen module, built for the classes and the image size.
      classes: the class names, in the order of the logits.
      pixels: how its images must be prepared.
      epsilon: of its normalisations.
    """

    name: str
    module: GroupedModel
    classes: tuple[str, ...]
    pixels: Pixels
    epsilon: float | None

    def facts(self) -> dict[str, Any]:
        """Gives what model.json and exported files hold."""
        return pretrained.native_facts(
            self.name,
            num_classes=len(self.classes),
            epsilon=self.epsilon,
            pixels=self.pixels,
            classes=self.classes,
        )


def partitioner_for(config: ConfigDict, name: str = "") -> Partitioner:
    """Returns the partitioner that the config describes, or that of its mesh under another name."""
    return make_partitioner(
        name or config.train.parallel, mesh=dict(config.train.mesh), rules=dict(config.train.sharding)
    )


def open_both(config: ConfigDict) -> tuple[pretrained.Weights | None, data.Source]:
    """Opens weights and data, and names what is wrong with either in one error."""
    problems: list[str] = []
    opened = attempt(lambda: open_weights(config), problems)
    source = attempt(lambda: data.open_source(config.data.source, data_dir=config.data.data_dir), problems)
    if problems:
        remote = ("tfds:", "hf:", "https:", "gs:")
        if config.data.source.startswith(remote) or config.model.weights.startswith(remote):
            problems += [
                "With local files: --config.data.source=folder:DIR --config.model.weights=FILE.safetensors",
                "With nothing at all: --config=configs/vit_flowers.py:demo",
            ]
        raise UserError("\n".join(problems))
    assert source is not None
    return opened, source


def open_weights(config: ConfigDict) -> pretrained.Weights | None:
    """Opens the weights that the config names, and says so if their run is not finished; None for a start at random."""
    location = config.model.weights
    if not location:
        return None
    model = "" if config.model.name == "auto" else config.model.name
    try:
        opened = pretrained.open_weights(location, model=model)
    except pretrained.UnknownArchitecture as error:
        raise UserError(error.advise("--config.model.name=")) from None
    if location.startswith("run:"):
        files.note_unfinished(Path(location.removeprefix("run:")), opened.revision)
    return opened


def try_weights(config: ConfigDict) -> pretrained.Weights | None:
    """Opens the weights if they are at hand, for what does not depend on them."""
    try:
        return open_weights(config)
    except UserError:
        if config.model.name == "auto":
            raise
        return None


def make_model(config: ConfigDict, opened: pretrained.Weights | None, classes: tuple[str, ...]) -> Model:
    """Builds the model for these classes, with the pixel facts of the weights.

    Raises:
      UserError: neither weights nor config say how pixels must be prepared, or "auto" has nothing to go by.
    """
    name = config.model.name
    if name == "auto" and (opened is None or not opened.model):
        raise UserError('model.name is "auto", but the weights do not say what they are: give the name.')
    name = name if opened is None else pretrained.resolve_model(opened, name)
    known = None if opened is None else opened.pixels
    size = config.model.image_size or (known.size if known else models.native_size(name))
    pixels = resolve_pixels(
        known,
        image_size=size,
        resize=config.model.resize,
        mean=config.model.mean or (() if opened else _HALF),
        std=config.model.std or (() if opened else _HALF),
        interpolation=config.model.interpolation,
        origin=config.model.weights,
    )
    module = models.build(
        name,
        num_classes=len(classes),
        image_size=size,
        options=models.ModelOptions(
            dtype=jnp.dtype(config.train.precision),
            dropout=config.model.dropout,
            drop_path=config.model.drop_path,
            remat=config.model.remat,
            scan=config.model.scan,
            attention=config.model.attention,
        ),
    )
    return Model(name, module, classes, pixels, getattr(module, "epsilon", None))


def load_model(facts: Mapping[str, Any], *, dtype: Any = jnp.float32) -> Model:
    """Builds the model that a run's model.json describes."""
    pixels = Pixels.from_json(facts["pixels"])
    classes = tuple(facts["classes"])
    module = models.build(
        facts["model"],
        num_classes=len(classes),
        image_size=pixels.size,
        options=models.ModelOptions(dtype=dtype),
        epsilon=facts["epsilon"],
    )
    return Model(facts["model"], module, classes, pixels, facts["epsilon"])


def variables_for(
    config: ConfigDict, opened: pretrained.Weights | None, model: Model
) -> tuple[dict[str, Any], pretrained.LoadReport | None]:
    """Returns the variables to start from, and the account of where they come from."""
    rng = jax.random.key(config.train.seed)
    if opened is None:
        return pretrained.initialise(model.module, rng, model.pixels.size), None
    return pretrained.load_pretrained(
        opened,
        model.module,
        image_size=model.pixels.size,
        head=config.model.head,
        classes=model.classes,
        rng=rng,
    )


def has_new_head(load_report: pretrained.LoadReport | None, model: Model) -> bool:
    """Tells from the account of the weights whether the head starts anew: it then trains, whatever else does."""
    return load_report is None or model.module.head_path in load_report.initialised


def examine(config: ConfigDict, opened: pretrained.Weights, model: Model) -> pretrained.LoadReport:
    """Returns the account that `variables_for` would give, from the headers and digests of the files alone."""
    return pretrained.examine(
        opened, model.module, image_size=model.pixels.size, head=config.model.head, classes=model.classes
    )


def evaluation_loss(config: ConfigDict, num_classes: int) -> Loss:
    """Returns the loss that evaluations report: of the kind that trains, without smoothing and class weights."""
    if config.train.loss == "softmax":
        return optax.softmax_cross_entropy_with_integer_labels
    return make_loss(config.train.loss, num_classes=num_classes, gamma=config.train.focal_gamma)


def compile_evaluation(
    model: Model, variables: Any, partitioner: Partitioner, batch_size: int, loss: Loss
) -> Callable[..., dict[str, np.ndarray]]:
    """Compiles the evaluation; returns (variables on the devices, data set, stop=never) -> accumulators."""
    step = functools.partial(
        eval_step,
        model=model.module,
        loss_fn=loss,
        prepare=lambda batch: {**batch, "image": normalize(batch["image"], model.pixels)},
    )
    compiled = partitioner.compile(step, variables, partitioner.shard_batch(dummy_batch(model.pixels.size, batch_size)))
    view = functools.partial(data.eval_view, pixels=model.pixels)

    def evaluate(variables, dataset, stop=lambda: False):
        shard = (jax.process_index(), jax.process_count())
        batches = data.eval_batches(dataset, batch_size=batch_size, view=view, shard=shard)
        return accumulate_batches(
            lambda *arguments: partitioner.gather(compiled(*arguments)),
            variables,
            map(partitioner.shard_batch, batches),
            stop=stop,
        )

    return evaluate


def dummy_batch(size: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns this host's rows of an empty batch, of the shapes that the data give."""
    rows = batch_size // jax.process_count()
    return {
        "image": np.zeros((rows, size, size, 3), np.uint8),
        "label": np.zeros(rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }


def global_batch_shapes(dummy: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the batch of which each host holds such rows."""
    hosts = jax.process_count()
    return {key: jax.ShapeDtypeStruct((hosts * len(x), *x.shape[1:]), x.dtype) for key, x in dummy.items()}


def check_devices(batch_size: int, partitioner: Partitioner, key: str) -> None:
    """Raises a UserError unless the batch can be shared out evenly."""
    if batch_size % partitioner.devices:
        near = -(-batch_size // partitioner.devices) * partitioner.devices
        raise UserError(
            f"{key} is {batch_size}, which cannot be shared out evenly over {partitioner.devices} devices: "
            f"give a multiple of {partitioner.devices}, such as {near}."
        )


def attempt(make: Callable[[], T], problems: list[str]) -> T | None:
    """Returns what it makes, or None and its problem among the others, for all to be told at once."""
    try:
        return make()
    except UserError as error:
        problems.append(str(error))
        return None
