"""hf: a folder as transformers would have saved it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.deploy.export import Format, Runner
from jaxtl.deploy.export.provenance import Provenance
from jaxtl.deploy.export.torch_names import (
    evaluated_leaves,
    families_of,
    in_first_complete,
    lay_out,
    module_of,
    write_folder,
)
from jaxtl.deploy.export.weights import reopened, weights_alone, with_pixels
from jaxtl.errors import UserError
from jaxtl.models.base import image_channels
from jaxtl.preprocessing import INTERPOLATIONS, Pixels


def save_huggingface(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
) -> str:
    """Writes a folder that transformers' AutoModelForImageClassification.from_pretrained opens.

    Args:
      path: the folder to write config.json, preprocessor_config.json and model.safetensors into.
      variables: {"params": ..., "batch_stats": ... if any}.
      model: the name the model was built by.
      pixels: its pixel facts.
      classes: its class names.
      epsilon: of its normalisations, if the name does not say.
      calibration: what config.json says of its calibration, as plain values.
      provenance: where it comes from, for the metadata of the weights.

    Returns:
      which photographs transformers' own processor crops otherwise than jaxtl does.

    Raises:
      UserError: transformers has no such model.
    """
    arrays, config = lay_out("hf", variables, model=model, pixels=pixels, epsilon=epsilon)
    config |= _labels(classes) if classes else {}
    config |= {} if calibration is None else {"calibration": dict(calibration)}
    # By this, transformers' pipeline gives sigmoids.
    config |= {"problem_type": "multi_label_classification"} if (calibration or {}).get("sigmoid") else {}
    written = {"config.json": config, "preprocessor_config.json": _preprocessor(pixels)}
    write_folder(Path(path), arrays, written, provenance)
    return _crop_note(pixels)


def lay_out_huggingface(
    leaves: Mapping[str, np.ndarray], *, model: str, pixels: Pixels, epsilon: float | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the config.json, with numbers for class names.

    Raises:
      UserError: transformers has no such model.
    """
    module = module_of(leaves, model, pixels, epsilon)
    channels = image_channels(module, leaves)
    for family in families_of(module):
        config = family.to_config(module, channels=channels) if hasattr(family, "to_config") else None
        if config is None:
            continue
        key_mappings = [
            key_mapping for key_mapping in family.KEY_MAPPINGS if key_mapping.prefixes[0] == f"{config['model_type']}."
        ]
        arrays = in_first_complete(evaluated_leaves(module, leaves), key_mappings)
        arrays |= family.extras(module) if hasattr(family, "extras") else {}
        numbered = _labels([f"LABEL_{i}" for i in range(module.num_classes)])
        return arrays, {**config, **numbered, "dtype": "float32"}
    raise UserError(f"transformers has no model that computes what {model!r} does.")


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }


def _crop_note(pixels: Pixels) -> str:
    """Says where the crop of transformers' processors, none of which rounds, lies beside that of evaluation.

    With a margin of 2k + 1 pixels the centre lies between two. Torchvision, timm and jaxtl round k + 1/2 to the even
    one of its neighbours, and transformers takes k: another pixel where k is odd.
    """
    where = f"where a side of the resized photograph is 3, 7, 11, ... pixels over {pixels.size}, as one in four is"
    if (pixels.resize - pixels.size) % 4 == 3:
        where = f"of any photograph, since its shorter side is {pixels.resize - pixels.size} pixels over {pixels.size}"
    return (
        f"transformers' processor crops one pixel further to the left or the top than jaxtl {where}; all others get "
        'the same pixels with backend="pil" (its torchvision backend resizes a little otherwise)'
    )


def _preprocessor(pixels: Pixels) -> dict[str, Any]:
    # Of transformers' processors, this one resizes the shorter side and crops the centre, whatever the model.
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": pixels.resize},
        "resample": INTERPOLATIONS[pixels.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": pixels.size, "width": pixels.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }


def _run(path: Path) -> Runner:
    """Opens an export in transformers, or where PyTorch is not installed, in jaxtl."""
    try:
        import torch
    except ModuleNotFoundError:
        return reopened(path)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    module = transformers.AutoModelForImageClassification.from_pretrained(path).eval()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
            return found

    return Runner(f"transformers {transformers.__version__} on PyTorch {torch.__version__}", with_pixels(logits, path))


FORMAT = Format(
    "hf",
    "a folder for transformers",
    weights_alone(save_huggingface),
    library="transformers",
    run=_run,
    lay_out=lay_out_huggingface,
)
