"""jaxtl from Python: load what predicts, train, evaluate and describe; each is what the command of its name does.

`import jaxtl` gives these four, and imports what they need when they are called.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtl.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jaxtl.deploy.predictor import Predictor

ConfigLike: TypeAlias = "ConfigDict | Mapping[str, Any] | str | os.PathLike[str] | None"
"""A config, the values of one, a recipe ("vit_flowers:ti16"), a file, a config.json, or a run ("run:runs/mine")."""


def load(
    location: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    calibrated: bool = False,
    reject_below: float | None = None,
    operating_points: bool = False,
    model: str = "",
) -> "Predictor":
    """Opens what predicts: predictor("photo.jpg") says what a photograph shows.

    What takes a tenth of a second and more to compile is kept for later processes, in $JAX_COMPILATION_CACHE_DIR or
    ~/.cache/jaxtl/compiled.

    Args:
      location: the workdir of a run or of an ensemble, a file or folder that `export` wrote, a folder with a
        config.json of transformers or timm, a weight file, or an address, such as hf:org/name.
      batch_size: the number of images that are computed at once, at most.
      calibrated: whether probabilities are calibrated.
      reject_below: the least probability of a class; an image whose likeliest class has less is of none.
      operating_points: whether operating_points.json of the run decides.
      model: the name of the model, for weights that do not say it.

    Raises:
      UserError: there is nothing that predicts, or not what is asked for.
    """
    from jaxtl.experiment.loading import Decisions, load_predictor

    decisions = Decisions(calibrated, reject_below, operating_points)
    return load_predictor(os.fspath(location), decisions, model=model, batch_size=batch_size)


def train(config: ConfigLike = None, *, workdir: str | os.PathLike[str], **overrides: Any) -> dict[str, Any]:
    """Trains, or goes on with, the run in a workdir, and evaluates it, as the command does.

    Args:
      config: a ConfigDict; the values of one; a file or recipe, such as "vit_flowers:ti16"; or None for the defaults.
      workdir: where the run goes.
      **overrides: keys of the config, nested, train={"epochs": 3}, or whole, **{"train.epochs": 3}. They are read here
        and nowhere else, and a key that no config has is an error.

    Returns:
      What results.json holds.

    Raises:
      UserError: the config is not sound, or does not fit the data, the weights, or the run that lies there.
    """
    from jaxtl.commands.train import run

    return run(config_of(config, overrides), Path(workdir))


def evaluate(config: ConfigLike = None, *, workdir: str | os.PathLike[str], **overrides: Any) -> dict[str, Any]:
    """Measures weights or a run on a data set, as the command `eval` does.

    Args:
      config: as `train` takes it; "run:runs/mine" is that run, on what it held out unless other data are given.
      workdir: where results.json goes; not that of the run.
      **overrides: as of `train`; data={"source": "folder:others"} measures on other images.

    Returns:
      What results.json holds.

    Raises:
      UserError: as of `train`.
    """
    from jaxtl.commands.eval import run

    return run(config_of(config, overrides), Path(workdir))


def describe(config: ConfigLike = None, *, leaves: bool = False, cost: bool = False, **overrides: Any) -> str:
    """Says what a config would train, without data, as the command does.

    Args:
      config: as `train` takes it.
      leaves: whether every parameter is listed, not only the groups.
      cost: whether the step is compiled to tell what it costs.
      **overrides: as of `train`.

    Returns:
      What the command prints.

    Raises:
      UserError: as of `train`.
    """
    from jaxtl.commands.describe import run

    return run(config_of(config, overrides), leaves=leaves, cost=cost)


def config_of(config: ConfigLike, overrides: Mapping[str, Any]) -> "ConfigDict":
    """Returns a config with overrides put in; what was given is not changed.

    Raises:
      UserError: there are problems with keys or values: all in one message.
    """
    from ml_collections import ConfigDict

    from jaxtl import config as config_lib
    from jaxtl.commands import flags

    texts = {key: _to_text(key, value) for key, value in _whole_keys(overrides)}
    if isinstance(config, ConfigDict):
        return config_lib.override(config.copy_and_resolve_references(), texts)
    if isinstance(config, Mapping):
        return config_of(None, {**dict(_whole_keys(config)), **dict(_whole_keys(overrides))})
    text = "" if config is None else os.fspath(config)
    if text.startswith("run:"):
        text, texts = "", {"model.weights": text, **texts}
    return flags.load_config(argparse.Namespace(config=text), texts)


def _whole_keys(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields "train.epochs" and its value, however it was nested."""
    from jaxtl.config_checks import RULES  # Keys whose values are mappings themselves.

    for section, value in values.items():
        if "." in section or not isinstance(value, Mapping):
            yield section, value
            continue
        for name, each in value.items():
            if isinstance(each, Mapping) and f"{section}.{name}" not in RULES:
                raise UserError(f"{section}.{name} is given as a mapping, {dict(each)!r}: it takes a single value.")
            yield f"{section}.{name}", each


def _to_text(key: str, value: Any) -> str:
    """Writes a value as the command line has it, where all of them are read."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return repr(tuple(value))
    if value is None:
        raise UserError(f"{key} is None: leave it out to have its default.")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return repr(value.item() if hasattr(value, "item") else dict(value) if isinstance(value, Mapping) else value)
