"""From a config to its model: weights opened, name resolved, module built, variables filled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxtl import data, models, preprocessing, pretrained
from jaxtl.errors import UserError
from jaxtl.experiment import workdir as files
from jaxtl.experiment.loaded_model import Model as Model
from jaxtl.experiment.loaded_model import load_model as load_model
from jaxtl.models.head import asked_fields

T = TypeVar("T")

# What an untrained model sees: there is no fact to keep, so pixels are brought to [-1, 1].
_HALF = (0.5, 0.5, 0.5)


def open_both(config: ConfigDict) -> tuple[pretrained.Weights | None, data.Source]:
    """Opens weights and data, and names what is wrong with either in one error."""
    problems: list[UserError] = []
    more: list[str] = []
    opened = attempt(lambda: open_weights(config), problems)
    source = attempt(lambda: data.open_source(config.data.source, data_dir=config.data.data_dir), problems)
    if problems:
        remote = ("tfds:", "hf:", "https:", "gs:")
        if config.data.source.startswith(remote) or weights_location(config).startswith(remote):
            more += [
                "With local files: --config.data.source=folder:DIR --config.model.weights=FILE.safetensors",
                "With nothing at all: --config=configs/vit_flowers.py:demo",
            ]
        raise UserError.join(problems, *more)
    assert source is not None
    return opened, source


def weights_location(config: ConfigDict) -> str:
    """Returns where the weights of a config lie; "" for a start at random.

    Raises:
      UserError: published weights are asked for, but none are known.
    """
    if config.model.weights != "pretrained":
        return str(config.model.weights)
    if config.model.name == "auto":
        raise UserError('model.weights is "pretrained", but model.name is "auto": give the name of a model.')
    return models.published_weights(config.model.name)


def open_weights(config: ConfigDict) -> pretrained.Weights | None:
    """Opens the weights that the config names, and says so if their run is not finished; None for a start at random."""
    location = weights_location(config)
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


def make_model(config: ConfigDict, opened: pretrained.Weights | None, classes: tuple[str, ...]) -> Model:
    """Builds the model for these classes, with the pixel facts of the weights.

    Raises:
      UserError: neither weights nor config say how pixels must be prepared, or "auto" has nothing to go by.
    """
    name = config.model.name
    if opened is not None:
        name = pretrained.resolve_model(opened, name)
    elif name == "auto":
        raise UserError('model.name is "auto", but there are no weights to say what it is: give the name.')
    name = _with_head(config, name, len(classes))
    known = None if opened is None else opened.pixels
    size = config.model.image_size or (known.size if known else models.native_size(name))
    pixels = preprocessing.resolve_pixels(
        known,
        image_size=size,
        resize=config.model.resize,
        mean=config.model.mean or (() if opened else _HALF),
        std=config.model.std or (() if opened else _HALF),
        interpolation=config.model.interpolation,
        origin=weights_location(config),
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


def _with_head(config: ConfigDict, name: str, num_classes: int) -> str:
    """Writes the head that the config asks for into a model name that may have one from its weights."""
    fields = asked_fields(config.model.pool, config.model.head_hidden, config.model.single_logit)
    if not config.model.single_logit and num_classes not in (0, 2):
        fields["single_logit"] = False  # Weights for two classes start a model for more.
    return models.with_fields(name, **fields)


def make_variables(
    config: ConfigDict, opened: pretrained.Weights | None, model: Model, *, head: str
) -> tuple[dict[str, Any], pretrained.LoadReport | None]:
    """Returns the variables to start from and where they come from; `head` is "auto", "keep" or "new"."""
    rng = jax.random.key(config.train.seed)
    if opened is None:
        return pretrained.initialise(model.module, rng, model.pixels.size), None
    return pretrained.load_pretrained(
        opened, model.module, image_size=model.pixels.size, head=head, classes=model.classes, rng=rng
    )


def examine_weights(config: ConfigDict, opened: pretrained.Weights, model: Model) -> pretrained.LoadReport:
    """Returns the report that `make_variables` would give, from the headers and digests of the files alone."""
    return pretrained.examine(
        opened, model.module, image_size=model.pixels.size, head=config.model.head, classes=model.classes
    )


def has_new_head(load_report: pretrained.LoadReport | None, model: Model) -> bool:
    """Tells from the load report whether the head starts anew: it then trains, whatever else does."""
    return load_report is None or model.module.head_path in load_report.initialised


def attempt(make: Callable[[], T], problems: list[UserError]) -> T | None:
    """Returns what it makes, or None and its problem among the others, for all to be told at once."""
    try:
        return make()
    except UserError as error:
        problems.append(error)
        return None
