"""Opens what predicts: the best checkpoint of a run, an ensemble, an export, or pretrained weights."""

import contextlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.checkpoints.direct import read_best
from jaxtl.compress.quantization import pack
from jaxtl.data.decode import eval_view
from jaxtl.data.normalize import normalize
from jaxtl.deploy.predictor import Predictor
from jaxtl.deploy.programs import Programs
from jaxtl.errors import UserError
from jaxtl.experiment import run_files as files
from jaxtl.experiment.judging import make_judge
from jaxtl.experiment.loaded_model import Model, load_model

BUNDLED = "model.safetensors"
"""The weights in a bundle."""

# What is no place on this machine.
_ADDRESS = re.compile(r"hf:|[a-z]+://")
# Exports that hold a program of another kind, by their endings.
_PROGRAMS = {".onnx": "onnxruntime", ".tflite": "LiteRT"}

ENSEMBLE_STEP = 0
"""What stands for the step of a checkpoint where an ensemble has none."""


@dataclass(frozen=True)
class Decisions:
    """How probabilities are given, and decided by; what the defaults say is the likeliest class by those of the model.

    Attributes:
      calibrated: whether probabilities are calibrated.
      reject_below: the least probability of a class; images whose likeliest has less are of none.
      operating_points: whether operating_points.json of the run decides; its probabilities are calibrated.
    """

    calibrated: bool = False
    reject_below: float | None = None
    operating_points: bool = False

    def __post_init__(self) -> None:
        """Raises a UserError where what is asked for cannot be."""
        least = self.reject_below
        if least is not None and not (isinstance(least, (int, float)) and 0 <= least <= 1):
            raise UserError(f"reject_below is {least!r}, but it must be a probability, from 0 to 1.")


PLAIN = Decisions()


def load_predictor(
    location: str | Path, decisions: Decisions = PLAIN, *, model: str = "", batch_size: int = 32
) -> Predictor:
    """Opens the predictor of a location.

    Args:
      location: the workdir of a run or of an ensemble (with "run:" before it or not), a weight file, an export, a
        folder with a config.json, or an address as `pretrained.open_weights` takes it, such as hf:org/name.
      decisions: how probabilities are given.
      model: the name of the model, for weights that do not say it.
      batch_size: the number of images that are computed at once, at most.

    Raises:
      UserError: there is nothing that predicts, or not what the decisions ask for.
    """
    _check_location(location)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size is {batch_size!r}, but it must be a whole number, 1 or more.")
    text = os.fspath(location)
    workdir = Path(text.removeprefix("run:")).expanduser()
    keep_compiled()
    if files.is_ensemble(workdir):
        return _of_ensemble(workdir, decisions, batch_size)
    if text.startswith("run:") or (workdir / "model.json").exists() or (workdir / "checkpoints").exists():
        return _of_run(workdir, decisions, batch_size)
    try:
        with _weights_file(text, workdir) as file:
            return _of_weights(text, file, decisions, model=model, batch_size=batch_size)
    except UserError as error:
        if workdir.is_dir() and not any(workdir.glob("*.safetensors")):
            raise UserError(f"{error} Or give the --workdir of a run that has trained.") from error
        raise


def _check_location(location: str | Path) -> None:
    """Raises a UserError where a location is no address, and there is nothing, or what another program runs."""
    text = os.fspath(location)
    if _ADDRESS.match(text):
        return
    path = Path(text.removeprefix("run:")).expanduser()
    if not text or not path.exists():
        raise UserError(f"there is no {text!r}: give the workdir of a run, an export, a weight file, or hf:org/name.")
    if path.suffix in _PROGRAMS or (path / "model.xml").exists():
        raise UserError(
            f"{path} is for {_PROGRAMS.get(path.suffix, 'OpenVINO')}, which runs it; `export --verify` does, too. Load "
            "the run, or a bundle of it."
        )


def keep_compiled() -> None:
    """Keeps what takes a tenth of a second and more to compile for later processes.

    The place is $JAX_COMPILATION_CACHE_DIR, else ~/.cache/jaxtl/compiled, if that can be written to.
    """
    # JAX keeps nothing below a second, unless it is told to; a small network's program for one image takes half of one.
    if jax.config.jax_persistent_cache_min_compile_time_secs == 1.0:  # type: ignore[attr-defined]
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    folder = os.path.expanduser("~/.cache/jaxtl/compiled")
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", folder)


