"""A model from a weight file, an export or the hub, for prediction: it keeps its head, its pixels and its classes."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax

from jaxtl import models, pretrained
from jaxtl.deploy.judge import Judge, LabelJudge
from jaxtl.errors import UserError
from jaxtl.evaluate.scaling import Scaling
from jaxtl.experiment.loaded_model import Model


def open_weights_to_predict(location: str, *, model: str = "") -> tuple[Model, dict[str, Any], Mapping[str, Any]]:
    """Opens weights with all that prediction needs.

    Args:
      location: as `pretrained.open_weights` takes it.
      model: the name of the model, where the weights do not say it.

    Returns:
      The model, its variables, and what the export of a run says of its logits: of calibration, sigmoids, thresholds.

    Raises:
      UserError: they cannot be opened, do not say which model they hold, or how its pixels are prepared.
    """
    opened = pretrained.open_weights(location, model=model)
    name = pretrained.resolve_model(opened, model or "auto")
    if opened.pixels is None:
        raise UserError(
            f"{location} does not say how pixels are prepared for it: put its preprocessor_config.json beside it, or "
            "fine-tune it first, and load the run."
        )
    classes = opened.classes or tuple(map(str, range(opened.num_classes)))
    if classes and not opened.classes:
        print(f"note: {location} names no classes: they are called 0 to {len(classes) - 1}", file=sys.stderr)
    size = opened.pixels.size
    module = models.build(name, num_classes=len(classes), image_size=size)
    variables, _ = pretrained.load_pretrained(
        opened, module, image_size=size, head="keep" if classes else "new", classes=classes, rng=jax.random.key(0)
    )
    return Model(name, module, classes, opened.pixels, opened.epsilon), variables, _said_of_logits(opened)


def make_judge(
    location: str, classes: tuple[str, ...], said: Mapping[str, Any], *, calibrated: bool, reject_below: float | None
) -> Judge | LabelJudge:
    """Returns what turns logits of an export into lines, by what it says of them.

    Raises:
      UserError: calibrated probabilities are asked for, and it says nothing of them.
    """
    if said.get("several_labels"):
        if calibrated or reject_below is not None:
            raise UserError(f"the images of {location} have several labels: there is no calibration, and no rejection.")
        cuts = said.get("thresholds", {})
        return LabelJudge(classes, [float(cuts.get(name, 0.5)) for name in classes])
    sigmoid, folded = bool(said.get("sigmoid")), bool(said.get("folded_into_weights"))
    scaling: Scaling | None = None
    if calibrated and not folded:
        try:
            scaling = Scaling.from_json(said)
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{location} says nothing of calibration, which is fitted on the validation images of a run: load the "
                "run, or an export of it, or do without."
            ) from None
    return Judge(classes, sigmoid, scaling, reject_below, folded=folded)


def _said_of_logits(opened: pretrained.Weights) -> Mapping[str, Any]:
    """Returns what the export of a run says under "calibration"; {} of other weights."""
    text = opened.arrays.metadata.get("jaxtl")
    beside = opened.files[0].parent / "config.json" if opened.files else None
    if text is None and beside is not None and beside.exists():
        text = beside.read_text(encoding="utf-8")
    found = json.loads(text or "{}").get("calibration")
    return found if isinstance(found, dict) else {}
