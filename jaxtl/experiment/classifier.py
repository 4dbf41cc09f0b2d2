"""What predicts image files: the best checkpoint of a run, or an ensemble."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import data
from jaxtl.compress.quantization import pack
from jaxtl.data.loader import EvalView
from jaxtl.data.normalize import normalize
from jaxtl.experiment import workdir as files
from jaxtl.experiment.build import build_run
from jaxtl.experiment.ensemble_files import read_ensemble

ENSEMBLE_STEP = 0
"""What stands for the step of a checkpoint where an ensemble has none."""


@dataclass(frozen=True)
class Classifier:
    """What predicts.

    Attributes:
      classes: the names of the C classes.
      step: of the checkpoint, or ENSEMBLE_STEP.
      view: an RGB image -> what `logits` takes of it, uint8.
      logits: views of B images -> their logits [B, C].
    """

    classes: tuple[str, ...]
    step: int
    view: EvalView
    logits: Callable[[np.ndarray], np.ndarray]


def open_classifier(workdir: Path) -> Classifier:
    """Opens what predicts in a workdir.

    Raises:
      UserError: there is none.
    """
    if files.is_ensemble(workdir):
        ensemble = read_ensemble(workdir)
        return Classifier(ensemble.classes, ENSEMBLE_STEP, ensemble.view, ensemble)
    model, variables, step = build_run(workdir)
    if form := model.module.quantized:  # The devices hold few bits, and each call makes numbers of them.
        variables = pack(variables, form, model.module.precise_kernels())

    @jax.jit
    def logits(images: jax.Array) -> jax.Array:
        return jnp.asarray(model.module.apply(variables, normalize(images, model.pixels), train=False))

    view = partial(data.eval_view, pixels=model.pixels)
    return Classifier(model.classes, step, view, lambda images: np.asarray(logits(images)))
