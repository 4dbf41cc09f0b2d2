"""Writes a fine-tuned model for PyTorch users: as transformers or timm would have saved it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.errors import UserError
from jaxtl.models import build, families, find_family
from jaxtl.models.base import Family, GroupedModel, image_channels
from jaxtl.models.key_mapping import KeyMapping
from jaxtl.preprocessing import INTERPOLATIONS, Pixels
from jaxtl.pretrained import rename
from jaxtl.pretrained.native import write_safetensors
from jaxtl.trees import flatten


def save_huggingface(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
) -> None:
    """Writes a folder that transformers' AutoModelForImageClassification.from_pretrained opens.

    Args:
      path: the folder to write config.json, preprocessor_config.json and model.safetensors into.
      variables: {"params": ..., "batch_stats": ... if any}.
      model: the name the model was built by.
      pixels: its pixel facts.
      classes: its class names.
      epsilon: of its normalisations, if the name does not say.

    Raises:
      UserError: transformers has no such model.
    """
    leaves = flatten(variables)
    module = _module(leaves, model, pixels, epsilon)
    channels = image_channels(module, leaves)
    for family in _families_of(module):
        config = family.to_config(module, channels=channels) if hasattr(family, "to_config") else None
        if config is None:
            continue
        key_mappings = [
            key_mapping for key_mapping in family.KEY_MAPPINGS if key_mapping.prefixes[0] == f"{config['model_type']}."
        ]
        arrays = _first_complete(leaves, key_mappings)
        arrays |= family.extras(module) if hasattr(family, "extras") else {}
        labels = classes or [f"LABEL_{i}" for i in range(module.num_classes)]
        config |= {
            "id2label": {str(i): name for i, name in enumerate(labels)},
            "label2id": {name: i for i, name in enumerate(labels)},
            "dtype": "float32",
        }
        _write(Path(path), arrays, {"config.json": config, "preprocessor_config.json": _preprocessor(pixels)})
        return
    raise UserError(f"transformers has no model that computes what {model!r} does; export to another format.")


def save_timm(
    path: str | Path,
    variables: Mapping[str, Any],
    *,
    model: str,
    pixels: Pixels,
    classes: Sequence[str] | None = None,
    epsilon: float | None = None,
) -> None:
    """Writes a folder with model.safetensors in timm's names, and the config.json of timm's hub repositories.

    The arguments are those of `save_huggingface`.

    Raises:
      UserError: timm has no such model.
    """
    leaves = flatten(variables)
    module = _module(leaves, model, pixels, epsilon)
    for family in _families_of(module):
        key_mappings = [
            key_mapping for key_mapping in family.KEY_MAPPINGS if key_mapping.name in ("timm", "torchvision")
        ]
        if not key_mappings or not hasattr(family, "to_timm"):
            continue
        architecture, arguments = family.to_timm(module)
        arrays = _first_complete(leaves, key_mappings)
        count: int = module.num_classes
        facts = {
            "input_size": [image_channels(module, leaves), pixels.size, pixels.size],
            "crop_pct": pixels.size / pixels.resize,
            "interpolation": pixels.interpolation,
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "num_classes": count,
        }
        config = {"architecture": architecture, "num_classes": count, "model_args": arguments, "pretrained_cfg": facts}
        config |= {"label_names": list(classes)} if classes else {}
        _write(Path(path), arrays, {"config.json": config})
        return
    raise UserError(f"timm has no names for {model!r}; export to another format.")


def _module(leaves: Mapping[str, np.ndarray], model: str, pixels: Pixels, epsilon: float | None) -> GroupedModel:
    head = leaves.get(find_family(model).MODEL.head_path)
    if head is None:
        raise UserError(f"the model {model!r} has no head; only classifiers are exported.")
    return build(model, num_classes=head.shape[-1], image_size=pixels.size, epsilon=epsilon)


def _families_of(module: GroupedModel) -> list[Family]:
    return [family for family in families() if family.MODEL is type(module)]


def _first_complete(leaves: Mapping[str, np.ndarray], key_mappings: Sequence[KeyMapping]) -> dict[str, np.ndarray]:
    """Writes the leaves in the first of some key_mappings that has a name for each of them."""
    problems = []
    for key_mapping in key_mappings:
        try:
            arrays = rename.to_source_keys(leaves, key_mapping)
        except ValueError as error:
            problems.append(str(error))
            continue
        # PyTorch counts the batches of each normalisation; with a fixed momentum nobody reads the count.
        counters = [name for name in arrays if name.endswith(".running_var")]
        zero = np.zeros((), np.int64)
        return arrays | {name.replace("running_var", "num_batches_tracked"): zero for name in counters}
    raise UserError("; ".join(problems) + ".")


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


def _write(folder: Path, arrays: Mapping[str, np.ndarray], files: Mapping[str, Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    # transformers refuses a file that does not say that it is for PyTorch.
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