def _of_run(workdir: Path, decisions: Decisions, batch_size: int) -> Predictor:
    model = load_model(files.read_json(workdir / "model.json"))
    step, variables = read_best(workdir)
    files.note_unfinished(workdir, f"step {step}")
    judge = make_judge(workdir, model.classes, step, **vars(decisions))
    facts = {"location": str(workdir), "model": model.name, "step": step}
    return make_predictor(f"{model.name} of {workdir}, step {step}", model, variables, judge, batch_size, facts)


def make_predictor(
    name: str, model: Model, variables: Any, judge: Any, batch_size: int, facts: dict[str, Any]
) -> Predictor:
    """Returns the predictor of one network.

    Args:
      name: what it is, in words.
      model: with its classes and pixels.
      variables: of the model.
      judge: what is said of logits.
      batch_size: the number of images that are computed at once, at most.
      facts: plain values that describe it.
    """
    if form := model.module.quantized:  # The devices hold few bits, and each call makes numbers of them.
        variables = pack(variables, form, model.module.precise_kernels())
    backbone, variables = model.module.clone(num_classes=0), jax.device_put(variables)

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return jnp.asarray(model.module.apply(variables, normalize(images, model.pixels), train=False))

    def features(variables: Any, images: jax.Array) -> jax.Array:
        return jnp.asarray(backbone.apply(variables, normalize(images, model.pixels), train=False))

    return Predictor(
        name,
        judge,
        partial(eval_view, pixels=model.pixels),
        Programs(logits, variables, batch_size),
        Programs(features, variables, batch_size),
        pixels=(model.pixels,),
        facts=facts,
    )


@contextlib.contextmanager
def _weights_file(location: str, path: Path) -> Iterator[str]:
    """Yields where the weights of a location lie, for so long: those of a bundle in it, or taken out of a zipped one.

    Raises:
      UserError: it is zipped, and no such bundle, or damaged.
    """
    if (path / "bundle.json").exists():
        yield str(path / BUNDLED)  # By jaxtl itself: it does not need the program that lies beside it.
        return
    if path.suffix != ".zip" or not path.is_file():
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="jaxtl-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                taken = archive.extract(BUNDLED, folder)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no bundle that `export --format=bundle` wrote, or damaged: {error}.") from None
        yield taken


def _of_weights(location: str, file: str, decisions: Decisions, *, model: str, batch_size: int) -> Predictor:
    from jaxtl.experiment import loaded_weights  # Whoever predicts with a run does without.

    if decisions.operating_points:
        raise UserError(f"operating points belong to a run, and {location} is none: load the run.")
    opened, variables, said = loaded_weights.open_weights_to_predict(file, model=model)
    judge = loaded_weights.make_judge(
        location, opened.classes, said, calibrated=decisions.calibrated, reject_below=decisions.reject_below
    )
    facts = {"location": location, "model": opened.name, "step": None}
    return make_predictor(f"{opened.name} of {location}", opened, variables, judge, batch_size, facts)


def _of_ensemble(workdir: Path, decisions: Decisions, batch_size: int) -> Predictor:
    from jaxtl.experiment.ensemble_files import read_ensemble

    ensemble = read_ensemble(workdir)
    judge = make_judge(workdir, ensemble.classes, ENSEMBLE_STEP, **vars(decisions))

    def of_views(variables: Any, packed: jax.Array) -> jax.Array:
        return jnp.moveaxis(ensemble.apply(variables, packed), 1, 0)

    def combine(found: np.ndarray) -> np.ndarray:
        """Makes of the logits of all models and views [B, M, V, C] those of the ensemble [B, C]."""
        return ensemble.combination(np.moveaxis(found, 1, 0).mean(2))

    backbones = replace(ensemble, networks=[each.backbone() for each in ensemble.networks])
    members = [jax.device_put(network.variables) for network in ensemble.networks]
    return Predictor(
        f"the ensemble of {workdir}",
        judge,
        ensemble.view,
        Programs(of_views, members, batch_size),
        Programs(backbones.features, members, batch_size),
        combine=combine,
        pixels=ensemble.view.pixels,
        facts={"location": str(workdir), "model": files.read_json(workdir / "model.json")["model"], "step": None},
    )
